"""The tokenizer of a folder: its file decides, not the model's family."""

from pathlib import Path

from model_folder_cases import edit_json
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from abq_core.builtin.train import build_model, save
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.models.tokenizer import load_tokenizer


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
