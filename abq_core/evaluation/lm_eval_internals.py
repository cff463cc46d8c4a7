"""Every part of lm-eval outside its documented API that the project uses, and nothing else.

Checked with lm-eval 0.4.13, the version that pyproject.toml pins. `tests/abq_core/evaluation/test_lm_eval_internals.py`
names the part that an update changed. Imports lm-eval only when called: it is an optional extra.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from jinja2 import BaseLoader, StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from abq_core.evaluation.task_errors import TaskError


def sandbox_templates() -> None:
    """Make lm-eval render templates in Jinja's sandbox.

    Templates then reach only the fields of a question.

    lm-eval renders every template with the module-level `lm_eval.utils.env` and has no option for another environment.
    A hostile template is then rendered to prove that the sandbox is active. Raises TaskError if it is not.
    """
    import lm_eval.utils

    plain = lm_eval.utils.env
    if not isinstance(plain, ImmutableSandboxedEnvironment):
        sandbox = ImmutableSandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=plain.keep_trailing_newline
        )
        sandbox.filters.update(plain.filters)
        lm_eval.utils.env = sandbox
    try:
        lm_eval.utils.apply_template("{{ cycler.__init__.__globals__ }}", {})
    except SecurityError:
        return
    raise TaskError(f"lm-eval {version('lm-eval')} does not render templates in a sandbox. Install lm-eval 0.4.13.")


@contextmanager
def silenced() -> Iterator[None]:
    """Hide progress bars and warnings of lm-eval and `datasets`; errors are still raised.

    lm-eval shows its bar while it builds requests, through the `tqdm` that `lm_eval.api.task` imported, without an
    option to turn it off.
    """
    import datasets
    import lm_eval.api.task

    loggers = [logging.getLogger("lm_eval"), logging.getLogger("datasets")]
    levels = [logger.level for logger in loggers]
    bar, bars_disabled = lm_eval.api.task.tqdm, datasets.are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = lambda items, **_: items
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        lm_eval.api.task.tqdm = bar
        if not bars_disabled:
            datasets.enable_progress_bars()
