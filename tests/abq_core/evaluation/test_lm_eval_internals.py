"""The parts of lm-eval outside its documented API.

Each test names the part that an update changed.
"""

import logging
from importlib.metadata import version

import pytest
from jinja2 import Environment
from jinja2.exceptions import SecurityError

pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")

import datasets
import lm_eval.api.task
import lm_eval.utils
from lm_eval.api.model import TemplateLM

from abq_core.evaluation.lm_eval_internals import sandbox_templates, silenced
from abq_core.evaluation.task_errors import TaskError

CHECKED = f"lm_eval_internals.py was checked with lm-eval 0.4.13, installed is {version('lm-eval')}"


def test_the_parts_exist() -> None:
    assert isinstance(getattr(lm_eval.utils, "env", None), Environment), f"{CHECKED}: lm_eval.utils.env is gone"
    assert callable(getattr(lm_eval.api.task, "tqdm", None)), f"{CHECKED}: lm_eval.api.task has no tqdm"
    assert "_loglikelihood_tokens" in TemplateLM.__abstractmethods__, f"{CHECKED}: TemplateLM has other methods"


def test_templates_are_rendered_in_a_sandbox_with_lm_evals_filters() -> None:
    filters = set(lm_eval.utils.env.filters)
    sandbox_templates()
    first = lm_eval.utils.env
    sandbox_templates()
    assert lm_eval.utils.env is first
    assert lm_eval.utils.apply_template("{{ q | regex_replace('a', 'b') }}\n", {"q": "abc"}) == "bbc\n"
    assert filters <= set(first.filters)
    with pytest.raises(SecurityError):
        lm_eval.utils.apply_template("{{ q.__class__ }}", {"q": "abc"})


def test_a_version_that_ignores_the_sandbox_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval.utils, "apply_template", lambda template, doc: template)
    with pytest.raises(TaskError, match=r"does not render templates in a sandbox.*0\.4\.13"):
        sandbox_templates()


def test_silence_ends_with_the_context() -> None:
    logger, bar = logging.getLogger("lm_eval"), lm_eval.api.task.tqdm
    level, disabled = logger.level, datasets.are_progress_bars_disabled()
    with pytest.raises(ZeroDivisionError), silenced():
        assert list(lm_eval.api.task.tqdm([1, 2], total=2)) == [1, 2]
        assert logger.level == logging.ERROR and datasets.are_progress_bars_disabled()
        raise ZeroDivisionError
    assert (logger.level, lm_eval.api.task.tqdm) == (level, bar)
    assert datasets.are_progress_bars_disabled() == disabled
