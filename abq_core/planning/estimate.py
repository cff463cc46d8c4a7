"""What a calibration will take (size, memory, room on the disk, time) from shapes alone, before anything is loaded, and
the refusal of what cannot fit. How much what costs stands in cost.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.models.shape import ModelShape
from abq_core.planning.cost import Work, disk, memory, seconds
from abq_core.precision import Precision
from abq_core.quantization.quantizers import weight_groups

_HALF = 2  # bytes of a value
_SCALE_BYTES = 5  # a float32 scale and a one-byte zero point
_HOST = "cpu"
_KEEP_HOME = "Keep the model in the host's memory (ABQ_DEVICE=cpu): its blocks move"
_LEAVE_PASS = "Leave the end-to-end pass away (--switch end_to_end=false), which holds all blocks at once"


class EstimateError(ValueError):
    """A calibration that cannot fit into the memory or onto the disk that there is."""


@dataclass(frozen=True)
class Available:
    """Bytes that are free. host, device: memory; device is None where none is used or nobody can say.  disk: where
    runs are kept.
    """

    host: int
    disk: int
    device: int | None = None


@dataclass(frozen=True)
class Estimate:
    """full_bytes: the model in FP16.  quantized_bytes: bit planes, scales and zero points of the blocks' linears; the
    rest in FP16.  ratio: of the two.  linears_ratio: of the linears alone.  run_bytes: what the run's folder takes
    when it is largest.  peak_memory_bytes: of the worker.  device_memory_bytes: of its accelerator, 0 without one.
    seconds: rough, on one core of a CPU, also where the work is done on another device.
    """

    shape: ModelShape
    precision: ModelPrecision
    work: Work
    full_bytes: int
    quantized_bytes: int
    ratio: float
    linears_ratio: float
    run_bytes: int
    peak_memory_bytes: int
    device_memory_bytes: int
    seconds: float

    def refuse(self, available: Available) -> None:
        """Raise EstimateError where this cannot fit, with the numbers, and say what would."""
        if self._fits(available):
            return
        lacks = [
            f"{_size(needed)} of {what} ({_size(free)} free)"
            for what, needed, free in self._needs(available)
            if needed > free
        ]
        advice = next((text for text, other in self._others(available) if other._fits(available)), None)
        if advice is None and self.run_bytes > available.disk:
            advice = "Free some room on the disk, or choose another data folder (ABQ_DATA_DIR)."
        if advice is None:
            advice = f"'{self.shape.ref}' is too large for this machine: choose a model with fewer parameters."
        raise EstimateError(f"The calibration would take about {', '.join(lacks)}. {advice}")

    def _needs(self, available: Available) -> list[tuple[str, int, int]]:
        """What is needed and what is free of it."""
        needs = [("memory", self.peak_memory_bytes, available.host), ("disk", self.run_bytes, available.disk)]
        if available.device is not None:
            needs.append((f"memory of {self.work.device}", self.device_memory_bytes, available.device))
        return needs

    def _fits(self, available: Available) -> bool:
        return all(needed <= free for _, needed, free in self._needs(available))

    def _others(self, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        """Smaller calibrations and what to do for each, those first that change the result least."""
        work = self.work
        if work.home != _HOST:
            home = replace(work, home=_HOST)
            yield f"{_KEEP_HOME}.", self._with(home)
            if work.end_to_end_segments:
                yield f"{_KEEP_HOME}. {_LEAVE_PASS}.", self._with(replace(home, end_to_end_segments=0))
        yield from self._fewer("Use", work, available)
        if work.end_to_end_segments:
            alone = replace(work, end_to_end_segments=0)
            yield f"{_LEAVE_PASS}.", self._with(alone)
            yield from self._fewer(f"{_LEAVE_PASS}, and use", alone, available)
            yield from self._shorter(f"{_LEAVE_PASS}, and use", alone, available)
        yield from self._shorter("Use", work, available)

    def _fewer(self, words: str, work: Work, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        count = _largest(work.segments, lambda n: self._with(replace(work, segments=n))._fits(available))
        if count:
            fitting = self._with(replace(work, segments=count))
            yield f"{words} at most {count} segments of {work.seq_len} tokens.", fitting

    def _shorter(self, words: str, work: Work, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        one = replace(work, segments=1)
        length = _largest(work.seq_len, lambda n: self._with(replace(one, seq_len=n))._fits(available))
        if length:
            fitting = self._with(replace(one, seq_len=length))
            yield f"{words} shorter segments, at most 1 of {length} tokens.", fitting

    def _with(self, work: Work) -> "Estimate":
        return estimate(self.shape, self.precision, work)


def estimate(shape: ModelShape, precision: ModelPrecision, work: Work | None = None) -> Estimate:
    """What calibrating a model of this shape takes. work: by default that of `Work()`.

    Raises MixError where a mix was made for a model of another shape.
    """
    work = work or Work()
    blocks = range(shape.blocks)
    if isinstance(precision, PrecisionMix):
        precision.check({(i, name): n * k for i in blocks for name, (n, k) in shape.block_linears(i).items()})
    weights = sum(rows * k for block in blocks for rows, k in shape.block_linears(block).values())
    rest = (shape.parameters - weights) * _HALF
    linears = sum(
        linear_bytes(rows, k, precision.of_linear(block, name))
        for block in blocks
        for name, (rows, k) in shape.block_linears(block).items()
    )
    full = shape.parameters * _HALF
    needed = memory(shape, work, linears)
    return Estimate(
        shape=shape,
        precision=precision,
        work=work,
        full_bytes=full,
        quantized_bytes=rest + linears,
        ratio=full / (rest + linears),
        linears_ratio=weights * _HALF / linears,
        run_bytes=disk(shape, work, linears),
        peak_memory_bytes=needed.host,
        device_memory_bytes=needed.device,
        seconds=seconds(shape, work),
    )


def linear_bytes(rows: int, k: int, precision: Precision) -> int:
    """What a weight of (rows, k) takes: bit planes, scales and zero points, or FP16 where it is not quantized."""
    if not precision.quantizes_weights:
        return rows * k * _HALF
    return rows * k * precision.stored_bits // 8 + rows * weight_groups(k, precision) * _SCALE_BYTES


def _largest(below: int, fits: Callable[[int], bool]) -> int:
    """The largest whole number under `below` that fits, 0 where none does; what fits, fits when smaller too."""
    low, high = 0, below
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.{1 if unit == 'GiB' else 0}f} {unit}"
    return f"{count / 2**10:.0f} KiB"
