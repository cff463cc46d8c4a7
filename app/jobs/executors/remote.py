"""The submitting process's side of a remote calibration.

It stores blocks and passes on events, in order.
Only this side writes files and the database. ray.py implements the connection to the other side.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from abq_core.events import BlockDone, Event, OnEvent
from app.jobs.executors.node import BlockKey, Delivery, Ended
from app.runs.run_folder import BlockStore


class RemoteLostError(RuntimeError):
    """The node or the process of a calibration is gone. Blocks received before are kept."""


class RemoteCalibrationError(RuntimeError):
    """A calibration raised an error on its node.

    The message is a sentence for the user.
    """


class RemoteTraceback(Exception):
    """The traceback on the node, as the cause of a RemoteCalibrationError."""


class Remote(Protocol):
    """One calibration on another machine or in another process."""

    def next(self) -> list[Delivery | Ended]:
        """The items since the last call; empty if none arrived within half a second.

        Calling it confirms that all earlier items are stored. Raises RemoteLostError.
        """
        ...

    def stop(self) -> None:
        """End the calibration at once."""
        ...


def follow_remote(remote: Remote, store: BlockStore, on_event: OnEvent, check: Callable[[], None]) -> None:
    """Store the blocks and pass on the events of a remote calibration until it has ended.

    check: called at every poll; may raise to stop. A block is stored before its event is passed on, and the other side
    continues after `on_event` has returned.
    Raises RemoteLostError, RemoteCalibrationError.
    """
    while True:
        check()
        for item in remote.next():
            if isinstance(item, Ended):
                if item.error is not None:
                    raise RemoteCalibrationError(item.error) from RemoteTraceback(f"\n{item.traceback}")
                return
            on_event(_stored_event(item, store))


def stored_blocks(store: BlockStore) -> Iterator[tuple[BlockKey, bytes]]:
    """The finished blocks and drafts of a store, as safetensors bytes."""
    from abq_core.calibration.artifacts import to_bytes

    for block in sorted(store.hashes):
        for draft, tensors in ((False, store.load(block)), (True, store.load_draft(block))):
            if tensors is not None:
                yield (block, draft), to_bytes(tensors)


def _stored_event(item: Delivery, store: BlockStore) -> Event:
    """Store the block of a delivery, if it has one.

    Returns the event with the hash of the file written here.
    """
    from safetensors.torch import load

    if item.saved is None:
        return item.event
    assert isinstance(item.event, BlockDone)
    save = store.save_draft if item.draft else store.save
    return replace(item.event, sha256=save(item.event.block, load(item.saved)))
