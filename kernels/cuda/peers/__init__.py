"""Products of other libraries on the same GPU, timed for comparison."""

from kernels.cuda.peers.peer import LeftOut, Peer, PeerError, Product
from kernels.cuda.peers.peer_set import PeerSet

__all__ = ["LeftOut", "Peer", "PeerError", "PeerSet", "Product"]
