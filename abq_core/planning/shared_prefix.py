"""Which blocks two calibrations make alike, so that the later one may take them over from the earlier."""

from dataclasses import replace

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.spec import CalibrationSpec


def blocks_alike(one: CalibrationSpec, other: CalibrationSpec, blocks: int) -> int:
    """How many of the model's first blocks both make from the same inputs at the same precisions: 0 to `blocks`.

    A block is a function of the quantized blocks before it, so they are alike up to the first one whose linears differ.
    None are where an end-to-end pass follows, in which every block depends on all, or where anything but the precision
    differs.
    """
    if one.learns_end_to_end or _but_precision(one, other) != _but_precision(other, other):
        return 0
    a, b = one.precision, other.precision
    if (a.act_bits, a.kv_bits) != (b.act_bits, b.kv_bits):
        return 0
    for block in range(blocks):
        if not _same_linears(a, b, block):
            return block
    return blocks


def _but_precision(spec: CalibrationSpec, precision_of: CalibrationSpec) -> CalibrationSpec:
    """The calibration with what stands for its method's own written out, at another's precision."""
    return replace(
        spec,
        precision=precision_of.precision,
        method="rtn",
        switches=spec.active_switches,
        epochs=spec.active_epochs,
        end_to_end_segments=None,
    )


def _same_linears(one: ModelPrecision, other: ModelPrecision, block: int) -> bool:
    mixes = [precision for precision in (one, other) if isinstance(precision, PrecisionMix)]
    names = {linear.name for mix in mixes for linear in mix.linears if linear.block == block}
    if not names:
        return one == other
    return all(one.of_linear(block, name) == other.of_linear(block, name) for name in names)
