"""Failures of the page's functions, as sentences for the visitor. Only unexpected ones write a traceback to the log."""

import logging
from collections.abc import Callable

import gradio as gr
from markupsafe import escape

from abq_core.models.errors import STOPS

EXPECTED = (ValueError, RuntimeError, OSError, MemoryError)  # shown as a sentence, never as a traceback

logger = logging.getLogger(__name__)


def message_of(error: BaseException, function: Callable[..., object]) -> str:
    """The sentence that a visitor sees. An error that is not EXPECTED is logged.

    Raises the error itself if it ends this process or a generator.
    """
    if isinstance(error, STOPS):
        raise error
    if isinstance(error, EXPECTED):
        return str(error)
    logger.error("%s failed.", function.__name__, exc_info=error)
    return f"This failed unexpectedly ({type(error).__name__}); the server's log has the details."


def page_error(message: str) -> gr.Error:
    """The message as a notice on the page, which shows it as HTML."""
    return gr.Error(str(escape(message)), print_exception=False)
