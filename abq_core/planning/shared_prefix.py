"""Blocks that two calibrations have in common, which a later run can adopt."""

from abq_core.mix import ModelPrecision, PrecisionMix
from abq_core.spec import CalibrationSpec


def shared_blocks(one: CalibrationSpec, other: CalibrationSpec, blocks: int) -> int:
    """Count the first blocks that both calibrations quantize to the same tensors: 0 to `blocks`.

    A block depends on the embedding and on the quantized blocks before it, so the shared prefix ends at the first block
    with a linear whose precision differs. It is empty if anything else differs, except the LM head, which no block
    depends on. With an end-to-end pass every block depends on all others: two calibrations share all of them if they
    differ in the LM head alone, and else none.
    """
    if one.all_but_precision != other.all_but_precision:
        return 0
    a, b = (spec.precision.with_tables(None, spec.precision.embedding_bits) for spec in (one, other))
    if one.learns_end_to_end:
        return blocks if a == b and one.precision != other.precision else 0
    if (a.kv_bits, a.embedding_bits) != (b.kv_bits, b.embedding_bits):
        return 0
    return next((block for block in range(blocks) if not _same_linears(a, b, block)), blocks)


def _same_linears(one: ModelPrecision, other: ModelPrecision, block: int) -> bool:
    mixes = [precision for precision in (one, other) if isinstance(precision, PrecisionMix)]
    names = {linear.name for mix in mixes for linear in mix.linears if linear.block == block}
    if not names:
        return one == other
    return all(one.of_linear(block, name) == other.of_linear(block, name) for name in names)
