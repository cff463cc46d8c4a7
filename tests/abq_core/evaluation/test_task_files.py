"""Task files.

Valid ones, and the refusal of everything that could run code or leave the folder.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from abq_core.evaluation.task_errors import TaskFileError
from abq_core.evaluation.task_files import read_task_file

GOOD: dict[str, Any] = {
    "task": "mine",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "filter_list": [{"name": "short", "filter": [{"function": "regex", "regex_pattern": "a"}]}],
    "fewshot_config": {"sampler": "first_n"},
    "metadata": {"version": 1.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks" / "data").mkdir(parents=True)
    (tmp_path / "secret.jsonl").write_text("{}\n")
    for name in ("questions.jsonl", "data/more.json"):
        (tmp_path / "tasks" / name).write_text('{"question": "q"}\n')
    return tmp_path / "tasks"


def write(folder: Path, content: str | dict[str, Any]) -> Path:
    path = folder / "task.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_plain_file_is_read_with_absolute_data_paths(folder: Path) -> None:
    file = read_task_file(write(folder, GOOD))
    assert (file.name, file.data_set) == ("mine", None)
    assert file.config["dataset_kwargs"] == {"data_files": {"test": [str(folder / "questions.jsonl")]}}
    assert file.config["doc_to_text"] == "{{question}}"
    assert file.sha256 != read_task_file(write(folder, {**GOOD, "description": "x"})).sha256
    several = {**GOOD, "dataset_kwargs": {"data_files": ["questions.jsonl", "data/more.json"]}}
    found = read_task_file(write(folder, several)).config["dataset_kwargs"]["data_files"]
    assert found == {"train": [str(folder / "questions.jsonl"), str(folder / "data/more.json")]}
    hub = {**GOOD, "dataset_path": "org/name", "dataset_kwargs": {"revision": "abc"}, "dataset_name": "part"}
    assert read_task_file(write(folder, hub)).data_set == "org/name"


@pytest.mark.parametrize(
    "tag", ["!function os.system", "!!python/object/apply:os.system [id]", "!!python/name:os.system ''", "!include x"]
)
def test_tags_that_could_run_code_are_refused(folder: Path, tag: str) -> None:
    for text in (f"task: mine\nprocess_docs: {tag}\n", f"task: mine\nmetadata:\n  - a: {tag}\n"):
        with pytest.raises(TaskFileError, match=r"has the tag .*, which can run code"):
            read_task_file(write(folder, text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"include": "../other.yaml"}, "'include'"),
        ({"class": "x.Y"}, "'class'"),
        ({"group": "g"}, "'group'"),
        ({"use_prompt": "promptsource:x"}, "'use_prompt'"),
        ({"unsafe_code": True}, "'unsafe_code'"),
        ({"custom_dataset": "f"}, "'custom_dataset'"),
        ({"process_results": "f"}, "'process_results'"),
        ({"metric_list": [{"metric": "code_eval"}]}, "code_eval"),
        ({"metric_list": [{"metric": "../metric.py"}]}, "metric.py"),
        ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "hf_evaluate"),
        ({"metric_list": "acc"}, "metric_list must be a list"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "custom"}]}]}, "custom"),
        ({"filter_list": [{"name": "x", "filter": "map"}]}, "'map'"),
        ({"fewshot_config": {"sampler": "mine"}}, "must be default or first_n"),
        ({"fewshot_config": {"process_docs": "f"}}, "'process_docs'"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "'trust_remote_code'"),
        ({"dataset_kwargs": {"data_files": "../secret.jsonl"}}, "not in the folder"),
        ({"dataset_kwargs": {"data_files": "data/../../secret.jsonl"}}, "not in the folder"),
        ({"dataset_kwargs": {"data_files": {"test": "/etc/passwd"}}}, "not a .json or .jsonl"),
        ({"dataset_kwargs": {"data_files": "https://example.org/x.jsonl"}}, "not in|does not exist"),
        ({"dataset_kwargs": {"data_files": "hf://datasets/a/b/x.jsonl"}}, "not in|does not exist"),
        ({"dataset_kwargs": {"data_files": "*.jsonl"}}, "does not exist"),
        ({"dataset_kwargs": {"data_files": "link.jsonl"}}, "not in the folder"),
        ({"dataset_kwargs": {"data_files": "absent.jsonl"}}, "does not exist"),
        ({"dataset_kwargs": {}}, "not a .json or .jsonl"),
        ({"dataset_path": "pandas"}, "dataset_path is 'pandas'"),
        ({"dataset_path": "../script.py", "dataset_kwargs": {}}, "dataset_path is"),
        ({"dataset_path": "/tmp/x", "dataset_kwargs": {}}, "dataset_path is"),
        ({"dataset_path": "org/name", "dataset_kwargs": {"data_files": "x"}}, "'data_files'"),
        ({"task": ["a", "b"]}, "one name of letters"),
        ({"task": "../x"}, "one name of letters"),
        ({"task": None}, "one name of letters"),
    ],
)
def test_unknown_keys_and_values_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    (folder / "link.jsonl").symlink_to(folder.parent / "secret.jsonl")
    with pytest.raises(TaskFileError, match=message):
        read_task_file(write(folder, {**GOOD, **changes}))


def test_a_folder_is_not_taken_for_a_hub_data_set(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskFileError, match="dataset_path is 'tasks/data'"):
        read_task_file(write(folder, {**GOOD, "dataset_path": "tasks/data", "dataset_kwargs": {}}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: &a mine\ntag: *a\n", "anchor or alias"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", "anchor or alias"),
        ("[" * 40 + "]" * 40, "nested more than"),
        ("task: [\n", "not valid YAML"),
        ("- task: mine\n", "is not a task"),
        ("1: 2\n", "is not a task"),
        ("", "is not a task"),
    ],
)
def test_yaml_that_is_not_a_task_is_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(TaskFileError, match=message):
        read_task_file(write(folder, text))


def test_files_that_cannot_be_read_are_named(folder: Path) -> None:
    with pytest.raises(TaskFileError, match="does not exist"):
        read_task_file(folder / "absent.yaml")
    (folder / "task.yaml").write_bytes(b"task: \xff")
    with pytest.raises(TaskFileError, match="UTF-8"):
        read_task_file(folder / "task.yaml")
    (folder / "task.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(TaskFileError, match="the limit is"):
        read_task_file(folder / "task.yaml")


@pytest.mark.parametrize(
    "changed",
    [
        "task: mine\ndescription: 2024-99-99\n",
        {**GOOD, "metric_list": [{"metric": ["acc"]}]},
        {**GOOD, "filter_list": [{"name": "a", "filter": [{"function": ["regex"]}]}]},
    ],
)
def test_values_of_the_wrong_type_are_refused(folder: Path, changed: str | dict[str, Any]) -> None:
    with pytest.raises(TaskFileError):
        read_task_file(write(folder, changed))
