"""The GPU's decode step with packed weights, with the emulator in place of the driver."""

from pathlib import Path

import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

import kernels.cuda.decode_attention
import kernels.cuda.int8
from abq_core.inference.decode_ops import CudaOps, TorchOps, decode_ops_for
from abq_core.inference.graph_decoder import GraphDecoder
from abq_core.inference.kv_cache import PreallocatedCache
from abq_core.inference.placement import to_int8
from abq_core.inference.runtime import rounded_model
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import PackedLinear
from kernels.cuda.compile import CompilerMissingError
from kernels.cuda.device_tensors import upload
from kernels.formats.weight import PackedWeight

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)


# Launches of one block for one token. Packed linears: four times quantization, with norm or gate fused, and product.
# 16-bit linears: norms and gate are separate launches. Attention: two launches.
LAUNCHES = {
    "W2A8": ["quantize_normed", "binary", "rotate_and_cache", "attend", "quantize", "binary",
             "quantize_normed", "binary", "quantize_gated", "binary"],
    "W4*A16": ["dequantize_weight", "materialize_normed", "rotate_and_cache", "attend", "dequantize_weight",
               "dequantize_weight", "materialize_normed", "dequantize_weight", "materialize_gated"],
}  # fmt: skip


def hidden(model: LoadedModel, decoder: GraphDecoder, gpu: EmulatedGpu) -> torch.Tensor:
    """Hidden states of two tokens after a prompt, the second as in graph capture."""
    cache = PreallocatedCache(model.model.config, 8)
    with torch.inference_mode():
        model.hidden(torch.tensor([[20, 21]]), cache)
        first = decoder.hidden(40, cache)
        gpu.capturing = True
        return torch.stack([first, decoder.hidden(41, cache)])


def upload_all(model: LoadedModel) -> None:
    for module in blocks_of(model.model).modules():
        if isinstance(module, PackedLinear):
            assert isinstance(module.packed, PackedWeight)
            module.packed = upload(module.packed, "cpu")  # the emulator's memory is the CPU's


@pytest.mark.parametrize(("precision", "launches"), [("W2A8", 2 * 4), ("W4*A16", 4)])
def test_the_first_step_does_all_timing_and_loading(
    gpu: EmulatedGpu, precision: str, launches: int, tiny_llama: Path
) -> None:
    base = load_model(str(tiny_llama))
    del blocks_of(base.model)[1:]  # one block: every launch of the emulator takes a while
    base.model.config.num_hidden_layers = 1
    model = rounded_model(base, Precision.parse(precision), "packed")
    expected = hidden(model, GraphDecoder(model.model), gpu)
    gpu.capturing = False
    upload_all(model)
    done: list[tuple[int, int]] = []
    decoder = GraphDecoder(model.model)
    launch = gpu.launch

    def counted(kernel: str, *arguments: object) -> None:
        done.append((gpu.timed, len(gpu.loaded)))
        launch(kernel, *arguments)

    gpu.launch = counted  # type: ignore[method-assign]
    found = hidden(model, decoder, gpu)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    assert len(set(done[-launches:])) == 1  # the second token neither times nor loads
    timed, loaded = done[-1]
    assert (timed > 0 and loaded > 0) == (precision == "W2A8")


@pytest.mark.parametrize("precision", LAUNCHES)
def test_the_kernels_equal_torchs_operations(precision: str, gpu: EmulatedGpu, tiny_llama: Path) -> None:
    base = load_model(str(tiny_llama))
    model = rounded_model(base, Precision.parse(precision), "packed")
    expected = hidden(model, GraphDecoder(model.model, TorchOps()), gpu)
    gpu.capturing = False
    upload_all(model)
    found = hidden(model, GraphDecoder(model.model, CudaOps()), gpu)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    started = [name.removesuffix("_float32").split("_p")[0] for name in gpu.launched]
    token = [*LAUNCHES[precision] * len(blocks_of(model.model)), "materialize_normed"]
    assert started[-len(token) :] == token


def test_a_packed_embedding_is_looked_up_in_the_step(gpu: EmulatedGpu, tiny_llama: Path) -> None:
    base = load_model(str(tiny_llama))
    del blocks_of(base.model)[1:]
    base.model.config.num_hidden_layers = 1
    model = rounded_model(base, Precision.parse("W2A8h8e4"), "packed")
    expected = hidden(model, GraphDecoder(model.model, TorchOps()), gpu)
    logits = model.logits(expected)
    gpu.capturing = False
    upload_all(model)
    embedding, head = model.model.get_input_embeddings(), model.model.get_output_embeddings()
    for table in (embedding, head):
        table.packed = upload(table.packed, "cpu")
    found = hidden(model, GraphDecoder(model.model, CudaOps()), gpu)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    token = ["look_up_rows", *LAUNCHES["W2A8"], "materialize_normed"]
    started = [name.removesuffix("_float32").split("_p")[0] for name in gpu.launched]
    assert started[-len(token) :] == token
    gpu.capturing = False
    torch.testing.assert_close(model.logits(expected), logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max()))


INT8_LAUNCHES = ["round_normed", "scale_sums", "rotate_and_cache", "attend", "round_plain", "scale_sums",
                 "round_normed", "scale_sums", "round_gated", "scale_sums"]  # fmt: skip


def test_int8_has_fused_kernels_around_its_products(
    gpu: EmulatedGpu, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = to_int8(load_model(str(tiny_llama)))
    expected = hidden(model, GraphDecoder(model.model, TorchOps()), gpu)
    gpu.capturing = False
    found = hidden(model, GraphDecoder(model.model, CudaOps()), gpu)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    started = [name.removesuffix("_float32") for name in gpu.launched]
    token = [*INT8_LAUNCHES * len(blocks_of(model.model)), "materialize_normed"]
    assert started[-len(token) :] == token
    monkeypatch.setattr(kernels.cuda.int8, "works", lambda index: False)
    gpu.launched.clear()
    hidden(model, GraphDecoder(model.model, CudaOps()), gpu)
    assert not any(name.startswith(("round", "scale")) for name in gpu.launched)


def test_which_operations_a_device_gets(gpu: EmulatedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    assert isinstance(decode_ops_for(torch.device("cpu"), 64), TorchOps)
    monkeypatch.setattr(kernels.cuda.decode_attention, "works", lambda index: True)
    assert isinstance(decode_ops_for(cuda, 64), CudaOps) and isinstance(decode_ops_for(cuda, 66), TorchOps)
    monkeypatch.setattr(kernels.cuda.decode_attention, "works", lambda index: False)
    assert isinstance(decode_ops_for(cuda, 64), TorchOps)

    def without_cupy(index: int) -> bool:
        raise CompilerMissingError("no CuPy")

    monkeypatch.setattr(kernels.cuda.decode_attention, "works", without_cupy)
    assert isinstance(decode_ops_for(cuda, 64), TorchOps)
