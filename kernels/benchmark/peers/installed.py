"""Which engines can be compared with here, and their weights for a shape."""

from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec

from kernels.benchmark.peers.peer import Peer

PEERS = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx"), "llama.cpp": ("xllamacpp",)}


class PeerMissingError(ValueError):
    """A peer that is not known or not installed."""


def installed_peers() -> list[str]:
    """The names in PEERS whose packages are installed."""
    return [name for name, packages in PEERS.items() if all(map(find_spec, packages))]


def versions(names: list[str]) -> dict[str, str]:
    """The versions of the packages behind some of PEERS."""
    return {package: metadata.version(package) for name in names for package in PEERS[name]}


def make_peers(names: list[str], n: int, k: int, copies: Callable[[int], int], threads: int) -> list[Peer]:
    """Weights (n, k) of these peers; those that cannot hold the shape are left out. Raises PeerMissingError.

    copies(bytes): how many copies of a weight of that size to hold.  Of torch's threads the caller takes care.
    """
    for name in names:
        if name not in PEERS:
            raise PeerMissingError(f"'{name}' is no engine to compare with; use some of {', '.join(PEERS)}")
        if name not in installed_peers():
            raise PeerMissingError(
                f"{' and '.join(PEERS[name])} must be installed to compare with {name}: "
                "pip install 'abq-explorer[peers]'"
            )
    peers: list[Peer] = []
    if "torch" in names:
        from kernels.benchmark.peers.torch_linear import torch_peers

        peers += torch_peers(n, k, copies)
    if "onnxruntime" in names:
        from kernels.benchmark.peers.onnx_runtime import onnx_runtime_peers

        peers += onnx_runtime_peers(n, k, copies, threads)
    if "llama.cpp" in names:
        from kernels.benchmark.peers.llama_cpp import llama_cpp_peers

        peers += llama_cpp_peers(n, k, copies, threads)
    return peers
