"""Read a user's task file in lm-eval's YAML format without running code from it.

lm-eval would import Python for `!function`, load scripts for unknown metrics, and follow any path. Here a file must be
plain YAML with known keys; its data are JSON files in its folder or a hub data set (data only); its templates are
rendered in a sandbox (`lm_eval_internals.sandbox_templates`).
"""

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from abq_core.evaluation.task_errors import TaskFileError
from abq_core.user_files import read_user_text, user_path

SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 1 << 20
_MAX_DEPTH = 16
_NAME = re.compile(r"[A-Za-z][\w.-]{0,59}")
_DATA_SET = re.compile(r"[\w.-]+/[\w.-]+")
_KEYS = frozenset(
    {
        "dataset_kwargs", "dataset_name", "dataset_path", "description", "doc_to_choice",
        "doc_to_decontamination_query", "doc_to_target", "doc_to_text", "fewshot_config", "fewshot_delimiter",
        "fewshot_split", "filter_list", "gen_prefix", "generation_kwargs", "metadata", "metric_list", "num_fewshot",
        "output_type", "should_decontaminate", "tag", "target_delimiter", "task", "task_alias", "test_split",
        "training_split", "validation_split",
    }
)  # fmt: skip
_FEWSHOT_KEYS = frozenset({"sampler", "split", "samples", "fewshot_indices"})
_METRIC_KEYS = frozenset(
    {"metric", "aggregation", "higher_is_better", "ignore_case", "ignore_punctuation", "ignore_numbers"}
)
_METRICS = frozenset(
    {
        "acc", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "brier_score", "byte_perplexity",
        "exact_match", "f1", "likelihood", "mcc", "perplexity", "word_perplexity",
    }
)  # fmt: skip
_FILTERS = frozenset(
    {
        "lowercase", "majority_vote", "multi_choice_regex", "regex", "regex_pos", "remove_whitespace", "take_first",
        "take_first_k", "uppercase",
    }
)  # fmt: skip


@dataclass(frozen=True)
class TaskFile:
    """A checked task file.

    config: for lm-eval, with absolute paths.  data_set: on the hub; None for local files.
    """

    name: str
    sha256: str
    config: dict[str, Any]
    data_set: str | None


def read_task_file(path: Path) -> TaskFile:
    """Read and check a task file. Raises TaskFileError."""
    path = user_path(path, TaskFileError)
    text = read_user_text(path, _MAX_BYTES, TaskFileError)
    config = _plain_yaml(path, text)
    name = config.get("task")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise TaskFileError(
            f"'{path}' names its task {str(name)[:60]!r}: 'task' must be one name of letters, digits, _ . -"
        )
    _check_keys(path, "the task", config, _KEYS)
    _check_list(path, config, "metric_list", _METRIC_KEYS, {"metric": _METRICS})
    _check_filters(path, config)
    _check_fewshot(path, config)
    data_set = _check_data(path, config)
    return TaskFile(name, hashlib.sha256(text.encode()).hexdigest(), config, data_set)


def _plain_yaml(path: Path, text: str) -> dict[str, Any]:
    """Parse a YAML mapping.

    Refuses tags, which can run code, and aliases, which can expand without limit.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "tag", None) is not None:
                raise TaskFileError(
                    f"'{path}' was refused: it has the tag '{event.tag}', which can run code. Write templates instead "
                    "of functions."
                )
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise TaskFileError(f"'{path}' was refused: it has a YAML anchor or alias. Write the value out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                raise TaskFileError(f"'{path}' was refused: it is nested more than {_MAX_DEPTH} deep.")
        content = yaml.safe_load(text)
    except TaskFileError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise TaskFileError(f"'{path}' is not valid YAML: {' '.join(str(error).split())[:200]}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise TaskFileError(f"'{path}' is not a task: a task file is a mapping with 'task', 'dataset_path' and so on.")
    return content


def _check_keys(path: Path, part: str, content: object, known: frozenset[str]) -> None:
    if not isinstance(content, Mapping):
        raise TaskFileError(f"'{path}': {part} must be a mapping.")
    if unknown := sorted(str(key) for key in content if key not in known):
        raise TaskFileError(
            f"'{path}' was refused: {part} has the unknown key '{unknown[0]}'. Known keys: {', '.join(sorted(known))}."
        )


def _check_list(
    path: Path, config: Mapping[str, Any], key: str, known: frozenset[str], values: Mapping[str, frozenset[str]]
) -> None:
    """Check that the entries of the list `key` have known keys and known values.

    values: the known values of some keys.
    """
    entries = config.get(key, [])
    if not isinstance(entries, list):
        raise TaskFileError(f"'{path}': {key} must be a list.")
    for entry in entries:
        _check_keys(path, key, entry, known)
        for name, allowed in values.items():
            if not _is_one_of(entry.get(name), allowed):
                raise TaskFileError(
                    f"'{path}' was refused: {key} has the {name} {str(entry.get(name))[:60]!r}, and lm-eval would load "
                    f"an unknown one as a script. Use {', '.join(sorted(allowed))}."
                )


def _is_one_of(value: object, allowed: Collection[str]) -> bool:
    return isinstance(value, str) and value in allowed


def _check_filters(path: Path, config: Mapping[str, Any]) -> None:
    _check_list(path, config, "filter_list", frozenset({"name", "filter"}), {})
    for entry in config.get("filter_list", []):
        for step in _sequence(entry.get("filter")):
            if not isinstance(step, Mapping) or not _is_one_of(step.get("function"), _FILTERS):
                raise TaskFileError(
                    f"'{path}' was refused: filter_list has the step {str(step)[:60]!r}; each step needs a 'function', "
                    f"one of {', '.join(sorted(_FILTERS))}."
                )


def _check_fewshot(path: Path, config: Mapping[str, Any]) -> None:
    fewshot = config.get("fewshot_config", {})
    _check_keys(path, "fewshot_config", fewshot, _FEWSHOT_KEYS)
    if fewshot.get("sampler", "default") not in ("default", "first_n"):
        raise TaskFileError(f"'{path}' was refused: the sampler in fewshot_config must be default or first_n.")


def _check_data(path: Path, config: dict[str, Any]) -> str | None:
    """Check where the data comes from.

    Makes local paths absolute and returns None, or returns the hub data set.
    """
    source, options = config.get("dataset_path"), config.get("dataset_kwargs") or {}
    if source == "json":
        _check_keys(path, "dataset_kwargs", options, frozenset({"data_files"}))
        files = options.get("data_files")
        by_split = files if isinstance(files, Mapping) else {"train": files}
        checked = {
            str(split): [_data_file(path, name) for name in _sequence(names)] for split, names in by_split.items()
        }
        config["dataset_kwargs"] = {"data_files": checked}
        return None
    if not isinstance(source, str) or not _DATA_SET.fullmatch(source) or ".." in source or Path(source).exists():
        raise TaskFileError(
            f"'{path}' was refused: its dataset_path is {str(source)[:60]!r}. Use 'json' with dataset_kwargs: "
            "data_files: a .jsonl file in the same folder, or a hub data set such as org/name."
        )
    _check_keys(path, "dataset_kwargs", options, frozenset({"revision"}))
    return source


def _data_file(path: Path, name: object) -> str:
    """The absolute path of a data file in the folder of the task file, or below it."""
    folder = path.parent.resolve()
    if not isinstance(name, str) or Path(name).suffix.lower() not in (".json", ".jsonl"):
        raise TaskFileError(f"'{path}' was refused: its data file {str(name)[:60]!r} is not a .json or .jsonl file.")
    file = (folder / name).resolve()
    if not file.is_relative_to(folder) or "://" in name:
        raise TaskFileError(
            f"'{path}' was refused: its data file {name[:120]!r} is not in the folder of the task file."
        )
    if not file.is_file():
        raise TaskFileError(f"'{path}' needs the data file {name[:120]!r}, which does not exist ('{file}').")
    if any(character in str(file) for character in "*?[]"):
        raise TaskFileError(
            f"'{path}' was refused: '{file}' contains one of * ? [ ], which would match other files too."
        )
    return str(file)


def _sequence(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]
