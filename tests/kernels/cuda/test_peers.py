"""Peers of the GPU engine.

Their results are checked, and peers that cannot be timed are reported.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kernels.cuda.peers import LeftOut, Peer, PeerError, PeerSet, Product, gemlite, humming, torch_libraries
from kernels.cuda.peers.peer import GROUP, check, from_groups, to_groups, to_int8

LIBRARIES = ("gemlite", "humming")


@pytest.fixture(autouse=True)
def restore_modules() -> Iterator[None]:
    """Remove fake libraries from sys.modules after each test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in LIBRARIES:
            del sys.modules[name]


def operands(n: int = 64, k: int = 256, m: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (n, k) and tokens (m, k) float16."""
    generator = torch.Generator().manual_seed(n * m)
    weight, x = (torch.randn((rows, k), generator=generator).half() for rows in (n, m))
    return weight, x


def two(size: int) -> int:
    return 2


def engines(peer_set: PeerSet, weight: torch.Tensor, x: torch.Tensor) -> set[str]:
    """The engines of the products that can be timed."""
    return set(peer_set.record_all(weight, x, two, lambda product: product.engine))


def peer_set_and_left_out(seconds: float = 60.0) -> tuple[PeerSet, list[LeftOut]]:
    left_out: list[LeftOut] = []
    return PeerSet(left_out.append, seconds), left_out


@pytest.mark.parametrize("m", [1, 5, 33])
@pytest.mark.parametrize("precision", ["FP16", "BF16", "W8A8"])
def test_torchs_products_are_correct(precision: str, m: int) -> None:
    weight, x = operands(m=m)
    peer = torch_libraries.makers()[precision](weight, x, two)
    check(peer, m)
    product = peer.product
    assert len(product.weights) == 2
    assert product.weights[0].data_ptr() != product.weights[1].data_ptr()
    assert torch.equal(*(product.multiply(copy) for copy in product.weights))
    assert product.weight_bytes == product.weights[0].nbytes


@pytest.mark.parametrize("precision", ["FP16", "W8A8"])
def test_a_wrong_value_in_the_last_token_is_detected(precision: str) -> None:
    weight, x = operands()
    peer = torch_libraries.makers()[precision](weight, x, two)

    def spoilt(copy: torch.Tensor) -> torch.Tensor:
        y = peer.product.multiply(copy)
        y[4, 63] += 1 if precision == "W8A8" else 10
        return y

    wrong = Product(**{**vars(peer.product), "multiply": spoilt})
    with pytest.raises(PeerError, match="differs from the float64 one by"):
        check(Peer(wrong, peer.expected, peer.tolerance), 5)


def test_nan_is_wrong() -> None:
    weight, x = operands()
    peer = torch_libraries.makers()["FP16"](weight, x, two)
    nothing = Product(**{**vars(peer.product), "multiply": lambda copy: torch.full((5, 64), float("nan"))})
    with pytest.raises(PeerError, match="by nan"):
        check(Peer(nothing, peer.expected), 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bits", [2, 4])
def test_groups_are_rounded_to_the_nearest_level(bits: int, dtype: torch.dtype) -> None:
    weight, _ = operands()
    codes, scale, low = to_groups(weight, bits, dtype)
    assert (codes.dtype, codes.shape, scale.shape, low.shape) == (torch.uint8, (64, 256), (64, 2), (64, 2))
    assert (int(codes.min()), int(codes.max())) == (0, 2**bits - 1)
    error = (from_groups(codes, scale, low) - weight.double()).abs().reshape(64, 2, GROUP).amax(-1)
    assert bool((error <= 0.6 * scale.double()).all())  # half a level, and the rounding of the range's ends


def test_groups_that_do_not_divide_the_columns_are_refused() -> None:
    with pytest.raises(PeerError, match=r"groups of 128 columns do not divide k = 192"):
        to_groups(operands(k=192)[0], 4, torch.float16)


def test_int8_uses_the_range_of_each_row() -> None:
    codes, scale = to_int8(operands()[0])
    assert (codes.abs().amax(dim=1) == 127).all()
    assert bool(((codes.double() * scale.double() - operands()[0].double()).abs() <= 0.5001 * scale).all())


def test_missing_libraries_are_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in LIBRARIES:
        monkeypatch.setitem(sys.modules, library, None)
    peer_set, left_out = peer_set_and_left_out()
    for m in (1, 2):
        assert engines(peer_set, *operands(m=m)) == {"cublas-fp16", "cublas-bf16", "cublaslt-int8"}  # int4 needs a GPU
    absent = [str(one) for one in left_out if one.engine in LIBRARIES]
    assert len(absent) == 2
    assert absent[1].startswith("humming is left out: ")
    assert absent[1].endswith("to compare with it, install the package humming-kernels")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_failing_import_is_reported_with_its_message(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text("raise RuntimeError('No CUDA GPUs are available\\nmore lines')")
    monkeypatch.syspath_prepend(tmp_path)
    _, left_out = peer_set_and_left_out()
    expected = f"{library} is left out: importing it failed with RuntimeError: No CUDA GPUs are available"
    assert expected in [str(one) for one in left_out]


def fake_library(monkeypatch: pytest.MonkeyPatch, make: Callable[..., Peer]) -> None:
    """Replace gemlite by a fake with one precision, because the real one needs a GPU."""
    monkeypatch.setattr(gemlite, "makers", lambda: {"W4A16": make})
    monkeypatch.setattr(humming, "makers", dict)


def fake_peer(weight: torch.Tensor, x: torch.Tensor, wrong_by: float) -> Peer:
    product = Product(
        engine="gemlite", precision="W4A16", path="", weight_bytes=1, weights=[weight], kind="fp16-library",
        multiply=lambda w: x.float() @ w.float().T + wrong_by,
    )  # fmt: skip
    return Peer(product, lambda some: x[some].double() @ weight.double().T)


def test_a_peer_that_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, lambda weight, x, copies_of: fake_peer(weight, x, 5.0 if len(x) == 2 else 0.0))
    peer_set, left_out = peer_set_and_left_out()
    assert "gemlite" in engines(peer_set, *operands(m=1))
    assert "gemlite" not in engines(peer_set, *operands(m=2))
    (told,) = (one for one in left_out if one.engine == "gemlite")
    assert str(told).startswith("gemlite W4A16 is left out: PeerError: its product differs from the float64 one by 5")


def test_a_peer_that_fails_is_reported_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(weight: torch.Tensor, x: torch.Tensor, copies_of: object) -> Peer:
        if len(weight) == 96:
            raise NotImplementedError
        return fake_peer(weight, x, 0.0)

    fake_library(monkeypatch, make)
    peer_set, left_out = peer_set_and_left_out()
    assert "gemlite" not in engines(peer_set, *operands(96))
    assert "gemlite" in engines(peer_set, *operands(64))
    assert "gemlite W4A16 is left out: NotImplementedError: no reason given" in map(str, left_out)


def test_a_peer_that_cannot_be_captured_is_reported() -> None:
    def record(product: Product) -> str:
        if product.precision == "BF16":
            raise RuntimeError("operation not permitted when stream is capturing")
        return product.precision

    peer_set, left_out = peer_set_and_left_out()
    assert peer_set.record_all(*operands(), two, record) == ["FP16", "W8A8"]
    assert "torch BF16 is left out: RuntimeError: operation not permitted when stream is capturing" in map(
        str, left_out
    )


def test_libraries_that_compile_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make(weight: torch.Tensor, x: torch.Tensor, copies_of: object) -> Peer:
        made.append(len(x))
        return fake_peer(weight, x, 0.0)

    fake_library(monkeypatch, make)
    peer_set, left_out = peer_set_and_left_out(seconds=0.0)
    for m in (1, 2, 3):
        assert ("gemlite" in engines(peer_set, *operands(m=m))) == (m == 1)
    assert made == [1]
    assert [str(one) for one in left_out if one.engine == "gemlite"] == [
        "gemlite is left out: the 0 seconds for libraries that compile are used up"
    ]
