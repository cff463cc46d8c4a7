"""Peers: products of other engines on the same CPU.

torch is always available, the others if installed.
"""

from kernels.benchmark.peers.installed import PEERS, PeerMissingError, installed_peers, make_peers, versions
from kernels.benchmark.peers.peer import Peer, is_exact

__all__ = ["PEERS", "Peer", "PeerMissingError", "installed_peers", "is_exact", "make_peers", "versions"]
