"""The peers that are installed, and their weights for a shape."""

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
    """Versions of the packages of these peers."""
    return {package: metadata.version(package) for name in names for package in PEERS[name]}


def make_peers(names: list[str], n: int, k: int, copies: Callable[[int], int], threads: int) -> list[Peer]:
    """Build weights (n, k) of these peers; peers that do not support the shape are omitted.

    Raises PeerMissingError.
    copies(bytes): number of copies to hold of a weight of that size.  The caller sets torch's number of threads.
    """
    for name in names:
        if name not in PEERS:
            raise PeerMissingError(f"unknown peer '{name}'; use one or more of {', '.join(PEERS)}")
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
