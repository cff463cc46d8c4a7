"""Products of other libraries on the same GPU, to be timed beside ours: torch's always, others where they work."""

from kernels.cuda.peers.peer import LeftOut, Peer, PeerError, Product
from kernels.cuda.peers.peer_set import PeerSet

__all__ = ["LeftOut", "Peer", "PeerError", "PeerSet", "Product"]
