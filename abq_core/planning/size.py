"""The size of a model's weights at a precision, from shapes alone."""

from dataclasses import dataclass

from abq_core.mix import ModelPrecision, PrecisionMix, resolve_tables
from abq_core.models.shape import ModelShape
from abq_core.precision import FULL_BITS, Precision
from abq_core.quantization.weight_grid import linear_bytes

_HALF_BYTES = 2


@dataclass(frozen=True)
class ModelSize:
    """Bytes of a model's weights: bit planes with scales and zero points, or FP16.

    linears: of all blocks.  embedding, head: the tables; a tied table counts once, as the embedding, and head is 0.
    other: norms, biases and positions, in FP16.  parameters: of the full-precision model.
    """

    linears: int
    embedding: int
    head: int
    other: int
    parameters: int

    @property
    def total(self) -> int:
        """Bytes of all weights."""
        return self.linears + self.embedding + self.head + self.other

    @property
    def bits_per_parameter(self) -> float:
        """Effective bits per parameter of the whole model, scales and zero points included."""
        return 8 * self.total / self.parameters


def model_size(shape: ModelShape, precision: ModelPrecision, *, rotated: bool = False) -> ModelSize:
    """The size of a model of this shape at a precision. rotated: whether a folded rotation unties the tables.

    Raises MixError if a mix was made for a model of another shape, and PrecisionError if a tied table has two numbers.
    """
    blocks = range(shape.blocks)
    shapes = {(i, name): size for i in blocks for name, size in shape.block_linears(i).items()}
    if isinstance(precision, PrecisionMix):
        precision.check({key: rows * k for key, (rows, k) in shapes.items()})
    precision = resolve_tables(precision, shape.tied)
    tables = 1 if shape.tied else 2
    counted = sum(rows * k for rows, k in shapes.values()) + tables * shape.table[0] * shape.table[1]
    return ModelSize(
        linears=sum(linear_bytes(rows, k, precision.of_linear(*key)) for key, (rows, k) in shapes.items()),
        embedding=table_bytes(shape, precision.embedding_bits),
        head=0 if shape.tied and not rotated else table_bytes(shape, precision.head_bits),
        other=(shape.parameters - counted) * _HALF_BYTES,
        parameters=shape.parameters,
    )


def bits_per_parameter(shape: ModelShape, precision: ModelPrecision) -> float:
    """Effective bits per parameter of a whole model at a precision. Raises what `model_size` raises."""
    return model_size(shape, precision).bits_per_parameter


def table_bytes(shape: ModelShape, bits: int | None) -> int:
    """Bytes of an embedding or LM head at `bits`, None for FP16."""
    return linear_bytes(*shape.table, Precision(bits or FULL_BITS, FULL_BITS))
