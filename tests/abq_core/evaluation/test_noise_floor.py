"""The noise floor against transformers' own model in bfloat16."""

from pathlib import Path

import pytest
import torch
from family_cases import family_folder
from transformers import AutoModelForCausalLM

from abq_core.evaluation import noise_floor as module
from abq_core.evaluation.noise_floor import kl_floor
from abq_core.models.attention.function import ATTENTION
from abq_core.models.loading import load_model

TEXT = torch.randint(1, 300, (6, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("case", ["llama", "gemma3_text", "opt", "qwen3_moe", "falcon"])
def test_it_is_the_distance_of_the_model_loaded_in_bfloat16(case: str, tiny_llama: Path, tmp_path: Path) -> None:
    base = load_model(str(family_folder(case, tmp_path / "model", tiny_llama)))
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    floor = kl_floor(base, TEXT)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16, attn_implementation=ATTENTION)
    with torch.no_grad():
        p, q = (torch.log_softmax(m(TEXT).logits[:, :-1].float(), -1) for m in (base.model, half))
    assert floor == pytest.approx((p.exp() * (p - q)).sum(-1).clamp(min=0).mean().item(), rel=0.05)
    assert floor > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


def test_only_the_first_segments_of_a_long_text_are_read(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_model(str(tiny_llama))
    first = kl_floor(base, TEXT[:3])
    monkeypatch.setattr(module, "_TOKENS", 3 * 24)
    steps: list[tuple[int, int]] = []
    assert kl_floor(base, TEXT, lambda *step: steps.append(step)) == first
    assert steps[-1][0] == steps[-1][1]
    monkeypatch.setattr(module, "_TOKENS", 1)
    assert kl_floor(base, TEXT) == kl_floor(base, TEXT[:2])
