"""The cost model of a calibration, from shapes alone: memory, disk space and seconds.

The memory constants follow from what the code keeps, tensor by tensor; the time constants were fitted to the stages of
calibrations on one core of a server CPU, the reference core. The cost of a single switch is part of its definition
(abq_core/methods.py). docs/cost.md shows how well the model holds; benchmarks/calibration_cost.py measures it again.
"""

from dataclasses import dataclass, replace

from abq_core.analysis.block_frames import ATTENTION_TOKENS
from abq_core.analysis.diagnostics import DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN
from abq_core.calibration.end_to_end import STEP_TOKENS, segments_per_step
from abq_core.calibration.hidden_states import IN_MEMORY_BYTES
from abq_core.evaluation.perplexity import LOGITS_AT_ONCE
from abq_core.methods import METHOD_TABLE, METHODS, Switches
from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.models.shape import ModelShape
from abq_core.quantization.plane_reading import fewer_planes
from abq_core.spec import EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN, CalibrationSpec

HOST = "cpu"
_FLOAT_BYTES = 4

# Memory. Factors without a unit are float32 copies of the weights of a block's linears.
_PROCESS_BYTES = 560 << 20  # Python with torch, transformers and a short text
_TABLES_BYTES = 150 << 20  # loaded and held by the diagnostics to write their tables
DEVICE_BYTES = 600 << 20  # CUDA itself
SLACK = 1.1  # fragmentation: free memory in pieces too small for a request
_STORED_BYTES = 2  # per parameter of a checkpoint
_LEARNING_STREAMS = 4  # hidden states of all segments: into a block and out of it, full precision and quantized
_ROUNDING_STREAMS = 2  # full precision and quantized
_ROUNDING = 2.0  # a block that is rounded: balance folded in, int16 codes, and dequantized in a copy
_LEARNING = 2.75  # a block that learns: balance folded in (linears of two pairs twice), on its grid, clipping masks
_LINEAR = 6.5  # copies of the largest linear, while its gradients are computed
_VALUES = 1.6  # copies of what a block's linears read and write
_OFFSET = 0.5  # of all weights: their rounding offsets in float16, until the end-to-end pass is done
_BFLOAT16 = 0.5  # of a block's weights: learning multiplies in bfloat16 where that is fast
_STEPPED = 2.0  # offsets of a block in float32, and their gradients
_LOGITS = 6  # copies of the logits of one step of that pass
_DIAGNOSED_MAPS = 9  # copies of the diagnosed segments' attention maps: three models, compared
_EVALUATED_LOGITS = 4 * LOGITS_AT_ONCE  # entries

# Seconds on the reference core
_START = 5.0  # Python, torch, the text
_STEP = 7.4e-3  # per optimizer step and block, independent of its size
_WEIGHT = 6.3e-9  # per weight and step, to quantize it and learn from it
_OPERATION = 3.8e-12  # per multiplication or addition of a matrix product
_VALUE = 1.0e-8  # per value that a linear reads or writes and step, to quantize it
_ATTENTION = 2.2e-10  # per attention entry, channel and step, if maps are not compared
_TABLED = 1.4e-7  # per weight in the diagnostics

# Disk
_LINEAR_FILE_BYTES = 14 << 10  # histograms and levels of one linear
_MAP_ENTRY_BYTES = 16  # per entry of an attention map that is shown
_ROW_BYTES = 28  # learned clipping of an output channel, in the block's file and in a table


@dataclass(frozen=True)
class Work:
    """The parts of a calibration job that its cost depends on.

    epochs: 0 if nothing is learned.  end_to_end_segments: 0 without an end-to-end pass.  device: where blocks
    are worked on.  home: where the model and the segments' hidden states are, "cpu" or an accelerator.  diagnosed,
    evaluated: number of segments and tokens in each.
    """

    segments: int = 32
    seq_len: int = 256
    epochs: int = METHOD_TABLE["abq"].epochs
    batch: int = 1
    switches: Switches = METHODS["abq"]
    end_to_end_segments: int = 0
    device: str = HOST
    home: str = HOST
    diagnosed: tuple[int, int] = (DIAGNOSED_SEGMENTS, DIAGNOSED_SEQ_LEN)
    evaluated: tuple[int, int] = (EVALUATION_SEGMENTS, EVALUATION_SEQ_LEN)

    @classmethod
    def of(cls, spec: CalibrationSpec, home: str = HOST) -> "Work":
        """The work of a calibration of a model that is loaded to `home`."""
        switches = spec.active_switches
        if not spec.precision.quantizes_activations:  # then nothing is transformed
            switches = replace(switches, hadamard=False)
        if not _can_be_nested(spec.precision):
            switches = replace(switches, nested=False)
        return cls(
            segments=spec.segments,
            seq_len=spec.seq_len,
            epochs=spec.active_epochs,
            batch=spec.batch,
            switches=switches,
            end_to_end_segments=spec.active_end_to_end_segments,
            device=spec.device,
            home=home,
            diagnosed=(min(DIAGNOSED_SEGMENTS, spec.segments), min(DIAGNOSED_SEQ_LEN, spec.seq_len)),
        )

    @property
    def moves(self) -> bool:
        """True if blocks are copied to another device than the model's."""
        return self.device.partition(":")[0] != self.home.partition(":")[0]

    @property
    def stores_drafts(self) -> bool:
        """True if the rounding offsets of all blocks are kept until the end-to-end pass."""
        return self.end_to_end_segments > 0 and self.switches.rounding


def _can_be_nested(precision: ModelPrecision) -> bool:
    """Whether the weights of any linear can be read at fewer planes."""
    linears = [one.precision for one in precision.linears] if isinstance(precision, PrecisionMix) else [precision]
    return any(fewer_planes(one) for one in linears)


@dataclass(frozen=True)
class Memory:
    """Peak bytes. host: of the process.  device: of the accelerator, 0 if none is used."""

    host: int
    device: int


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a model's linears. weights, channels: one entry per block."""

    weights: list[int]
    largest: int  # weights of the largest linear
    channels: list[int]  # values that the block's linears read and write for one token

    @classmethod
    def of(cls, shape: ModelShape) -> "_Sizes":
        blocks = [list(shape.block_linears(index).values()) for index in range(shape.blocks)]
        return cls(
            weights=[sum(rows * k for rows, k in block) for block in blocks],
            largest=max(rows * k for block in blocks for rows, k in block),
            channels=[sum(rows + k for rows, k in block) for block in blocks],
        )


def memory(shape: ModelShape, work: Work, packed: int, rounded_tables: int = 0) -> Memory:
    """Peak memory of a calibration with its diagnostics and evaluation.

    packed: bytes of the linears as a run stores them.  rounded_tables: number of tables (embedding, LM head) of which
    the quantized model has a rounded copy.
    """
    sizes = _Sizes.of(shape)
    held, made = _model_bytes(shape, sizes, work)
    states = state_bytes(shape, work)
    streams = 0 if states > IN_MEMORY_BYTES and work.home == HOST else _streams(work) * states
    drafts = round(_OFFSET * sum(sizes.weights) * _FLOAT_BYTES) if work.stores_drafts else 0
    block = _block_bytes(shape, sizes, work) + drafts
    together = _pass_bytes(shape, sizes, work) + made if work.end_to_end_segments else 0
    whole = (stored_bytes(shape) if made else 0) if together else 0  # the pass reads all blocks at every step
    table = shape.table[0] * shape.table[1] * _FLOAT_BYTES
    rotated = 2 * table if work.switches.rotation else 0
    held += rotated
    measuring = (
        max(_diagnosing_bytes(shape, sizes, work), _evaluating_bytes(shape, sizes, work)) + rounded_tables * table
    )
    if not work.moves:
        at_home, away = max(streams + made + block, whole + together, made + measuring), 0
    else:
        copied, model = max(sizes.weights) * _FLOAT_BYTES, stored_bytes(shape) + rotated if made else held
        at_home = max(streams, made + measuring)
        away = max(copied + block, model + max(together, block) if together else 0)
    at_home = held + round(SLACK * at_home)
    away = round(SLACK * away)
    if work.home == HOST:
        return Memory(_PROCESS_BYTES + at_home, DEVICE_BYTES + away if work.moves else 0)
    read = held + packed // shape.blocks  # while it is loaded
    return Memory(_PROCESS_BYTES + max(read, away), DEVICE_BYTES + at_home)


def stored_bytes(shape: ModelShape) -> int:
    """Bytes of the checkpoint, assumed to be in 16 bits."""
    return shape.parameters * _STORED_BYTES


def state_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the hidden states of all segments at one place of the model."""
    return work.segments * work.seq_len * shape.hidden * _FLOAT_BYTES


def temporary_bytes(shape: ModelShape, work: Work) -> int:
    """Bytes of the temporary files of hidden states; 0 if these fit in memory."""
    states = state_bytes(shape, work)
    return _streams(work) * states if states > IN_MEMORY_BYTES and work.home == HOST else 0


def _streams(work: Work) -> int:
    """Hidden states of all segments that exist at once; outputs overwrite inputs that nothing learns from."""
    return _LEARNING_STREAMS if work.epochs else _ROUNDING_STREAMS


def _model_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> tuple[int, int]:
    """Bytes of the model that are in memory all the time, and those of a block while it is worked on.

    A large checkpoint on the host stays in its files: the pages of its embedding and LM head, and those of one block
    and its float32 copy. A GGUF file is dequantized as a whole.
    """
    if work.home != HOST or not shape.is_mapped:
        return shape.parameters * _FLOAT_BYTES, 0
    outside = shape.parameters - sum(sizes.weights)
    return outside * _STORED_BYTES, max(sizes.weights) * (_FLOAT_BYTES + _STORED_BYTES)


def _block_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """Bytes while one block is worked on, without the block itself."""
    values = _VALUES * work.batch * work.seq_len * max(sizes.channels)
    if work.epochs == 0:
        return round((_ROUNDING * max(sizes.weights) + _LINEAR * sizes.largest + values) * _FLOAT_BYTES)
    cost = work.switches.cost
    copies = _LEARNING + _BFLOAT16 + cost.learned_copies
    maps = cost.map_copies * shape.heads * work.batch * work.seq_len**2
    return round((copies * max(sizes.weights) + _LINEAR * sizes.largest + values + maps) * _FLOAT_BYTES)


def _pass_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """Bytes while all blocks learn together, without the model itself.

    The offsets of every block, what one block needs to quantize its weights and to learn, the hidden states between
    blocks, and the logits.
    """
    tokens = max(STEP_TOKENS, work.seq_len)
    offsets = _OFFSET * sum(sizes.weights) if work.switches.rounding else 0
    block = (_LEARNING + _BFLOAT16 + _STEPPED) * max(sizes.weights) + _LINEAR * sizes.largest
    hidden = shape.blocks * shape.hidden + _target_values(shape, work)
    values = tokens * (_VALUES * max(sizes.channels) + hidden + _LOGITS * shape.vocabulary)
    return round((offsets + block + values) * _FLOAT_BYTES)


def _target_values(shape: ModelShape, work: Work) -> int:
    """Block outputs per token that the end-to-end pass matches to full precision."""
    return shape.blocks * shape.hidden if work.switches.block_targets else 0


def _diagnosing_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    segments, tokens = work.diagnosed
    maps = _DIAGNOSED_MAPS * segments * shape.heads * tokens**2
    return _TABLES_BYTES + round((maps + _LEARNING * max(sizes.weights) + _LINEAR * sizes.largest) * _FLOAT_BYTES)


def _evaluating_bytes(shape: ModelShape, sizes: _Sizes, work: Work) -> int:
    """Both models run block by block; a quantized block is built from its codes.

    The last hidden states and the float32 LM head of both, and the logits of a part.
    """
    segments, tokens = work.evaluated
    logits = min(_EVALUATED_LOGITS, 4 * tokens * shape.vocabulary)
    values = _ROUNDING * max(sizes.weights) + logits
    values += 2 * (segments * tokens + shape.vocabulary) * shape.hidden
    return round(values * _FLOAT_BYTES) + (_TABLES_BYTES if work.diagnosed[0] else 0)


def disk(shape: ModelShape, work: Work, packed: int) -> int:
    """Bytes of a run's folder at its largest.

    Until the end-to-end pass, blocks are stored as drafts with offsets.
    packed: as for `memory`.
    """
    linears = [linear for index in range(shape.blocks) for linear in shape.block_linears(index).values()]
    shown = shape.blocks * shape.heads * min(ATTENTION_TOKENS, work.diagnosed[1]) ** 2 // 2
    tables = len(linears) * _LINEAR_FILE_BYTES + shown * _MAP_ENTRY_BYTES
    learned = sum(rows for rows, _ in linears) * _ROW_BYTES if work.epochs else 0
    drafts = round(sum(rows * k for rows, k in linears) * _OFFSET * _FLOAT_BYTES) if work.stores_drafts else 0
    return max(packed, drafts) + tables + learned


def seconds(shape: ModelShape, work: Work) -> float:
    """Seconds on one reference core, from the start of the process to the end of the evaluation.

    Another core differs by a factor.
    """
    sizes, cost = _Sizes.of(shape), work.switches.cost
    weights, channels = sum(sizes.weights), sum(sizes.channels)
    tokens = work.segments * work.seq_len
    walk = 3 * _forward_seconds(shape, weights, channels, work.segments, work.seq_len)
    walk += 3 * weights * _WEIGHT + weights * cost.weight_seconds
    steps = work.epochs * -(-work.segments // work.batch)
    walk += steps * shape.blocks * _STEP + steps * weights * (_WEIGHT + cost.weight_step_seconds)
    walk += work.epochs * tokens * (6 * weights * _OPERATION + channels * _VALUE)
    squares = work.epochs * work.segments * shape.blocks * work.seq_len**2
    walk += squares * (shape.heads * cost.map_seconds if work.switches.akl else shape.hidden * _ATTENTION)
    return _START + walk + _pass_seconds(shape, work, sizes) + _measuring_seconds(shape, work, sizes)


def _forward_seconds(shape: ModelShape, weights: int, channels: int, segments: int, seq_len: int) -> float:
    """All blocks without gradients."""
    tokens = segments * seq_len
    attention = segments * shape.blocks * seq_len**2 * shape.hidden * _ATTENTION / 3
    return tokens * (2 * weights * _OPERATION + channels * _VALUE / 4) + attention


def _pass_seconds(shape: ModelShape, work: Work, sizes: _Sizes) -> float:
    """The end-to-end pass; 0 without one."""
    if not work.end_to_end_segments:
        return 0.0
    cost, weights, channels = work.switches.cost, sum(sizes.weights), sum(sizes.channels)
    steps = -(-work.end_to_end_segments // segments_per_step(work.seq_len))
    tokens = work.end_to_end_segments * work.seq_len
    head = 2 * shape.vocabulary * shape.hidden
    learning = 8 * weights + 2 * head  # blocks run twice; the LM head itself does not learn
    attention = work.end_to_end_segments * shape.blocks * work.seq_len**2 * shape.hidden * _ATTENTION
    return (
        steps * (shape.blocks * _STEP + 1.5 * weights * (_WEIGHT + cost.weight_step_seconds))
        + 3 * steps * weights * cost.made_seconds
        + tokens * (channels + shape.vocabulary) * _VALUE
        + tokens * _target_values(shape, work) * cost.output_seconds
        + tokens * (learning + 2 * weights + head) * _OPERATION
        + attention
    )


def _measuring_seconds(shape: ModelShape, work: Work, sizes: _Sizes) -> float:
    """Seconds of the diagnostics, and of evaluating both models and comparing them."""
    weights, channels = sum(sizes.weights), sum(sizes.channels)
    diagnosed = 3 * _forward_seconds(shape, weights, channels, *work.diagnosed) + weights * _TABLED
    segments, tokens = work.evaluated
    logits = 3 * segments * tokens * shape.vocabulary * (2 * shape.hidden * _OPERATION + _VALUE)
    return diagnosed + 3 * _forward_seconds(shape, weights, channels, segments, tokens) + logits
