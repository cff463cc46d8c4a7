"""Every CUDA kernel on the emulator, at edge cases of its shapes.

Equal to the int64 reference.
"""

import numpy as np
import pytest
import torch
from cuda_cases import POISON, Case, assert_exact, run
from emulated_cuda import COMPILER, WHY_SKIPPED, EmulatedDevice

from kernels.cuda import launch
from kernels.cuda.device_tensors import QuantizedActivations, upload
from kernels.cuda.plan import SHARED_LIMIT, Plan, candidates, families
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY, Instance, instances
from kernels.formats.activations import quantize_activations
from kernels.formats.weight import pack_weight

pytestmark = pytest.mark.skipif(COMPILER is None, reason=WHY_SKIPPED)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALL = [i for grouped in (False, True) for planes in range(1, 10) for i in instances(planes, grouped)]


def plan_of(instance: Instance, case: Case, number: int) -> Plan:
    """A different block and number of splits for each number, within the limits of shared memory."""
    splits = 1 + number % 3
    if instance.family == BINARY:
        plans = [Plan(instance, warps, 1, splits) for warps in (1, 2, 3, 4, 8)]
    else:
        plans = [Plan(instance, *warps, splits) for warps in ((1, 1), (2, 2), (4, 1), (4, 2))]
    fitting = [plan for plan in plans if plan.shared_bytes(case.act_bits) <= SHARED_LIMIT]
    return fitting[number % len(fitting)]


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("instance", ALL, ids=lambda instance: instance.name)
def test_every_kernel_equals_the_int64_reference(instance: Instance, number: int) -> None:
    i = 2 * ALL.index(instance) + number
    sizes = (128, 256, 384) if instance.family == BINARY else (32, 64, 96, 128)
    starred = instance.planes == 9 or (instance.planes > 1 and i % 3 == 0)
    case = Case(
        bits=instance.planes - starred,
        act_bits=1 + i * 3 % 8,
        m=(1, 2, 3, 5, 8, 9, 16, 17)[i % 8],
        n=(1, 16, 17, 33, 50)[i % 5],
        k=(300, 513, 700, 1030, 260)[i % 5] if instance.grouped else (1, 100, 256, 300, 513, 1030)[i % 6],
        starred=starred,
        group_size=sizes[i % len(sizes)] if instance.grouped else None,
        dtype=DTYPES[i % 3],
        seed=i,
    )
    if instance.grouped and case.k <= (case.group_size or 0):
        case = Case(**{**case.__dict__, "k": 700})
    assert_exact(case, EmulatedDevice(backwards=i % 2 == 1), plan_of(instance, case, i))


@pytest.mark.parametrize("act_bits", range(1, 9))
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_precision_on_every_path(bits: int, act_bits: int) -> None:
    for starred in (False, True):
        case = Case(bits, act_bits, 3, 20, 300, starred, None, DTYPES[(bits + act_bits) % 3])
        weight = upload(case.weight(), "cpu")
        for family in families(weight, "90a"):
            assert_exact(case, EmulatedDevice(), candidates(weight, 3, act_bits, (family,), 4)[0])


@pytest.mark.parametrize(("bits", "act_bits"), [(8, 8), (7, 8), (8, 1), (2, 8), (1, 7)])
@pytest.mark.parametrize("m", [1, 32, 33])
def test_cublaslts_product_is_exact(bits: int, act_bits: int, m: int) -> None:
    case = Case(bits, act_bits, m, 50, 300, bits == 2, None, DTYPES[m % 3])
    weight = upload(case.weight(), "cpu")
    assert_exact(case, EmulatedDevice(), candidates(weight, m, act_bits, (LIBRARY,), 4)[0])


@pytest.mark.parametrize("m", range(1, 18))
def test_every_small_number_of_tokens(m: int) -> None:
    for bits, act_bits, group_size in ((2, 8, None), (3, 2, 128), (4, 4, None), (1, 1, None)):
        case = Case(bits, act_bits, m, 24, 520, False, group_size, torch.float16)
        weight = upload(case.weight(), "cpu")
        for family in (BINARY, BYTES):
            plans = candidates(weight, m, act_bits, (family,), 6)
            assert_exact(case, EmulatedDevice(backwards=m % 2 == 0), plans[m % len(plans)])


@pytest.mark.parametrize("family", [BINARY, BYTES])
@pytest.mark.parametrize("group_size", [None, 128])
def test_split_results_are_deterministic(family: str, group_size: int | None) -> None:
    case = Case(3, 8, 4, 40, 2100, False, group_size, torch.float32)
    instance = next(i for i in instances(3, group_size is not None) if i.family == family)
    outputs = [
        assert_exact(case, EmulatedDevice(backwards=backwards), Plan(instance, 2, 1, 3)).y
        for backwards in (False, True)
    ]
    assert torch.equal(outputs[0], outputs[1])


def test_more_splits_and_warps_than_units_of_columns() -> None:
    for family, warps in ((BINARY, 8), (BYTES, 4)):
        instance = next(i for i in instances(2, False) if i.family == family)
        assert_exact(Case(2, 8, 2, 20, 300), EmulatedDevice(), Plan(instance, warps, 1, 7))


@pytest.mark.parametrize(
    ("block", "k"), [(2, 6), (4, 12), (8, 1000), (16, 272), (32, 96), (64, 320), (128, 896), (256, 256), (256, 768)]
)
@pytest.mark.parametrize("family", [BINARY, BYTES, LIBRARY])
def test_tokens_are_transformed_before_they_are_quantized(family: str, block: int, k: int) -> None:
    case = Case(2, 4, 3, 20, k, dtype=DTYPES[block % 3], hadamard=block)
    weight = upload(case.weight(), "cpu")
    assert_exact(case, EmulatedDevice(), candidates(weight, 3, 4, (family,), 4)[0])


@pytest.mark.parametrize(("bits", "group_size"), [(1, None), (2, None), (2, 128), (7, None), (8, None), (8, 128)])
@pytest.mark.parametrize("family", [BINARY, BYTES, LIBRARY])
@pytest.mark.parametrize("m", [1, 9])
def test_zero_points_halfway_between_two_levels(family: str, bits: int, group_size: int | None, m: int) -> None:
    if family == LIBRARY and group_size is not None:
        pytest.skip("cuBLASLt's product has one scale per row")
    case = Case(bits, 8, m, 40, 600, group_size=group_size, dtype=DTYPES[bits % 3], spacing=2)
    weight = upload(case.weight(), "cpu")
    for plan in candidates(weight, m, 8, (family,), 4)[:3]:
        assert_exact(case, EmulatedDevice(), plan)


@pytest.mark.parametrize("family", [BINARY, BYTES])
def test_extreme_codes(family: str) -> None:
    case = Case(8, 8, 2, 16, 1000, starred=True)
    full = pack_weight(np.full((16, 1000), 256), 9, np.ones((16, 1), np.float32), np.full((16, 1), 128))
    x = torch.ones(2, 1000)
    x[1] = -1
    device, uploaded = EmulatedDevice(), upload(full, "cpu")
    ran = run(case, device, uploaded, x, candidates(uploaded, 2, 8, (family,), 4)[0])
    assert ran.totals[:, :, 0].tolist() == [[1000 * 255 * 128] * 16, [-1000 * 255 * 128] * 16]


def test_a_row_longer_than_int32_allows() -> None:
    case = Case(8, 8, 1, 16, 17_000, starred=True)
    weight = upload(case.weight(), "cpu")
    assert weight.grouped and weight.segment % 256 == 0
    for family in families(weight, "90a"):
        assert_exact(case, EmulatedDevice(), candidates(weight, 1, 8, (family,), 4)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", [BINARY, BYTES])
@pytest.mark.parametrize("act_bits", [1, 3, 4, 8])
def test_activations_are_quantized_as_calibration_does(family: str, act_bits: int, dtype: torch.dtype) -> None:
    case = Case(2, act_bits, 5, 16, 300, False, 96 if family == BYTES else None, dtype)
    weight, x = upload(case.weight(), "cpu"), case.tokens()
    x[1] = 0
    x[2, 7] = float("nan")
    x[3] = -x[3].abs()
    x[4, 9] = float("inf")
    acts = QuantizedActivations.empty(5, act_bits, family, weight, 1)
    acts.codes.fill_(POISON)
    device = EmulatedDevice()
    device.show(x, acts.codes, acts.scale, acts.zero, acts.sums, acts.counters)
    launch.quantize(device, x, weight, acts)
    finite = x.isfinite().all(dim=1)
    known = torch.where(finite[:, None], x, 0).float()
    codes, scale, zero, _ = quantize_activations(known.numpy(), act_bits, case.act_clip)
    scale[~finite.numpy()] = np.nan  # the CPU engine raises instead
    assert np.array_equal(acts.scale[:5].numpy(), scale, equal_nan=True)
    assert np.array_equal(acts.zero[:5].numpy(), zero)
    starts = np.arange(0, 300, weight.segment) if weight.grouped else [0]
    assert np.array_equal(acts.sums[:5].numpy(), np.add.reduceat(codes.astype(np.int32), starts, axis=1))
    if family == BYTES:
        stored = acts.codes.numpy().view(np.uint8).reshape(8, 2, 2, 4, 8, 4)  # token, chunk, half, t, r, c
        assert np.array_equal(stored.transpose(0, 1, 2, 4, 3, 5).reshape(8, 512)[:5, :300], codes)


def test_strided_and_unaligned_rows() -> None:
    case = Case(2, 8, 3, 16, 300, dtype=torch.float16)
    weight, x = upload(case.weight(), "cpu"), case.tokens()
    wide = torch.zeros(3, 311, dtype=torch.float16)
    plan = candidates(weight, 3, 8, (BINARY,), 4)[0]
    expected = run(case, EmulatedDevice(), weight, x, plan).y
    for start in (0, 1, 4):
        view = wide[:, start : start + 300]
        view.copy_(x)
        assert torch.equal(run(case, EmulatedDevice(), weight, view, plan).y, expected)


def test_nan_stays_in_its_token() -> None:
    case = Case(4, 4, 3, 20, 100)
    weight, x = upload(case.weight(), "cpu"), case.tokens()
    x[1, 5] = float("nan")
    y = run(case, EmulatedDevice(), weight, x, candidates(weight, 3, 4, (BINARY,), 4)[0]).y
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("bits", "starred", "group_size"), [(2, False, None), (8, True, None), (3, False, 96)])
@pytest.mark.parametrize("spacing", [1, 2])
def test_the_dequantized_weight(
    bits: int, starred: bool, group_size: int | None, dtype: torch.dtype, spacing: int
) -> None:
    packed = Case(bits, 8, 1, 37, 301, starred, group_size, spacing=spacing).weight()
    weight = upload(packed, "cpu")
    out = torch.full((37, 301), float("nan"), dtype=dtype)
    device = EmulatedDevice()
    device.show(weight.data, weight.scale, weight.zero, out)
    launch.dequantize(device, weight, out)
    assert torch.equal(out, torch.from_numpy(packed.dequantize()).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("bits", "starred", "group_size", "n", "k"),
    [(8, False, None, 37, 301), (2, False, None, 16, 2300), (8, True, None, 1, 3), (3, False, 96, 50, 256)],
)
@pytest.mark.parametrize("spacing", [1, 2])
def test_rows_that_are_looked_up(
    bits: int, starred: bool, group_size: int | None, n: int, k: int, dtype: torch.dtype, spacing: int
) -> None:
    packed = Case(bits, 8, 1, n, k, starred, group_size, spacing=spacing).weight()
    weight = upload(packed, "cpu")
    ids = torch.tensor([n - 1, 0, n // 2, n - 1, n, -1, 1 << 40])
    out = torch.full((len(ids), k), 7.0, dtype=dtype)
    device = EmulatedDevice()
    device.show(weight.data, weight.scale, weight.zero, ids, out)
    launch.look_up(device, weight, ids, out)
    assert torch.equal(out[:4], torch.from_numpy(packed.dequantize()).to(dtype)[ids[:4]])
    assert out[4:].isnan().all(), "these are no rows"
