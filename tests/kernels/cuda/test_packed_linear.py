"""`PackedLinear` on the GPU engine, with the emulator in place of the driver."""

import pytest
import torch
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedGpu

from abq_core.precision import Precision
from abq_core.quantization.lm_head import PackedHead
from abq_core.quantization.quant_linear import PackedLinear
from abq_core.quantization.quantizers import QuantizedWeight
from abq_core.quantization.tables import PackedEmbedding, pack_table
from kernels.cuda.device_tensors import DeviceWeight, upload
from kernels.formats.planes import ShapeError
from kernels.formats.weight import PackedWeight

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)


@pytest.mark.parametrize(("hadamard", "spacing"), [(1, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("precision", ["W2A8", "W2*A8", "W4A4g128"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_outputs_equal_the_cpu_engines(
    gpu: EmulatedGpu, precision: str, dtype: torch.dtype, hadamard: int, spacing: int
) -> None:
    parsed = Precision.parse(precision)
    groups = 1 if parsed.group_size is None else 300 // parsed.group_size + 1
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, parsed.levels, (40, 300), generator=generator, dtype=torch.int16)
    scale = torch.rand((40, groups), generator=generator) + 0.1
    zero = torch.full((40, groups), 2 ** (parsed.weight_bits - 1) + spacing // 2, dtype=torch.int16)
    weight = QuantizedWeight(codes, scale, zero, parsed.group_size or 300, spacing)
    bias = torch.randn(40, generator=generator)
    on_cpu = PackedLinear.pack(weight, parsed, bias, 0.9, hadamard)
    assert isinstance(on_cpu.packed, PackedWeight)
    on_gpu = PackedLinear(upload(on_cpu.packed, "cpu"), parsed.act_bits)  # the emulator's memory is the CPU's
    assert isinstance(on_gpu.packed, DeviceWeight) and on_gpu.stored_bytes > 0
    x = torch.randn((2, 3, 300), generator=generator).to(dtype)
    y = on_gpu(x)
    assert y.shape == (2, 3, 40) and y.dtype == dtype
    torch.testing.assert_close(y.float(), on_cpu(x.float()), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_is_looked_up_and_multiplied(gpu: EmulatedGpu, dtype: torch.dtype) -> None:
    table = torch.nn.Embedding(50, 300, dtype=torch.float32).requires_grad_(False)
    on_cpu = pack_table(table.weight, 6)
    assert isinstance(on_cpu, PackedWeight)
    on_gpu = upload(on_cpu, "cpu")
    embedding, expected = PackedEmbedding(table, on_gpu), PackedEmbedding(table, on_cpu)
    embedding.dtype = expected.dtype = dtype
    ids = torch.tensor([[49, 0, 49], [16, 15, 31]])
    assert torch.equal(embedding(ids), expected(ids)) and embedding(ids[:, :0]).shape == (2, 0, 300)
    assert embedding(torch.tensor([50])).isnan().all()
    with pytest.raises(ShapeError, match="int64"):
        embedding(ids.int())
    x = embedding(ids)[0]
    y = PackedHead(on_gpu, None)(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, PackedHead(on_cpu, None)(x), rtol=1e-5, atol=1e-4)


def test_the_hadamard_transform_applies_to_16_bit_activations_too(gpu: EmulatedGpu) -> None:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 8, (40, 320), generator=generator, dtype=torch.int16)
    weight = QuantizedWeight(codes, torch.full((40, 1), 0.1), torch.full((40, 1), 4, dtype=torch.int16), 320)
    on_cpu = PackedLinear.pack(weight, Precision.parse("W3A16"), None, hadamard=64)
    assert isinstance(on_cpu.packed, PackedWeight)
    x = torch.randn((3, 320), generator=generator)
    torch.testing.assert_close(PackedLinear(upload(on_cpu.packed, "cpu"), 16)(x), on_cpu(x), rtol=1e-4, atol=1e-4)
