"""What a calibration costs, from shapes alone: memory of the host and of a device, room on the disk, seconds.

The constants of memory follow from what the code keeps, tensor by tensor; those of time were fitted to the stages of
calibrations on one core of a server CPU. docs/cost.md says how well they hold, and benchmarks/calibration_cost.py
measures it again.
"""

from dataclasses import dataclass

from abq_core.models.loading import ModelShape
from abq_core.spec import DEFAULT_EPOCHS, CalibrationSpec

_FLOAT = 4  # bytes of a value
_HOST = "cpu"

# Memory. A block's copies are of its linears' weights.
_PROCESS_BYTES = 560 << 20  # Python with torch, transformers and a short text
_TABLES_BYTES = 150 << 20  # what diagnostics load and keep to write their tables
DEVICE_BYTES = 600 << 20  # what CUDA itself takes
SLACK = 1.1  # memory that is free, but in pieces too small for what is asked
_STREAMS = 4  # of all segments: into a block and out of it, full precision and quantized
_ROUNDING = 2.0  # of a block that is rounded: folded, as integers of two bytes, and dequantized in a copy
_LEARNING = 2.75  # of a block that learns: folded (linears of two pairs twice), on its grid, and whether within it
_OFFSETS = 3  # the offsets and two optimizer states; their gradients come when what the forward pass kept has gone
_LINEAR = 6.5  # of the largest linear: what its gradients need for a moment
_VALUES = 1.6  # of what a block's linears read and write
_MAPS = 4.5  # attention maps of all heads, where their mean is compared
_HEAD_MAPS = 14  # the same where every head's is
_BFLOAT16 = 0.5  # of all weights: the end-to-end pass multiplies in bfloat16 where that is fast
_LOGITS = 6  # of a step of that pass
_PASS_TOKENS = 1024  # of such a step
_DIAGNOSED_MAPS = 9  # of three models' diagnosed segments, compared
_EVALUATED_LOGITS = 4 << 22  # entries: evaluation takes the logits of a long text in pieces

# Seconds on the reference core
_START = 5.0  # Python, torch, the text
_STEP = 7.4e-3  # a step of one block, whatever its size
_WEIGHT = 6.3e-9  # to quantize a weight and learn from it, a step
_OFFSET = 9.4e-9  # its offset, a step
_TRANSFORMED = 3.4e-9  # a weight through the Hadamard transform and its gradient back, a step
_SEARCHED = 5.0e-8  # a weight whose clipping starts at the least error
_OPERATION = 3.8e-12  # a multiplication or addition of a matrix product
_TARGET = 5.0e-8  # a value that a block gives and the end-to-end pass holds to full precision's
_VALUE = 1.0e-8  # to quantize a value that a linear reads or writes, a step
_MAP = 3.6e-8  # an entry of an attention map that is compared, a step
_ATTENTION = 2.2e-10  # an entry and channel of one that is not, a step
_TABLED = 1.4e-7  # a weight in the diagnostics

# Disk
_LINEAR_FILE_BYTES = 14 << 10  # a linear's histograms and levels
_SHOWN_TOKENS, _SHOWN_BYTES = 48, 16  # of an attention map that is shown, and what an entry takes
_ROW_BYTES = 28  # learned clipping of an output channel, in the block's file and in a table


@dataclass(frozen=True)
class Work:
    """What a calibration job does, as far as its cost depends on it.

    epochs: 0 where nothing is learned.  rounding: an offset for every weight.  search: clipping starts at the least
    error.  hadamard: weights are transformed.  akl: attention maps are compared, made anew in every step; akl_per_head:
    those of every head.  end_to_end_segments: 0 where no pass follows the blocks.  block_targets: their outputs are
    held to full precision's in it.  device: where blocks are worked on; home: where the model and the segments' hidden
    states are: "cpu" or an accelerator.  diagnosed, evaluated: segments and tokens of each.
    """

    segments: int = 32
    seq_len: int = 256
    epochs: int = DEFAULT_EPOCHS
    rounding: bool = False
    search: bool = False
    hadamard: bool = False
    akl: bool = True
    akl_per_head: bool = False
    end_to_end_segments: int = 0
    block_targets: bool = False
    device: str = _HOST
    home: str = _HOST
    diagnosed: tuple[int, int] = (8, 256)
    evaluated: tuple[int, int] = (32, 512)

    @classmethod
    def of(cls, spec: CalibrationSpec, home: str = _HOST) -> "Work":
        """The work of a calibration of a model that is loaded to `home`."""
        switches = spec.active_switches
        return cls(
            segments=spec.segments,
            seq_len=spec.seq_len,
            epochs=spec.active_epochs,
            rounding=switches.rounding,
            search=switches.clip_search,
            hadamard=switches.hadamard and spec.precision.quantizes_activations,
            akl=switches.akl and spec.active_epochs > 0,
            akl_per_head=switches.akl_per_head,
            end_to_end_segments=spec.active_end_to_end_segments if spec.learns_end_to_end else 0,
            block_targets=switches.block_targets,
            device=spec.device,
            home=home,
            diagnosed=(min(8, spec.segments), min(256, spec.seq_len)),
        )

    @property
    def moves(self) -> bool:
        """True where blocks are copied to another device than the model's."""
        return self.device.partition(":")[0] != self.home.partition(":")[0]


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak. host: of the process.  device: of the accelerator, 0 where none is used."""

    host: int
    device: int


@dataclass(frozen=True)
class _Sizes:
    """What all formulas are made of. Lists have an entry a block; weights are those of its linears."""

    weights: list[int]
    largest: int  # of all linears
    channels: list[int]  # that its linears read and write for one token

    @classmethod
    def of(cls, shape: ModelShape) -> "_Sizes":
        blocks = [list(shape.block_linears(index).values()) for index in range(shape.blocks)]
        return cls(
            weights=[sum(rows * k for rows, k in block) for block in blocks],
            largest=max(rows * k for block in blocks for rows, k in block),
            channels=[sum(rows + k for rows, k in block) for block in blocks],
        )


def memory(shape: ModelShape, work: Work, packed: int) -> Memory:
    """Where a calibration, the diagnostics and the evaluation after it have their peak. packed: bytes of the linears
    as a run stores them.
    """
    sizes, model = _Sizes.of(shape), shape.parameters * _FLOAT
    weights = sum(sizes.weights) * _FLOAT
    streams = _STREAMS * work.segments * work.seq_len * shape.hidden * _FLOAT
    drafts = weights if work.end_to_end_segments and work.rounding else 0
    block = _block_bytes(shape, sizes, work) + drafts
    together = _pass_bytes(shape, sizes, work) if work.end_to_end_segments else 0
    measuring = max(_diagnosing_bytes(shape, sizes, work), _evaluating_bytes(shape, sizes, work))
    if not work.moves:
        at_home, away = max(streams + block, together, measuring), 0
    else:
        copied = max(sizes.weights) * _FLOAT
        at_home = max(streams, measuring)
        away = max(copied + block, model + max(together, block) if together else 0)
    at_home = model + round(SLACK * at_home)
    away = round(SLACK * away)
    read = model + packed // shape.blocks  # on its way to wherever it is going
    if work.home == _HOST:
        return Memory(_PROCESS_BYTES + at_home, DEVICE_BYTES + away if work.moves else 0)
    return Memory(_PROCESS_BYTES + max(read, away), DEVICE_BYTES + at_home)


def _block_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """While one block is worked on, beside the block itself."""
    values = _VALUES * work.seq_len * max(sizes.channels)
    if work.epochs == 0:
        return round((_ROUNDING * max(sizes.weights) + _LINEAR * sizes.largest + values) * _FLOAT)
    copies = _LEARNING + (_OFFSETS if work.rounding else 0)
    maps = 0 if not work.akl else _HEAD_MAPS if work.akl_per_head else _MAPS
    entries = copies * max(sizes.weights) + _LINEAR * sizes.largest + values + maps * shape.heads * work.seq_len**2
    return round(entries * _FLOAT)


def _pass_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """While all blocks learn together, beside the model: of each what learning alone has, and the logits."""
    copies = _LEARNING + _BFLOAT16 + (_OFFSETS if work.rounding else 0)
    tokens = max(_PASS_TOKENS, work.seq_len)
    values = tokens * (_VALUES * sum(sizes.channels) + _LOGITS * shape.vocabulary + _held(shape, work))
    return round((copies * sum(sizes.weights) + _LINEAR * sizes.largest + values) * _FLOAT)


def _held(shape: ModelShape, work: Work) -> int:
    """Values a token that blocks give and the end-to-end pass holds to full precision's."""
    return shape.blocks * shape.hidden if work.block_targets else 0


def _diagnosing_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    segments, tokens = work.diagnosed
    maps = _DIAGNOSED_MAPS * segments * shape.heads * tokens**2
    return _TABLES_BYTES + round((maps + _LEARNING * max(sizes.weights) + _LINEAR * sizes.largest) * _FLOAT)


def _evaluating_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """The quantized model shares all but its blocks with the other one."""
    logits = min(_EVALUATED_LOGITS, 4 * work.evaluated[1] * shape.vocabulary)
    return (sum(sizes.weights) + logits) * _FLOAT + (_TABLES_BYTES if work.diagnosed[0] else 0)


def disk(shape: ModelShape, work: Work, packed: int) -> int:
    """Bytes of a run's folder when it is largest. Blocks that have yet to learn together leave drafts: the offsets.

    packed: as for `memory`.
    """
    linears = [linear for index in range(shape.blocks) for linear in shape.block_linears(index).values()]
    shown = shape.blocks * shape.heads * min(_SHOWN_TOKENS, work.diagnosed[1]) ** 2 // 2
    tables = len(linears) * _LINEAR_FILE_BYTES + shown * _SHOWN_BYTES
    learned = sum(rows for rows, _ in linears) * _ROW_BYTES if work.epochs else 0
    drafts = sum(rows * k for rows, k in linears) * _FLOAT if work.end_to_end_segments and work.rounding else 0
    return max(packed, drafts) + tables + learned


def seconds(shape: ModelShape, work: Work) -> float:
    """Of one reference core, from the start of the process to the end of the evaluation; another core's differ by a
    factor.
    """
    sizes = _Sizes.of(shape)
    weights, channels = sum(sizes.weights), sum(sizes.channels)
    tokens = work.segments * work.seq_len
    walk = 3 * _forward_seconds(shape, weights, channels, work.segments, work.seq_len) + 3 * weights * _WEIGHT
    if work.search:
        walk += weights * _SEARCHED
    steps = work.epochs * work.segments
    walk += steps * shape.blocks * _STEP + steps * weights * _learned(work)
    walk += work.epochs * tokens * (6 * weights * _OPERATION + channels * _VALUE)
    squares = steps * shape.blocks * work.seq_len**2
    walk += squares * (shape.heads * _MAP if work.akl else shape.hidden * _ATTENTION)
    return _START + walk + _pass_seconds(shape, work, weights, channels) + _measuring_seconds(shape, work, sizes)


def _learned(work: Work) -> float:
    return _WEIGHT + (_OFFSET if work.rounding else 0.0) + (_TRANSFORMED if work.hadamard else 0.0)


def _forward_seconds(shape: ModelShape, weights: int, channels: int, segments: int, seq_len: int) -> float:
    """All blocks without gradients."""
    tokens = segments * seq_len
    attention = segments * shape.blocks * seq_len**2 * shape.hidden * _ATTENTION / 3
    return tokens * (2 * weights * _OPERATION + channels * _VALUE / 4) + attention


def _pass_seconds(shape: ModelShape, work: Work, weights: int, channels: int) -> float:
    if not work.end_to_end_segments:
        return 0.0
    steps = -(-work.end_to_end_segments // max(1, _PASS_TOKENS // work.seq_len))
    tokens = work.end_to_end_segments * work.seq_len
    head = 2 * shape.vocabulary * shape.hidden
    learning = 6 * weights + 2 * head  # the head itself learns nothing
    attention = work.end_to_end_segments * shape.blocks * work.seq_len**2 * shape.hidden * _ATTENTION
    return (
        steps * (shape.blocks * _STEP + weights * _learned(work))
        + tokens * (channels + shape.vocabulary) * _VALUE
        + tokens * _held(shape, work) * _TARGET
        + tokens * (learning + 2 * weights + head) * _OPERATION
        + attention
    )


def _measuring_seconds(shape: ModelShape, work: Work, sizes: _Sizes) -> float:
    """Diagnostics and evaluation: of full precision, of the quantized model, and of both compared."""
    weights, channels = sum(sizes.weights), sum(sizes.channels)
    diagnosed = 3 * _forward_seconds(shape, weights, channels, *work.diagnosed) + weights * _TABLED
    segments, tokens = work.evaluated
    logits = 3 * segments * tokens * shape.vocabulary * (2 * shape.hidden * _OPERATION + _VALUE)
    return diagnosed + 3 * _forward_seconds(shape, weights, channels, segments, tokens) + logits
