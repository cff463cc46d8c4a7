"""The text of a calibration, read before the first block is calibrated."""

from dataclasses import dataclass

from torch import Tensor

from abq_core.events import Message, OnEvent, TextRead, ignore
from abq_core.models.loading import LoadedModel
from abq_core.spec import CalibrationSpec
from abq_core.text.errors import ShortTextError
from abq_core.text.records import TextRecord
from abq_core.text.segments import recorded_segments
from abq_core.text.sources import BUILTIN_TEXT, BUILTIN_TRAIN_TEXT


@dataclass(frozen=True)
class CalibrationText:
    """Token ids, each (segments, tokens) int64. end_to_end: None without an end-to-end pass."""

    blocks: Tensor
    end_to_end: Tensor | None = None


def read_text(
    base: LoadedModel, spec: CalibrationSpec, on_event: OnEvent = ignore, prefix: tuple[int, ...] | None = None
) -> CalibrationText:
    """Read the segments of the blocks and of the end-to-end pass.

    Each read is announced by a `TextRead`. prefix: as for `recorded_segments`; a resumed run passes that of its record.
    Raises DataError if a text cannot be read, ShortTextError if it is too short.
    """
    ids, record = recorded_segments(
        spec.data, base.tokenizer, spec.segments, spec.seq_len, spec.seed, "calibration", prefix
    )
    on_event(TextRead(record))
    return CalibrationText(ids, _end_to_end_segments(base, spec, on_event, prefix) if spec.learns_end_to_end else None)


def _end_to_end_segments(
    base: LoadedModel, spec: CalibrationSpec, on_event: OnEvent, prefix: tuple[int, ...] | None
) -> Tensor:
    """Read the number of segments in the spec, or all segments of a shorter text.

    The calibration split of the built-in text is too small, so its training split is read instead.
    """
    source = BUILTIN_TRAIN_TEXT if spec.data == BUILTIN_TEXT else spec.data

    def read(count: int) -> tuple[Tensor, TextRecord]:
        return recorded_segments(source, base.tokenizer, count, spec.seq_len, spec.seed, "calibration", prefix)

    try:
        ids, record = read(spec.active_end_to_end_segments)
    except ShortTextError as short:
        count = short.available
        if count < 1:
            raise
        on_event(Message(f"The end-to-end pass reads {count:,} segments, all that '{source}' has."))
        ids, record = read(count)
    on_event(TextRead(record, "end_to_end"))
    return ids
