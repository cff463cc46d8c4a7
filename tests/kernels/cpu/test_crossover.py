"""The crossover between the packed kernel and unpack-then-GEMM.

Timed once, stored, and found again.
"""

import json
from pathlib import Path

import pytest
from weight_cases import random_weight

from kernels.cpu import engine
from kernels.cpu.crossover import ALWAYS_UNPACKED, CrossoverTable
from kernels.host.processor import cpu_name


def never(m: int) -> tuple[float, float]:
    raise AssertionError(f"{m} tokens are timed although the answer is known")


@pytest.mark.parametrize(("first_slower", "last_packed"), [(2, 1), (3, 2), (4, 3), (6, 4), (8, 6), (48, 32), (99, 48)])
def test_the_crossover_is_the_last_number_of_tokens_faster_packed(
    tmp_path: Path, first_slower: int, last_packed: int
) -> None:
    table = CrossoverTable(tmp_path)
    assert table.last_packed("w2", lambda m: (2.0 if m >= first_slower else 1.0, 1.5)) == last_packed
    assert table.last_packed("w2", never) == last_packed
    assert CrossoverTable(tmp_path).last_packed("w2", never) == last_packed


def test_the_file_is_named_after_the_processor(tmp_path: Path) -> None:
    CrossoverTable(tmp_path).last_packed("w2", lambda m: (1.0, 2.0))
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("crossover-") and path.suffix == ".json"
    assert json.loads(path.read_text())["cpu"] == cpu_name()


@pytest.mark.parametrize("content", ["", "[]", '{"format": 0}', {"w2": 99}, {"w2": 0}, {"w2": "8"}])
def test_a_broken_file_is_measured_again(tmp_path: Path, content: str | dict[str, object]) -> None:
    table = CrossoverTable(tmp_path)
    if isinstance(content, dict):  # a good file with a wrong number
        table.last_packed("w2", lambda m: (1.0, 2.0))
        content = json.dumps(json.loads(table.path.read_text()) | {"last_packed": content})
        table = CrossoverTable(tmp_path)
    table.path.write_text(content)
    assert table.last_packed("w2", lambda m: (1.0, 2.0)) == 48
    assert CrossoverTable(tmp_path).last_packed("w2", never) == 48


def test_the_packed_kernel_must_be_clearly_faster(tmp_path: Path) -> None:
    assert CrossoverTable(tmp_path).last_packed("w2", lambda m: (1.0 if m < 8 else 1.97, 2.0)) == 6


def test_a_read_only_folder_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert CrossoverTable(tmp_path / "file" / "folder").last_packed("w2", lambda m: (3.0, 2.0)) == 1


def test_the_engine_uses_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = CrossoverTable(tmp_path)
    monkeypatch.setattr(engine, "_crossovers", lambda: table)
    weight = random_weight(0, 32, 64, 4)
    assert engine.path_for(weight, 1, 8) == engine.DOT
    assert engine.path_for(weight, ALWAYS_UNPACKED, 8) == engine.GEMM
    assert not list(tmp_path.iterdir())
    assert engine.path_for(weight, 5, 8) in (engine.DOT, engine.GEMM)
    ((kind, last_packed),) = json.loads(table.path.read_text())["last_packed"].items()
    assert kind == f"{engine.DOT} w4 4"
    for m in range(2, ALWAYS_UNPACKED):
        assert engine.path_for(weight, m, 8) == (engine.DOT if m <= last_packed else engine.GEMM)
