"""lm-eval's view of a model: special tokens, and generation settings."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizer_cases import with_prefix

pytest.importorskip("lm_eval", reason="the extra `tasks` is not installed")

from abq_core.evaluation.task_errors import TaskError
from abq_core.evaluation.task_model import TaskModel
from abq_core.inference.generate import greedy_continuation
from abq_core.models.loading import LoadedModel, load_model
from abq_core.models.tokenizer import load_tokenizer


@pytest.fixture
def base(tiny_llama: Path) -> LoadedModel:
    loaded = load_model(str(tiny_llama))
    return LoadedModel(loaded.ref, loaded.model, copy.deepcopy(loaded.tokenizer), loaded.precision)


def test_texts_without_context_start_with_the_first_special_token(base: LoadedModel) -> None:
    assert (TaskModel(base).prefix_token_id, TaskModel(base).eot_token_id) == (0, 0)
    base.tokenizer.bos_token = "a"
    prefix = base.tokenizer.convert_tokens_to_ids("a")
    assert (TaskModel(base).prefix_token_id, TaskModel(base).eot_token_id) == (prefix, 0)
    base.tokenizer.eos_token = None
    assert TaskModel(base).eot_token_id == prefix
    base.tokenizer.bos_token = None
    with pytest.raises(TaskError, match="neither a beginning-of-text nor an end-of-text token"):
        _ = TaskModel(base).prefix_token_id


def test_generation_stops_at_a_stop_string_and_reports_progress(base: LoadedModel) -> None:
    steps: list[tuple[int, int]] = []
    model = TaskModel(base, lambda done, total: steps.append((done, total)))
    prompt = "def open(path): return"
    whole = greedy_continuation(base, model.tok_encode(prompt), 8, [])
    requests = [
        SimpleNamespace(args=(prompt, {"max_gen_toks": 8})),
        SimpleNamespace(args=(prompt, {"max_gen_toks": 8, "until": whole[2:4]})),
        SimpleNamespace(args=("x " * 300, {})),  # longer than the context: its start is dropped
    ]
    first, second, third = model.generate_until(requests)
    assert first == whole and second == whole[: whole.find(whole[2:4])] and isinstance(third, str)
    assert steps == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(TaskError, match="do_sample"):
        model.generate_until([SimpleNamespace(args=(prompt, {"do_sample": True}))])


def test_a_whole_text_is_scored_after_the_beginning_of_text_token(
    base: LoadedModel, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = with_prefix(tiny_llama, tmp_path / "model", [299])
    tokenizer = load_tokenizer(folder)
    tokenizer.bos_token_id = 299
    model = LoadedModel(base.ref, base.model, tokenizer, base.precision)
    text = "The module provides functions to read files."
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert ids[0, 0] == 299
    log_p = torch.log_softmax(base.model(ids).logits[0, :-1].double(), -1)
    expected = log_p.gather(1, ids[0, 1:, None]).sum().item()
    assert TaskModel(model).loglikelihood_rolling([SimpleNamespace(args=(text,))]) == [
        pytest.approx(expected, rel=1e-5)
    ]
    both = TaskModel(model).loglikelihood([SimpleNamespace(args=(text[:19], text[19:]))])[0][0]
    context = len(tokenizer(text[:19])["input_ids"])
    assert both == pytest.approx(log_p.gather(1, ids[0, 1:, None])[context - 1 :].sum().item(), rel=1e-5)
