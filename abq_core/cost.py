"""What a calibration's work costs, from shapes alone: bytes of memory on the host and on a device, seconds on one core.

The constants of memory were counted tensor by tensor, those of time fitted to runs on one core of a server CPU; where
they come from and how well they hold is in docs/cost.md, and benchmarks/calibration_cost.py measures it again.
"""

from dataclasses import dataclass

from abq_core.models import ModelShape
from abq_core.spec import DEFAULT_EPOCHS, CalibrationSpec

_FLOAT = 4  # bytes of a value
_HOST = "cpu"

# Memory, in copies
_PROCESS_BYTES = 600 << 20  # Python with torch and transformers, nothing loaded
_DEVICE_BYTES = 600 << 20  # what CUDA itself takes
_DEVICE_SLACK = 1.1  # pieces of free device memory that are too small for what is asked
_STREAMS = 4  # of all segments: into a block and out of it, full precision and quantized
_ROUNDED = 3.0  # of a block: itself and what becomes of it when it is rounded
_LEARNING = 3.75  # of a block: itself, balanced, on its grid, and what of that is kept for the gradients
_OFFSETS = 3  # of a block: learned offsets and their two optimizer states
_LINEAR = 6.5  # of the largest linear: what its gradients need for a moment
_VALUES = 1.6  # of what a block's linears read and write for one segment
_MAPS = 4.5  # of the attention maps of all heads for one segment
_HEAD_MAPS = 14  # the same where every head's map is compared
_LOGITS = 6  # of the logits of a step of the end-to-end pass

# Seconds
_START = 10.0  # Python, torch, the text
_STEP = 7.6e-3  # a step of one block, whatever its size
_WEIGHT = 2.8e-8  # to quantize a weight and learn from it, a step
_OFFSET = 7.8e-9  # its offset, a step
_OPERATION = 6.2e-12  # a multiplication or addition of a matrix product
_VALUE = 9.7e-9  # to quantize a value that a linear reads or writes, a step
_MAP = 3.3e-8  # an entry of an attention map that is compared, a step
_ATTENTION = 1.9e-10  # an entry and channel of one that is not, a step

_PASS_TOKENS = 1024  # a step of the end-to-end pass


@dataclass(frozen=True)
class Work:
    """What a calibration does, as far as its cost depends on it.

    epochs: 0 where nothing is learned.  rounding: an offset for every weight.  akl: attention maps are compared,
    akl_per_head: those of every head.  end_to_end_segments: 0 where no pass follows the blocks.  device: where a block
    is worked on, home: where the model is; "cpu" or an accelerator.
    """

    segments: int = 32
    seq_len: int = 256
    epochs: int = DEFAULT_EPOCHS
    rounding: bool = False
    akl: bool = True
    akl_per_head: bool = False
    end_to_end_segments: int = 0
    device: str = _HOST
    home: str = _HOST

    @classmethod
    def of(cls, spec: CalibrationSpec, home: str = _HOST) -> "Work":
        """The work of a calibration of a model that is loaded to `home`."""
        switches = spec.active_switches
        return cls(
            segments=spec.segments,
            seq_len=spec.seq_len,
            epochs=spec.active_epochs,
            rounding=switches.rounding,
            akl=switches.akl,
            akl_per_head=switches.akl and switches.akl_per_head,
            end_to_end_segments=spec.active_end_to_end_segments if spec.learns_end_to_end else 0,
            device=spec.device,
            home=home,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak. host: of the process.  device: of an accelerator, were blocks worked on there."""

    host: int
    device: int


def memory(shape: ModelShape, work: Work, packed: int) -> Memory:
    """Where a calibration and the evaluation after it have their peaks. packed: bytes of the packed linears."""
    values = _values_of(shape)
    model, linears = shape.parameters * _FLOAT, sum(values.weights) * _FLOAT
    streams = _STREAMS * work.segments * work.seq_len * shape.hidden * _FLOAT
    block = _block_bytes(shape, work)
    together = _pass_bytes(shape, work)
    drafts = linears if together and work.rounding else 0
    evaluating = linears + packed
    moved = work.device != _HOST
    device_work = [block, together] if moved or not together else [block]
    ...
