"""Zero-shot tasks, from the command line to the page: run, stored with perplexity, shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from abq_core.evaluation.task_errors import TaskError
from app import formatting
from app.cli.main import main
from app.services import Services
from app.web.tabs.compare.task_scores import task_table
from storage.jobs import Job

pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")

Ask = Callable[..., dict[str, object]]


@pytest.fixture
def task_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two tasks of eight questions."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"q": f"function {i} of the module", "a": ["read", "write a file"], "gold": i % 2} for i in range(8)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    for name, metric_list in (("reading", metrics), ("writing", metrics[:1])):
        task = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
            "output_type": "multiple_choice", "test_split": "test", "doc_to_text": f"{name}: {{{{q}}}}",
            "doc_to_choice": "{{a}}", "doc_to_target": "gold", "metric_list": metric_list,
        }  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return {name: str(tmp_path / f"{name}.yaml") for name in ("reading", "writing")}


@pytest.fixture
def ask(finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json on the data folder of the finished run."""
    monkeypatch.setenv("ABQ_DATA_DIR", str(finished[0].settings.data_dir))
    monkeypatch.setenv("ABQ_THREADS", "1")

    def run(*command: str) -> dict[str, object]:
        code = main([*command, "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return run


def test_tasks_are_run_stored_and_shown(
    finished: tuple[Services, Job],
    ask: Ask,
    task_files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    services, job = finished
    before = services.runs.frame().set_index("run")
    both = ask("eval", job.run_id, "--tasks", f"{task_files['reading']},{task_files['writing']}")
    assert (both["run"], both["precision"], both["engine"]) == (job.run_id, "W4A4", "simulated")
    reading, writing = both["tasks"]
    assert reading["metrics"].keys() == reading["stderr"].keys() == {"acc", "acc_norm"}
    assert (reading["samples"], reading["of"], writing["metrics"].keys()) == (8, 8, {"acc"})
    assert both["task_score"] == pytest.approx((reading["metrics"]["acc"] + writing["metrics"]["acc"]) / 2)
    errors = [task["stderr"]["acc"] for task in (reading, writing)]
    assert both["task_stderr"] == pytest.approx((errors[0] ** 2 + errors[1] ** 2) ** 0.5 / 2)

    again = ask("eval", job.run_id, "--tasks", task_files["writing"], "--limit", "2", "--engine", "packed")
    assert (again["tasks"][0]["samples"], again["tasks"][0]["of"], again["engine"]) == (2, 8, "packed")
    model = Path(str(job.spec["model"]))
    monkeypatch.chdir(model.parent)
    full = ask("eval", f"./{model.name}", "--tasks", task_files["reading"])
    assert (full["precision"], full["method"], full["engine"]) == ("FP16", "none", "full")

    runs = services.runs.frame().set_index("run")
    newest = again["tasks"][0]["metrics"]["acc"]  # the latest score of each task
    assert runs.loc[job.run_id, "task_score"] == pytest.approx((reading["metrics"]["acc"] + newest) / 2)
    assert (runs.loc[job.run_id, "tasks"], runs.loc["", "tasks"]) == (2, 1)
    for name in ("perplexity", "kl_mean", "weight_bytes"):
        assert runs[name].equals(before[name])  # task scores leave the evaluation unchanged

    shown = ask("runs", "show", job.run_id)
    assert [row["task"] for row in shown["task_scores"]] == ["reading", "writing"]
    assert main(["runs", "show", job.run_id]) == 0
    out = capsys.readouterr().out
    assert formatting.percent(reading["metrics"]["acc"]) in out and "2 of 8" in out
    assert main(["runs", "list"]) == 0
    assert "(2)" in capsys.readouterr().out
    page = services.reports.write([job.run_id], tmp_path / "report.html").read_text("utf-8")
    assert "<td>reading</td>" in page and "<td>2 of 8</td>" in page and " (2)</td>" in page
    exported = json.loads((services.runs.export(job.run_id, tmp_path) / "tasks.json").read_text("utf-8"))
    assert [row["task"] for row in exported] == ["reading", "writing"]

    table = task_table(services.tasks.frame(), str(job.spec["model"]))
    assert "reading" in table and "writing" in table and "2 of 8" in table
    assert table.count("<tr") == 3 and formatting.MISSING in table  # full precision has no score of the second task
    assert task_table(services.tasks.frame(), "another model") == ""


def test_a_model_without_perplexity_is_listed_with_its_tasks(
    services: Services, tiny_llama: Path, task_files: dict[str, str]
) -> None:
    (score,) = services.tasks.evaluate(str(tiny_llama), [task_files["reading"]])
    row = services.runs.frame().iloc[0]
    assert (row["run"], row["model"], row["precision"], row["tasks"]) == ("", str(tiny_llama), "FP16", 1)
    assert row["task_score"] == score.metrics["acc"] and row.isna()["perplexity"]
    assert (
        formatting.task_average(row)
        == f"{formatting.task_metric('acc', score.metrics['acc'], score.stderr['acc'])} (1)"
    )


def test_tasks_that_cannot_run_are_refused_in_one_line(
    finished: tuple[Services, Job], ask: Ask, task_files: dict[str, str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    services, job = finished
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text("task: hostile\nprocess_docs: !function os.system\n")
    for tasks, said in (
        ("mmlu", "'mmlu' does not exist"),
        (str(hostile), "can run code"),
        (str(tmp_path / "absent.yaml"), "absent.yaml' does not exist"),
        (f"piqa,{task_files['reading']},winogrande", "'piqa' (baber/piqa), 'winogrande' (allenai/winogrande)"),
    ):
        assert main(["eval", job.run_id, "--tasks", tasks]) == 2
        err = capsys.readouterr().err
        assert said in err and err.startswith("abq: ") and err.count("\n") == 1
    assert main(["eval", job.run_id, "--tasks", task_files["reading"], "--engine", "fast"]) == 2
    assert "simulated or packed" in capsys.readouterr().err
    before = len(services.storage.measurements.task_scores())
    with pytest.raises(TaskError):
        services.tasks.evaluate(job.run_id, [task_files["reading"], "mmlu"])
    assert len(services.storage.measurements.task_scores()) == before  # no task runs if one of them cannot
