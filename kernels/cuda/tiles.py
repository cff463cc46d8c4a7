"""The set of kernels: template, number of planes and tile size of each.

Kernels are compiled at first use.
"""

from dataclasses import dataclass
from functools import cache

BINARY, BYTES = "binary", "bytes"
LIBRARY = "library"  # cuBLASLt's INT8 product between the kernels of signed.cu
THREADS = 256
_BINARY_TILES = ((1, 1), (2, 1), (2, 2), (2, 4), (1, 4), (2, 8), (1, 8))
_ACCUMULATORS = 32  # limit on planes x row tiles x column tiles (four registers each) that avoids spills
_GROUPED_TILES = ((1, 1), (2, 4))
_BYTE_TILES = ((1, 1), (2, 8))
_GROUPED_BYTE_TILES = ((1, 1), (1, 4))


@dataclass(frozen=True, order=True)
class Instance:
    """One product kernel; a warp computes `rows` row tiles of 16 by `columns` column tiles of 8."""

    family: str  # BINARY, BYTES, or LIBRARY (which has no product kernel here)
    planes: int
    rows: int
    columns: int
    grouped: bool

    @property
    def name(self) -> str:
        """The kernel's name in the cubin."""
        return f"{self.family}_p{self.planes}_r{self.rows}_c{self.columns}" + ("_grouped" if self.grouped else "")

    @property
    def source(self) -> str:
        """The file of its template."""
        return f"{self.family}.cu"

    @property
    def definition(self) -> str:
        """The C++ line that defines the kernel."""
        function = "binary_product" if self.family == BINARY else "byte_product"
        grouped = str(self.grouped).lower()
        template = f"{function}<{self.planes}, {self.rows}, {self.columns}, {grouped}>"
        return f"KERNEL({self.name}, ProductArguments, {THREADS}, ({template}))"


TYPES = ("float32", "float16", "bfloat16")  # in the order of ElementType in arguments.cuh
PLAIN, GATED, NORMED = "plain", "gated", "normed"
INPUT_KINDS = (PLAIN, GATED, NORMED)  # in the order of InputKind
TOKEN_THREADS = 1024  # upper limit of threads per token
ROTATE_THREADS = 128
DEQUANTIZE = "dequantize_weight"
LOOK_UP = "look_up_rows"
CEILINGS = {"b1": "ceiling_b1", "int8": "ceiling_int8"}  # by operation (kernels.cuda.ceiling)
WEIGHT_ROWS, TOKEN_ROWS, FINISH_TOTALS = "unpack_weight_rows", "unpack_token_rows", "finish_library_totals"


def quantize_name(dtype: str, kind: str = PLAIN) -> str:
    """Name of the kernel that quantizes activations. dtype: of TYPES; kind: of INPUT_KINDS."""
    return f"quantize_{dtype}" if kind == PLAIN else f"quantize_{kind}_{dtype}"


def materialize_name(dtype: str, kind: str) -> str:
    """Name of the kernel that writes out the values of a fused input. kind: GATED or NORMED."""
    return f"materialize_{kind}_{dtype}"


def round_name(dtype: str, kind: str) -> str:
    """Name of the kernel that quantizes tokens for torch's INT8 product."""
    return f"round_{kind}_{dtype}"


def scale_name(dtype: str) -> str:
    """Name of the kernel that scales the sums of torch's INT8 product."""
    return f"scale_sums_{dtype}"


def rotate_name(dtype: str) -> str:
    """Name of the kernel that applies the rotary embedding and updates the KV cache."""
    return f"rotate_and_cache_{dtype}"


def attend_name(dtype: str) -> str:
    """Name of the kernel of one token's attention."""
    return f"attend_{dtype}"


@cache
def instances(planes: int, grouped: bool) -> tuple[Instance, ...]:
    """The product kernels for a weight of `planes` bit planes (1..9)."""
    binary = _GROUPED_TILES if grouped else _binary_tiles(planes)
    in_bytes = _GROUPED_BYTE_TILES if grouped else _BYTE_TILES
    return tuple(
        [Instance(BINARY, planes, rows, columns, grouped) for rows, columns in binary]
        + [Instance(BYTES, planes, rows, columns, grouped) for rows, columns in in_bytes]
    )


def _binary_tiles(planes: int) -> list[tuple[int, int]]:
    """The tallest tile of each width that fits, and (1, 1).

    Weights with few rows need the small tile for enough blocks.
    """
    fitting = [tile for tile in _BINARY_TILES if planes * tile[0] * tile[1] <= _ACCUMULATORS]
    tallest = {columns: (rows, columns) for rows, columns in sorted(fitting)}
    return sorted({(1, 1), *tallest.values()})
