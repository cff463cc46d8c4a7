"""The tokenizer of a folder: its file decides, not the model's family."""

from pathlib import Path

import pytest
from model_folder_cases import edit_json
from tokenizer_cases import with_prefix
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from abq_core.builtin.train import build_model, save
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.models.tokenizer import load_tokenizer, text_prefix


def test_a_wrapped_tokenizer_is_read_from_its_file_and_not_chosen_by_the_family(tmp_path: Path) -> None:
    original = PreTrainedTokenizerFast.from_pretrained(BUILTIN_FOLDER)
    save(build_model("qwen2", 0), original, tmp_path)
    text = "def open(path):\n    return 1234\n\n\nThe file's path"
    assert load_model(str(tmp_path)).tokenizer(text)["input_ids"] == original(text)["input_ids"]
    by_family = AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"]
    assert by_family != original(text)["input_ids"], "AutoTokenizer now reads the file: load_tokenizer is not needed"


def test_without_a_declared_class_transformers_chooses(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", lambda c: c.pop("tokenizer_class"))
    text = "The module provides functions."
    assert load_tokenizer(folder)(text)["input_ids"] == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]


@pytest.mark.parametrize(("prefix", "suffix"), [((), ()), ((7,), ()), ((7, 0), ()), ((0,), (7,)), ((), (7,))])
def test_the_prefix_is_what_the_tokenizer_puts_in_front_of_a_text(
    tiny_llama: Path, tmp_path: Path, prefix: tuple[int, ...], suffix: tuple[int, ...]
) -> None:
    tokenizer = load_tokenizer(with_prefix(tiny_llama, tmp_path / "model", prefix, suffix))
    ids = tokenizer("The module provides functions.")["input_ids"]
    assert (tuple(ids[: len(prefix)]), tuple(ids[len(ids) - len(suffix) :])) == (prefix, suffix)
    assert text_prefix(tokenizer) == prefix


def test_the_built_in_tokenizer_adds_nothing() -> None:
    assert text_prefix(load_tokenizer(BUILTIN_FOLDER)) == ()
