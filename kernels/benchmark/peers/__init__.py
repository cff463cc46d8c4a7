"""Products of other engines on the same CPU, to be timed beside ours: torch always, the others where installed."""

from kernels.benchmark.peers.installed import PEERS, PeerMissingError, installed_peers, make_peers, versions
from kernels.benchmark.peers.peer import Peer, is_exact

__all__ = ["PEERS", "Peer", "PeerMissingError", "installed_peers", "is_exact", "make_peers", "versions"]
