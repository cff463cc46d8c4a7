"""The submitting process's side of one calibration elsewhere: blocks into its store, events to its listener, in order.

It alone writes files and the database. Where the other side is depends on the cluster (ray.py).
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from abq_core.events import BlockDone, OnEvent
from app.jobs.executors.node import BlockKey, Delivery, Ended, to_bytes
from app.runs.run_folder import BlockStore


class RemoteLostError(RuntimeError):
    """The node or the process of a calibration is gone; what it had handed over is kept."""


class RemoteCalibrationError(RuntimeError):
    """A calibration failed on its node, as it would have here: the message is a sentence for a person."""


class RemoteTraceback(Exception):
    """The traceback on the node, as the cause of a RemoteCalibrationError."""


class Remote(Protocol):
    """One calibration elsewhere."""

    def next(self) -> list[Delivery | Ended]:
        """What came since the last call, which says that everything before is safe. Empty after half a second without.

        Raises RemoteLostError.
        """
        ...

    def stop(self) -> None:
        """End it, whatever it does."""
        ...


def follow_remote(remote: Remote, store: BlockStore, on_event: OnEvent, check: Callable[[], None]) -> None:
    """Take what a calibration elsewhere hands over until it has ended. check: may raise to stop, asked all the time.

    A block is in the store before its event is passed on, and the other side goes on when that has returned.
    Raises RemoteLostError, RemoteCalibrationError.
    """
    while True:
        check()
        for item in remote.next():
            if isinstance(item, Ended):
                if item.error is not None:
                    raise RemoteCalibrationError(item.error) from RemoteTraceback(f"\n{item.traceback}")
                return
            _keep_block(item, store)
            on_event(item.event)


def stored_blocks(store: BlockStore) -> Iterator[tuple[BlockKey, bytes]]:
    """The finished blocks and drafts, one after the other."""
    for block in sorted(store.hashes):
        for draft, tensors in ((False, store.load(block)), (True, store.load_draft(block))):
            if tensors is not None:
                yield (block, draft), to_bytes(tensors)


def _keep_block(item: Delivery, store: BlockStore) -> None:
    from safetensors.torch import load

    if item.saved is None:
        return
    assert isinstance(item.event, BlockDone)
    (store.save_draft if item.draft else store.save)(item.event.block, load(item.saved))
