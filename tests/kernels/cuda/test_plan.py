"""Launch plans.

Candidates per shape, the stored autotuning table, and graph capture, where nothing can be timed.
"""

import json
from pathlib import Path

import pytest
import torch

from kernels.cuda.device_tensors import DeviceWeight, plane_columns
from kernels.cuda.plan import SHARED_LIMIT, Plan, candidates, default_plan, families, unit_of
from kernels.cuda.tiles import BINARY, BYTES, LIBRARY
from kernels.cuda.tuning import PlanTable, plan_key
from kernels.formats.planes import ShapeError

BOTH = (BINARY, BYTES)


def weight(n: int, k: int, planes: int, group_size: int | None = None) -> DeviceWeight:
    """A weight of this shape without data."""
    groups, none = 1 if group_size is None else -(-k // group_size), torch.empty(0)
    segment = -(-k // 256) * 256 if group_size is None else group_size
    return DeviceWeight(n, k, planes, group_size, segment, groups, none, none, none, none, None)


@pytest.mark.parametrize("m", [1, 3, 8, 64, 1000])
@pytest.mark.parametrize(("n", "k"), [(16, 100), (4096, 4096), (28672, 8192)])
@pytest.mark.parametrize(("planes", "act_bits", "group_size"), [(2, 8, None), (9, 1, None), (4, 4, 128), (8, 8, 32)])
def test_every_candidate_fits(m: int, n: int, k: int, planes: int, act_bits: int, group_size: int | None) -> None:
    w = weight(n, k, planes, group_size)
    plans = candidates(w, m, act_bits, families(w, "90a"), 132)
    assert 1 <= len(plans) <= 11 and len(set(plans)) == len(plans)
    assert (plans[-1].instance.family == LIBRARY) == (m > 16 and planes <= 8 and not w.grouped)
    for plan in plans:
        if plan.instance.family == LIBRARY:
            continue
        wide, tall, splits = plan.grid(w, m, act_bits)
        assert wide * plan.block_rows() * 16 >= n and tall * plan.block_tokens(plane_columns(act_bits)) >= m
        assert (wide - 1) * plan.block_rows() * 16 < n
        assert splits == plan.splits <= max(1, unit_of(w, plan.instance.family)[1])
        assert 16 <= plan.shared_bytes(act_bits) <= SHARED_LIMIT and tall < 65536


def test_units_contain_whole_groups() -> None:
    assert unit_of(weight(16, 4096, 2, 128), BINARY) == (1, 16)
    assert unit_of(weight(16, 4096, 2, 384), BINARY) == (3, 6)
    assert unit_of(weight(16, 4096, 2, 96), BYTES) == (3, 11)
    assert unit_of(weight(16, 4000, 2), BYTES) == (1, 32)


def test_families() -> None:
    assert families(weight(16, 4096, 2), "80") == (*BOTH, LIBRARY)
    assert families(weight(16, 4096, 9), "80") == BOTH
    assert families(weight(16, 4096, 2, 128), "90a") == BOTH
    assert families(weight(16, 4096, 2, 64), "90a") == (BYTES,)
    assert families(weight(16, 4096, 2), "100a") == (BYTES, LIBRARY)


def test_binary_for_few_tokens_and_int8_for_many() -> None:
    w = weight(4096, 4096, 2)
    assert default_plan(w, 1, 8, BOTH, 132).instance.family == BINARY
    assert default_plan(w, 60, 8, BOTH, 132).instance.family == BINARY
    assert default_plan(w, 61, 8, BOTH, 132).instance.family == BYTES
    assert default_plan(w, 1, 8, (BYTES,), 132).instance.family == BYTES
    assert {plan.instance.family for plan in candidates(w, 61, 8, BOTH, 132)} == set(BOTH)


def test_one_token_occupies_every_multiprocessor() -> None:
    for n, k in ((4096, 4096), (4096, 11008), (11008, 4096)):
        w = weight(n, k, 2)
        wide, tall, splits = default_plan(w, 1, 8, BOTH, 132).grid(w, 1, 8)
        assert wide * tall * splits >= 128


def test_zero_tokens_are_refused() -> None:
    with pytest.raises(ShapeError, match="no plan for 0 tokens"):
        candidates(weight(16, 64, 2), 0, 8, BOTH, 132)


def test_the_fastest_plan_is_timed_once_and_stored(tmp_path: Path) -> None:
    w, timed = weight(4096, 4096, 2), []

    def seconds(plan: Plan) -> float:
        timed.append(plan)
        return 1e-6 if plan == fastest else 1e-5

    fastest = candidates(w, 5, 8, BOTH, 132)[-1]
    table = PlanTable("NVIDIA H200", "90a", 132, tmp_path)
    assert table.path.name == "plans-nvidia-h200-sm90a-132.json"
    assert table.best(w, 5, 8, BOTH, seconds) == fastest
    count = len(timed)
    assert table.best(w, 8, 8, BOTH, seconds) == fastest  # the same power of two of tokens
    assert PlanTable("NVIDIA H200", "90a", 132, tmp_path).best(w, 7, 8, BOTH, seconds) == fastest
    assert len(timed) == count
    table.best(w, 9, 8, BOTH, seconds)
    assert len(timed) > count
    assert json.loads(table.path.read_text())["plans"][plan_key(w, 5, 8)]["microseconds"] == 1.0


def test_a_disabled_family_is_not_taken_from_the_table(tmp_path: Path) -> None:
    w, table = weight(256, 256, 2), PlanTable("gpu", "80", 8, tmp_path)
    first = table.best(w, 1, 8, BOTH, lambda plan: 0.0 if plan.instance.family == BINARY else 1.0)
    assert first.instance.family == BINARY
    assert table.best(w, 1, 8, (BYTES,), lambda plan: 1.0).instance.family == BYTES


def test_nothing_is_stored_during_graph_capture(tmp_path: Path) -> None:
    w, table = weight(256, 256, 2), PlanTable("gpu", "80", 8, tmp_path)
    assert table.best(w, 1, 8, BOTH, None) == default_plan(w, 1, 8, BOTH, 8)
    assert not table.path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1, "plans": 3}'])
def test_a_broken_table_is_ignored(tmp_path: Path, content: str) -> None:
    w, table = weight(256, 256, 2), PlanTable("gpu", "80", 8, tmp_path)
    table.path.write_text(content)
    assert table.best(w, 1, 8, BOTH, lambda plan: 1.0) in candidates(w, 1, 8, BOTH, 8)


def test_a_stored_plan_with_an_unknown_kernel_is_ignored(tmp_path: Path) -> None:
    w, table = weight(256, 256, 2), PlanTable("gpu", "80", 8, tmp_path)
    plans = {plan_key(w, 1, 8): {"kernel": "binary_p2_r7_c7", "warps": [4, 1], "splits": 1}}
    table.path.write_text(json.dumps({"format": 1, "plans": plans}))
    assert table.best(w, 1, 8, BOTH, lambda plan: 1.0) in candidates(w, 1, 8, BOTH, 8)


def test_a_stored_plan_of_the_library_is_not_used_for_more_tokens_than_its_grid_has(tmp_path: Path) -> None:
    w = weight(4096, 4096, 2)
    library = candidates(w, 40_000, 8, (LIBRARY,), 132)[-1]
    table = PlanTable("NVIDIA H200", "90a", 132, tmp_path)
    allowed = (BYTES, LIBRARY)
    assert table.best(w, 40_000, 8, allowed, lambda plan: 1e-6 if plan == library else 1e-5) == library
    assert table.best(w, 65_535, 8, allowed, None) == library
    assert table.best(w, 65_536, 8, allowed, None).instance.family == BYTES
