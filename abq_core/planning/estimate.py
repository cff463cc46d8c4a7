"""Preflight of a calibration: estimate its cost, and refuse it if it cannot fit.

Works from shapes alone, before anything is loaded; the cost model is in cost.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from abq_core.mix import ModelPrecision
from abq_core.models.shape import ModelShape
from abq_core.planning.cost import HOST, Work, disk, memory, seconds, temporary_bytes
from abq_core.planning.size import ModelSize, model_size

_HALF_BYTES = 2
_KEEP_HOME = "Keep the model in host memory (ABQ_DEVICE=cpu); blocks are then copied to the device one by one"
_LEAVE_PASS = "Switch off the end-to-end pass (--switch end_to_end=false), which holds all blocks at once"


class EstimateError(ValueError):
    """A calibration that does not fit into the available memory or disk space."""


@dataclass(frozen=True)
class Available:
    """Free bytes. host, device: memory; device is None if none is used or its memory is unknown.

    disk: of the runs.
    """

    host: int
    disk: int
    device: int | None = None


@dataclass(frozen=True)
class Estimate:
    """The estimate of one calibration.

    full_bytes: the model in FP16.  size: the quantized model, part by part.  ratio: full_bytes / quantized_bytes.
    linears_ratio: the same for the linears alone.  run_bytes: the run's folder at its largest.  temporary_bytes: files
    of hidden states that do not fit in memory.  peak_memory_bytes: of the worker process.  device_memory_bytes: of its
    accelerator, 0 without one.  seconds: by the cost model, on one reference core, even if the work is done on an
    accelerator.  pace: measured seconds over those of the cost model for earlier calibrations on this machine and
    device, or None.
    """

    shape: ModelShape
    precision: ModelPrecision
    work: Work
    full_bytes: int
    size: ModelSize
    ratio: float
    linears_ratio: float
    run_bytes: int
    temporary_bytes: int
    peak_memory_bytes: int
    device_memory_bytes: int
    seconds: float
    pace: float | None = None

    @property
    def expected_seconds(self) -> float | None:
        """Seconds on this machine; without a measured pace those of one reference core, or None on an accelerator."""
        if self.pace is None:
            return self.seconds if self.work.device == HOST else None
        return self.seconds * self.pace

    @property
    def quantized_bytes(self) -> int:
        """Bytes of all weights at this precision."""
        return self.size.total

    @property
    def bits_per_parameter(self) -> float:
        """Effective bits per parameter of the whole model."""
        return self.size.bits_per_parameter

    def refuse(self, available: Available) -> None:
        """Raise EstimateError if this does not fit.

        The message has the numbers and suggests what would fit.
        """
        if self._fits(available):
            return
        missing = [
            f"{_size(needed)} of {what} ({_size(free)} free)"
            for what, needed, free in self._needs(available)
            if needed > free
        ]
        advice = next((text for text, smaller in self._smaller(available) if smaller._fits(available)), None)
        if advice is None and self.run_bytes + self.temporary_bytes > available.disk:
            advice = "Free some disk space, or choose another data folder (ABQ_DATA_DIR)."
        if advice is None:
            advice = f"'{self.shape.ref}' is too large for this machine: choose a model with fewer parameters."
        raise EstimateError(f"The calibration would take about {', '.join(missing)}. {advice}")

    def _needs(self, available: Available) -> list[tuple[str, int, int]]:
        """Name, needed bytes and free bytes of each resource."""
        on_disk = self.run_bytes + self.temporary_bytes
        needs = [("memory", self.peak_memory_bytes, available.host), ("disk", on_disk, available.disk)]
        if available.device is not None:
            needs.append((f"memory of {self.work.device}", self.device_memory_bytes, available.device))
        return needs

    def _fits(self, available: Available) -> bool:
        return all(needed <= free for _, needed, free in self._needs(available))

    def _smaller(self, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        """Smaller calibrations as advice, ordered by how little they change the result."""
        work = self.work
        if work.home != HOST:
            home = replace(work, home=HOST)
            yield f"{_KEEP_HOME}.", self._with(home)
            if work.end_to_end_segments:
                yield f"{_KEEP_HOME}. {_LEAVE_PASS}.", self._with(replace(home, end_to_end_segments=0))
        yield from self._with_fewer_segments("Use", work, available)
        if work.end_to_end_segments:
            alone = replace(work, end_to_end_segments=0)
            yield f"{_LEAVE_PASS}.", self._with(alone)
            yield from self._with_fewer_segments(f"{_LEAVE_PASS}, and use", alone, available)
            yield from self._with_shorter_segments(f"{_LEAVE_PASS}, and use", alone, available)
        yield from self._with_shorter_segments("Use", work, available)

    def _with_fewer_segments(self, words: str, work: Work, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        count = _largest(work.segments, lambda n: self._with(replace(work, segments=n))._fits(available))
        if count:
            fitting = self._with(replace(work, segments=count))
            yield f"{words} at most {count} segments of {work.seq_len} tokens.", fitting

    def _with_shorter_segments(self, words: str, work: Work, available: Available) -> Iterator[tuple[str, "Estimate"]]:
        one = replace(work, segments=1)
        length = _largest(work.seq_len, lambda n: self._with(replace(one, seq_len=n))._fits(available))
        if length:
            fitting = self._with(replace(one, seq_len=length))
            yield f"{words} shorter segments: at most 1 of {length} tokens.", fitting

    def _with(self, work: Work) -> "Estimate":
        return estimate(self.shape, self.precision, work)


def estimate(shape: ModelShape, precision: ModelPrecision, work: Work | None = None) -> Estimate:
    """Estimate the calibration of a model of this shape. work: `Work()` by default.

    Raises MixError if a mix was made for a model of another shape, PrecisionError if a tied table has two numbers.
    """
    work = work or Work()
    rotated = work.switches.rotation
    size = model_size(shape, precision, rotated=rotated)
    weights = sum(rows * k for block in range(shape.blocks) for rows, k in shape.block_linears(block).values())
    full = shape.parameters * _HALF_BYTES
    rounded_tables = sum(bits is not None for bits in (precision.head_bits, precision.embedding_bits))
    needed = memory(shape, work, size.linears, min(rounded_tables, 1 if shape.tied and not rotated else 2))
    return Estimate(
        shape=shape,
        precision=precision,
        work=work,
        full_bytes=full,
        size=size,
        ratio=full / size.total,
        linears_ratio=weights * _HALF_BYTES / size.linears,
        run_bytes=disk(shape, work, size.linears),
        temporary_bytes=temporary_bytes(shape, work),
        peak_memory_bytes=needed.host,
        device_memory_bytes=needed.device,
        seconds=seconds(shape, work),
    )


def _largest(below: int, fits: Callable[[int], bool]) -> int:
    """The largest integer under `below` that fits, or 0.

    Assumes that everything smaller than a fitting one fits.
    """
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
