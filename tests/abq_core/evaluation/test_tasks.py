"""Tasks run by lm-eval on a tiny model.

Scores against a direct computation, both engines, refused templates.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_cases import FakeHub, make_task_data, serve_hub

from abq_core.evaluation.likelihood import log_likelihoods
from abq_core.evaluation.task_errors import TaskDataError, TaskError, TaskFileError, TasksNotInstalledError
from abq_core.evaluation.task_loading import NAMED_TASKS
from abq_core.evaluation.task_score import TaskScore
from abq_core.evaluation.tasks import check_tasks, run_tasks
from abq_core.inference.runtime import rounded_model
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision

pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")

QUESTIONS = [
    {
        "question": f"What does function {i} of the module do?",
        "choices": ["read", "write a file", "return"],
        "gold": i % 3,
    }
    for i in range(8)
]
CHOICE = {
    "task": "reading",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "gold",
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
    "metadata": {"version": 2.0},
}


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedModel:
    return load_model(str(tiny_llama))


@pytest.fixture(autouse=True)
def separate_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return write(tmp_path / "reading.yaml", CHOICE)


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config))
    return path


def only(scores: Iterator[TaskScore]) -> TaskScore:
    (score,) = scores
    return score


def by_hand(model: LoadedModel) -> dict[str, float]:
    """acc and acc_norm from the definition: the likeliest answer, and the likeliest one per character."""
    hits, hits_norm = 0, 0
    for question in QUESTIONS:
        context = f"Question: {question['question']}\nAnswer:"
        read = model.tokenizer(context)["input_ids"]
        scores = []
        for choice in question["choices"]:
            whole = model.tokenizer(f"{context} {choice}")["input_ids"]
            assert whole[: len(read)] == read
            scores.append(log_likelihoods(model, [(read, whole[len(read) :])])[0][0])
        per_character = [score / len(choice) for score, choice in zip(scores, question["choices"], strict=True)]
        hits += scores.index(max(scores)) == question["gold"]
        hits_norm += per_character.index(max(per_character)) == question["gold"]
    return {"acc": hits / len(QUESTIONS), "acc_norm": hits_norm / len(QUESTIONS)}


@pytest.mark.parametrize("engine", ["full", "simulated", "packed"])
def test_the_score_of_a_task_file_equals_a_direct_count(base: LoadedModel, task_file: Path, engine: Any) -> None:
    model = base if engine == "full" else rounded_model(base, Precision.parse("W4A8"), engine)
    seen: list[tuple[str, int, int]] = []
    score = only(run_tasks(model, [str(task_file)], on_step=lambda *step: seen.append(step)))
    assert score.metrics == pytest.approx(by_hand(model))
    for name, value in score.metrics.items():
        assert score.stderr[name] == pytest.approx(math.sqrt(value * (1 - value) / (8 - 1)))
    assert (score.task, score.headline, score.samples, score.of, score.shots) == ("reading", "acc", 8, 8, 0)
    assert score.version == "2.0" and score.source.startswith("sha256 ")
    assert seen[-1] == ("reading", 24, 24)


def test_a_limit_selects_the_first_questions(base: LoadedModel, task_file: Path) -> None:
    score = only(run_tasks(base, [str(task_file)], limit=3))
    assert (score.samples, score.of) == (3, 8)


def test_rolling_and_generating_tasks_run(base: LoadedModel, tmp_path: Path) -> None:
    text = "The module provides functions to read and write files. " * 12  # several windows of the context
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": text, "question": "def open(path):"}) + "\n" * 2)
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "texts.jsonl"}}, "test_split": "test"}
    rolling = write(
        tmp_path / "rolling.yaml",
        {
            **data, "task": "rolling", "output_type": "loglikelihood_rolling", "doc_to_text": "",
            "doc_to_target": "{{text}}", "metric_list": [{"metric": "bits_per_byte"}],
        },
    )  # fmt: skip
    writing = write(
        tmp_path / "writing.yaml",
        {
            **data, "task": "writing", "output_type": "generate_until", "doc_to_text": "question",
            "doc_to_target": "{{text}}", "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 300},
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    )  # fmt: skip
    bits, match = run_tasks(base, [str(rolling), str(writing)])
    ids = base.tokenizer(text)["input_ids"]
    assert len(ids) > base.context
    windows = [ids[i : i + base.context] for i in range(0, len(ids), base.context)]
    before = [[base.tokenizer.bos_token_id], *windows[:-1]]
    total = 0.0
    for context, window in zip(before, windows, strict=True):
        room = max(1, base.context + 1 - len(window))
        total += log_likelihoods(base, [(context[-room:], window)])[0][0]
    assert bits.metrics["bits_per_byte"] == pytest.approx(-total / len(text.encode()) / math.log(2), rel=1e-4)
    assert (match.metrics, match.headline) == ({"exact_match": 0.0}, "exact_match")


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('touch ' ~ canary).read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ question.__class__ }}",
        "{{ '{0.__class__}'.format(question) }}",
    ],
)
def test_templates_run_in_a_sandbox(base: LoadedModel, task_file: Path, tmp_path: Path, template: str) -> None:
    canary = tmp_path / "canary"
    hostile = write(tmp_path / "hostile.yaml", {**CHOICE, "doc_to_text": template.replace("canary", f"'{canary}'")})
    with pytest.raises(TaskError, match=r"'reading' cannot be run: SecurityError"):
        list(run_tasks(base, [str(hostile)]))
    assert not canary.exists()


def test_tasks_that_do_not_fit_their_data_are_named(base: LoadedModel, task_file: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"doc_to_text": "{{absent}}"}, "UndefinedError"),
        ({"doc_to_text": "{{question"}, "TemplateSyntaxError"),
        ({"test_split": "validation"}, "KeyError"),
        ({"output_type": "magic"}, "invalid output_type"),
        ({"doc_to_text": "{{question}} " * 40, "doc_to_choice": ["x " * 300, "y"]}, "longer than the context"),
    ):
        file = write(tmp_path / "wrong.yaml", {**CHOICE, **changes})
        with pytest.raises(TaskError, match=message):
            list(run_tasks(base, [str(file)]))
    (tmp_path / "questions.jsonl").write_text("{not json\n")
    with pytest.raises(TaskError, match="'reading' cannot be run"):
        list(run_tasks(base, [str(task_file)]))


def test_an_exception_of_the_callback_stops_a_task(base: LoadedModel, task_file: Path) -> None:
    def stop(task: str, done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(run_tasks(base, [str(task_file)], on_step=stop))


def test_unknown_and_repeated_tasks_are_refused(task_file: Path, tmp_path: Path) -> None:
    check_tasks([*NAMED_TASKS, str(task_file)])
    with pytest.raises(
        TaskError, match=r"task 'mmlu' does not exist: use piqa, arc_easy, .*, winogrande, or your own \.yaml file"
    ):
        check_tasks(["mmlu"])
    with pytest.raises(TaskError, match="No task was given"):
        check_tasks([])
    with pytest.raises(TaskError, match="'reading' was given twice"):
        check_tasks([str(task_file), str(task_file)])
    with pytest.raises(TaskFileError, match="Give it another name"):
        check_tasks([str(write(tmp_path / "piqa.yaml", {**CHOICE, "task": "piqa"}))])


def test_without_a_network_every_missing_task_is_named(
    base: LoadedModel, task_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets.config

    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # a closed port
    with pytest.raises(TaskDataError, match=r"'piqa' \(baber/piqa\), 'boolq' \(aps/super_glue\) is not .*ConnectError"):
        list(run_tasks(base, ["piqa", str(task_file), "boolq"]))
    assert datasets.config.HF_HUB_OFFLINE == before  # offline mode ended with the search for the data


RUN_NAMED_TASKS = """
import json, sys
from huggingface_hub import constants
from abq_core.models.loading import load_model
from abq_core.evaluation.task_loading import NAMED_TASKS
from abq_core.evaluation.tasks import run_tasks
model = load_model(sys.argv[1])
for offline in (False, True):
    constants.HF_HUB_OFFLINE = offline
    scores = run_tasks(model, list(NAMED_TASKS), limit=3)
    print(json.dumps({score.task: [dict(score.metrics), score.samples, score.of, score.source] for score in scores}))
"""


def test_named_tasks_read_their_data_from_the_hub_and_then_from_the_cache(tiny_llama: Path, tmp_path: Path) -> None:
    hub = FakeHub(make_task_data(tmp_path / "hub"), {"main": "b" * 40})
    with serve_hub(hub) as endpoint:
        environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint}
        command = [sys.executable, "-c", RUN_NAMED_TASKS, str(tiny_llama)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr
    online, offline = (json.loads(line) for line in done.stdout.splitlines())
    assert online == offline and list(online) == list(NAMED_TASKS)
    for name, (metrics, samples, of, source) in online.items():
        normalized = {"acc_norm"} if name not in ("boolq", "winogrande") else set()
        assert metrics.keys() == {"acc"} | normalized
        assert (samples, of) == (3, 4) and source.startswith("lm-eval ")
    assert "Generating" not in done.stderr and "cached version" not in done.stderr


def test_without_lm_eval_the_error_names_the_extra(task_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abq_core.evaluation.task_loading.find_spec", lambda name: None)
    with pytest.raises(TasksNotInstalledError, match=r"pip install 'abq-explorer\[tasks\]'"):
        check_tasks([str(task_file)])
