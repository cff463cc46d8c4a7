"""Peers: exact on integers, or refused with their name."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from instruction_sets import MAY_SATURATE

from kernels.benchmark.peers import (
    PEERS,
    Peer,
    PeerMissingError,
    installed,
    installed_peers,
    is_exact,
    make_peers,
    versions,
)

N, K = 64, 256


def peers_of(name: str) -> list[Peer]:
    missing = [package for package in PEERS[name] if find_spec(package) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    return make_peers([name], N, K, lambda nbytes: 2, 1)


@pytest.mark.parametrize(
    ("name", "precisions"),
    [
        ("torch", ["FP32", "BF16", "W8A8", "W4A16"]),
        ("onnxruntime", ["W2A8", "W4A8", "W8A8"]),
        ("llama.cpp", ["W2A8", "W2A8", "W4A8"]),
    ],
)
def test_peers_are_exact_on_integers(name: str, precisions: list[str]) -> None:
    peers = peers_of(name)
    assert [peer.precision for peer in peers] == precisions
    for peer in peers:
        assert peer.integers.shape == (N, K)
        assert (is_exact(peer, 1) and is_exact(peer, 9)) or peer.engine in MAY_SATURATE, peer.path
        changed = peer.integers.copy()
        changed[N // 2, 3] ^= 1
        assert not is_exact(replace(peer, integers=changed), 9), peer.path


@pytest.mark.parametrize("name", list(PEERS))
def test_all_copies_compute_the_same_and_keep_their_results(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, K), np.float32)
    for peer in peers_of(name):
        first, second = (peer.to_numpy(run()) for run in peer.bind(x))
        assert first.shape == (3, N)
        assert np.array_equal(first, second)
        approximate = x.astype(np.float64) @ peer.integers.T
        error = np.abs(first - approximate).max()
        assert error < 0.05 * np.abs(approximate).max() or peer.engine in MAY_SATURATE
        assert peer.weight_bytes > 0


def test_shapes_that_a_format_does_not_support_are_omitted() -> None:
    for name in installed_peers():
        assert {peer.engine for peer in make_peers([name], 30, 96, lambda nbytes: 1, 1)} <= {
            "torch-fp32", "torch-bf16", "torch-int8",
        }  # fmt: skip


def test_unknown_and_missing_peers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerMissingError, match="unknown peer 'tensorflow'; use one or more of torch"):
        make_peers(["tensorflow"], N, K, lambda nbytes: 1, 1)
    monkeypatch.setattr(installed, "installed_peers", lambda: ["torch"])
    with pytest.raises(PeerMissingError, match=r"onnxruntime and onnx must be installed .*abq-explorer"):
        make_peers(["torch", "onnxruntime"], N, K, lambda nbytes: 1, 1)


def test_versions_are_those_of_the_packages() -> None:
    assert set(versions(["torch"])) == {"torch"}
