"""What a calibration will take (bytes on disk, peak memory, seconds), from shapes alone, before anything is loaded.

Sizes are exact up to a few per cent. Memory is an upper bound and time is rough: both rest on the constants below,
which were fitted to runs of LLaMA blocks of 256 to 1,024 channels on one x86 core.
"""

from collections.abc import Callable
from dataclasses import dataclass

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.models import ModelShape
from abq_core.precision import Precision
from abq_core.quantizers import weight_groups
from abq_core.spec import DEFAULT_EPOCHS

_HALF, _SINGLE = 2, 4  # bytes of a value
_SCALE_BYTES = 5  # a float32 scale and a one-byte zero point
_PROCESS_BYTES = 600 << 20  # Python with torch and transformers, nothing loaded
_BLOCK_COPIES = 12  # a block's float weights, their fake-quantized forms, gradients and optimizer states
_STREAM_COPIES = 6  # hidden states of all segments: into the block and out of it, full precision and quantized
_ACTIVATION_COPIES = 4  # inputs and outputs of a block's linears, and what autograd keeps of them
_MAP_COPIES = 6  # attention maps of all heads, and what autograd keeps of them
_RUN_OVERHEAD_BYTES = 16 << 20  # norms, learned values, diagnostics
_PASS_COPIES = 14  # of all blocks' weights, in the end-to-end pass: what _BLOCK_COPIES has, with the rounding offsets
_PASS_TOKENS = 1024  # of one of its steps
_LOGIT_COPIES = 6  # of such a step, full precision and quantized, and what autograd keeps of them
_FLOPS = 2.4e10  # sustained by an optimisation step on one core
_STARTUP_SECONDS = 10.0


class EstimateError(ValueError):
    """A calibration that cannot fit into the memory or onto the disk that there is."""


@dataclass(frozen=True)
class Estimate:
    """full_bytes: the model in FP16.  quantized_bytes: bit planes, scales and zero points of the blocks' linears; the
    rest in FP16.  ratio: of the two.  linears_ratio: of the linears alone.  run_bytes: what the run's folder takes on
    disk. peak_memory_bytes: of the worker, an upper bound.  seconds: rough, on one core.
    """

    shape: ModelShape
    precision: ModelPrecision
    segments: int
    seq_len: int
    epochs: int
    end_to_end_segments: int
    full_bytes: int
    quantized_bytes: int
    ratio: float
    linears_ratio: float
    run_bytes: int
    peak_memory_bytes: int
    seconds: float

    def refuse(self, memory_available: int, disk_available: int) -> None:
        """Raise EstimateError where this cannot fit into so many bytes, and say what would."""
        if self.run_bytes > disk_available:
            raise EstimateError(
                f"The run would take {_size(self.run_bytes)} on disk and {_size(disk_available)} are free: free some, "
                "use fewer bits, or choose another data folder (ABQ_DATA_DIR)."
            )
        if self.peak_memory_bytes > memory_available:
            raise EstimateError(
                f"The calibration would need about {_size(self.peak_memory_bytes)} of memory and "
                f"{_size(memory_available)} are available: {self._what_would_fit(memory_available)}"
            )

    def _what_would_fit(self, memory_available: int) -> str:
        def fits(segments: int, seq_len: int) -> bool:
            smaller = estimate(self.shape, self.precision, segments, seq_len, self.epochs, self.end_to_end_segments)
            return smaller.peak_memory_bytes <= memory_available

        if segments := _largest(self.segments, lambda n: fits(n, self.seq_len)):
            return f"use at most {segments} segments of {self.seq_len} tokens."
        if seq_len := _largest(self.seq_len, lambda n: fits(1, n)):
            return f"use shorter segments, at most 1 of {seq_len} tokens."
        if (
            self.end_to_end_segments
            and estimate(self.shape, self.precision, 1, 8).peak_memory_bytes <= memory_available
        ):
            return "leave the end-to-end pass away (--switch end_to_end=false), which holds all blocks at once."
        return f"'{self.shape.ref}' is too large for this machine; choose a model with fewer parameters."


def estimate(
    shape: ModelShape,
    precision: ModelPrecision,
    segments: int = 32,
    seq_len: int = 256,
    epochs: int = DEFAULT_EPOCHS,
    end_to_end_segments: int = 0,
) -> Estimate:
    """What calibrating a model of this shape takes. epochs: 0 for methods that learn nothing; end_to_end_segments: 0
    for those without such a pass.

    Raises MixError where a mix was made for a model of another shape.
    """
    blocks = range(shape.blocks)
    if isinstance(precision, PrecisionMix):
        precision.check({(i, name): n * k for i in blocks for name, (n, k) in shape.block_linears(i).items()})
    weights = sum(_block_weights(shape, block) for block in blocks)
    rest = (shape.parameters - weights) * _HALF
    linears = sum(
        linear_bytes(rows, k, precision.of_linear(block, name))
        for block in blocks
        for name, (rows, k) in shape.block_linears(block).items()
    )
    full = shape.parameters * _HALF
    return Estimate(
        shape=shape,
        precision=precision,
        segments=segments,
        seq_len=seq_len,
        epochs=epochs,
        end_to_end_segments=end_to_end_segments,
        full_bytes=full,
        quantized_bytes=rest + linears,
        ratio=full / (rest + linears),
        linears_ratio=weights * _HALF / linears,
        run_bytes=linears + _RUN_OVERHEAD_BYTES,
        peak_memory_bytes=_peak_memory(shape, segments, seq_len, linears, end_to_end=end_to_end_segments > 0),
        seconds=_seconds(shape, segments, seq_len, epochs, end_to_end_segments),
    )


def _block_weights(shape: ModelShape, block: int) -> int:
    return sum(rows * k for rows, k in shape.block_linears(block).values())


def linear_bytes(rows: int, k: int, precision: Precision) -> int:
    """What a weight of (rows, k) takes: bit planes, scales and zero points, or FP16 where it is not quantized."""
    if not precision.quantizes_weights:
        return rows * k * _HALF
    return rows * k * precision.stored_bits // 8 + rows * weight_groups(k, precision) * _SCALE_BYTES


def _peak_memory(shape: ModelShape, segments: int, seq_len: int, packed: int, end_to_end: bool) -> int:
    """The largest of calibrating (model, one optimised block), the end-to-end pass (all blocks) and evaluating (model,
    quantized copy, packed copy).
    """
    weights = [_block_weights(shape, block) * _SINGLE for block in range(shape.blocks)]
    stream = segments * seq_len * shape.hidden * _SINGLE
    head_maps = shape.heads * seq_len**2 * _SINGLE
    channels = max(sum(rows + k for rows, k in shape.block_linears(i).values()) for i in range(shape.blocks))
    activations = seq_len * channels * _SINGLE
    calibrating = _BLOCK_COPIES * max(weights) + _STREAM_COPIES * stream + _MAP_COPIES * head_maps
    calibrating += _ACTIVATION_COPIES * activations
    evaluating = sum(weights) + packed
    together = 0
    if end_to_end:
        step = _ACTIVATION_COPIES * shape.blocks * channels + _LOGIT_COPIES * shape.vocabulary
        together = _PASS_COPIES * sum(weights) + _PASS_TOKENS * step * _SINGLE
    return _PROCESS_BYTES + shape.parameters * _SINGLE + max(calibrating, together, evaluating)


def _seconds(shape: ModelShape, segments: int, seq_len: int, epochs: int, end_to_end_segments: int) -> float:
    """Steps (and one pass for the targets) of 6 operations a weight and token, and the attention's own."""
    weights = sum(_block_weights(shape, block) for block in range(shape.blocks))
    operations = 6 * weights * seq_len + 4 * shape.blocks * seq_len**2 * shape.hidden
    return _STARTUP_SECONDS + ((epochs + 1) * segments + end_to_end_segments) * operations / _FLOPS


def _largest(below: int, fits: Callable[[int], bool]) -> int:
    """The largest whole number under `below` that fits, 0 where none does; what fits, fits when smaller too."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
