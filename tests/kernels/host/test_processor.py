"""The instruction set that the CPU kernels are compiled for."""

from collections.abc import Iterator

import pytest

from kernels.host import processor

AVX2 = frozenset({"avx2", "fma"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512vl", "avx512vnni"}


@pytest.fixture(autouse=True)
def without_cache() -> Iterator[None]:
    processor.target.cache_clear()
    yield
    processor.target.cache_clear()


@pytest.mark.parametrize(
    ("features", "name", "prefetched"),
    [
        (AVX512, "avx512-vnni", 2048),
        (AVX512 | {"sse4a"}, "avx512-vnni", 0),  # AMD
        (AVX2 | {"sse4a"}, "avx2", 2048),
        (frozenset({"sse4a"}), "portable", 2048),
    ],
)
def test_the_best_instruction_set_is_chosen(
    features: frozenset[str], name: str, prefetched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "features", lambda: features)
    target = processor.target()
    assert (target.name, target.prefetched_bytes) == (name, prefetched)
    assert not target.has_dot or name == "avx512-vnni"


def test_avx2_with_vnni_multiplies_bytes_in_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "features", lambda: AVX2 | {"avxvnni"})
    assert processor.target().has_dot and processor.target().serial_products == 1
