"""Perplexity by both protocols against plain loops over transformers' own models and tokenizers."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from family_cases import family_folder
from tokenizer_cases import with_prefix
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from abq_core.evaluation.perplexity import evaluate
from abq_core.models.loading import load_model
from abq_core.models.reference import BUILTIN_FOLDER
from abq_core.text.paper import paper_segments
from abq_core.text.segments import evaluation_segments

SEQ_LEN = 64
BOS = 290  # of the tiny tokenizer and of the built-in one
MakeFolder = Callable[[str, tuple[int, ...]], Path]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines as in WikiText-2's file: a heading, paragraphs, and blank lines that hold a space."""
    path = tmp_path_factory.mktemp("text") / "wiki.txt"
    lines = [" = The module = \n", " \n", " The module provides functions to read and write files . \n"] * 12
    path.write_text("".join(f"{line[:-1]}{number} \n" if line.strip() else line for number, line in enumerate(lines)))
    return path


@pytest.fixture(scope="module")
def model_folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeFolder:
    """Makes the folder of a model whose tokenizer puts `prefix` in front of a text."""
    made: dict[tuple[str, tuple[int, ...]], Path] = {}

    def make(case: str, prefix: tuple[int, ...]) -> Path:
        if (case, prefix) not in made:
            folder = tmp_path_factory.mktemp(case)
            plain = BUILTIN_FOLDER if case == "builtin" else family_folder(case, folder / "plain", tiny_llama)
            made[case, prefix] = with_prefix(plain, folder / "model", prefix)
        return made[case, prefix]

    return make


def plain_paper_loop(folder: Path, path: Path, seq_len: int) -> float:
    """The evaluation of GPTQ's script."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with path.open(encoding="utf-8") as file:
        rows = [line if line.strip() else "" for line in file]
    ids = tokenizer("\n\n".join(rows), return_tensors="pt").input_ids
    samples = ids.numel() // seq_len
    losses = []
    with torch.no_grad():
        for i in range(samples):
            batch = ids[:, i * seq_len : (i + 1) * seq_len]
            logits = model(batch).logits[:, :-1]
            loss = torch.nn.CrossEntropyLoss()(logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))
            losses.append(loss.float() * seq_len)
    return math.exp(torch.stack(losses).sum().item() / (samples * seq_len))


def plain_windows_loop(folder: Path, path: Path, seq_len: int) -> float:
    """Every window of the text after what the tokenizer puts in front of a text, which is not scored."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = path.read_text("utf-8")
    plain, ids = (tokenizer(text, add_special_tokens=add, return_tensors="pt").input_ids for add in (False, True))
    added = ids.shape[1] - plain.shape[1]
    body, losses = seq_len - added, []
    with torch.no_grad():
        for start in range(0, plain.shape[1] // body * body, body):
            window = torch.cat([ids[:, :added], plain[:, start : start + body]], dim=1)
            log_p = torch.log_softmax(model(window).logits[0, :-1], -1).gather(1, window[0, 1:, None])
            losses.append(-log_p[max(added - 1, 0) :].mean().item())
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("prefix", [(), (BOS,), (BOS, 7)], ids=["plain", "bos", "two tokens"])
@pytest.mark.parametrize("case", ["builtin", "gemma3_text", "qwen3"])
def test_perplexity_equals_a_plain_loop(
    case: str, prefix: tuple[int, ...], model_folder: MakeFolder, text_file: Path
) -> None:
    folder = model_folder(case, prefix)
    model = load_model(str(folder))
    ids, record = paper_segments(str(text_file), model.tokenizer, SEQ_LEN, "whole")
    assert ids[0, : len(prefix)].tolist() == list(prefix) and (record.prefix, record.protocol) == (prefix, "paper")
    assert record.text_tokens == len(ids) * SEQ_LEN - len(prefix)
    scores = evaluate(model, None, ids, unscored=record.unscored)
    assert scores.perplexity == pytest.approx(plain_paper_loop(folder, text_file, SEQ_LEN), rel=1e-5)

    ids, record = evaluation_segments(str(text_file), model.tokenizer, None, SEQ_LEN, 0, "whole")
    assert ids[:, : len(prefix)].tolist() == [list(prefix)] * len(ids)
    assert record.text_tokens == len(ids) * (SEQ_LEN - len(prefix))
    scores = evaluate(model, None, ids, unscored=record.unscored)
    assert scores.perplexity == pytest.approx(plain_windows_loop(folder, text_file, SEQ_LEN), rel=1e-5)


def test_bos_changes_the_perplexity_of_both_protocols(model_folder: MakeFolder, text_file: Path) -> None:
    for loop in (plain_paper_loop, plain_windows_loop):
        values = [loop(model_folder("qwen3", prefix), text_file, SEQ_LEN) for prefix in ((), (BOS,))]
        assert values[0] != pytest.approx(values[1], rel=1e-5)
