"""Progress events of a calibration.

A listener records them; it may raise to stop the calibration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from abq_core.text.records import TextRecord


@dataclass(frozen=True)
class Started:
    """The first block is next.

    steps_per_block: 0 for methods that learn nothing.  end_to_end_steps: of the pass after the blocks, 0 without one.
    """

    blocks: int
    steps_per_block: int
    end_to_end_steps: int = 0


@dataclass(frozen=True)
class TextRead:
    """Calibration text was read. part: "blocks", or "end_to_end" for the pass after them."""

    record: TextRecord
    part: str = "blocks"


@dataclass(frozen=True)
class StepDone:
    """One optimizer step is done. step: 1 to `steps`.

    block: the index of a block, or the number of blocks for a step of the end-to-end pass.
    """

    block: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochDone:
    """One epoch over the calibration segments is done. block: as in StepDone.

    losses: means over the epoch, by term (dlc, akl, mse) with their total. The end-to-end pass reports a tenth of its
    steps at a time, with kl in nats per token.
    """

    block: int
    epoch: int
    losses: Mapping[str, float]


@dataclass(frozen=True)
class BlockDone:
    """A block, or its draft before an end-to-end pass, is in the store.

    sha256: hash of what was stored now, None if the block was in the store already.  distances: of its output from
    full precision (cosine, mse).
    """

    block: int
    seconds: float
    sha256: str | None
    distances: Mapping[str, float]

    @property
    def adopted(self) -> bool:
        """True if the block was in the store already."""
        return self.sha256 is None


@dataclass(frozen=True)
class Message:
    """One sentence for the log."""

    text: str


Event = TextRead | Started | StepDone | EpochDone | BlockDone | Message
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Ignore an event: the default listener."""
