"""A quantized KV cache of one block on the CPU, 1 to 8 bits, and attention over it."""

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.cpu.token.rows import code_layer
from kernels.formats.activations import quantize_activations

_Floats = NDArray[np.float32]
_WIDTHS = (1, 2, 4, 8)


class KvCodes:
    """Codes of `capacity` positions, for keys and for values.

    Each position and head has a scale and a zero point.

    3-bit codes occupy 4 bits, 5- to 7-bit codes occupy 8. Codes also occupy 8 bits if d of them do not fill bytes.
    """

    def __init__(self, kv_heads: int, capacity: int, d: int, bits: int) -> None:
        width = next(width for width in _WIDTHS if width >= bits)
        self.bits, self.width = bits, width if d * width % 8 == 0 else 8
        self._codes = np.zeros((2, kv_heads, capacity, d * self.width // 8), np.uint8)
        self._scale, self._zero = np.zeros((2, 2, kv_heads, capacity), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, including scales and zero points."""
        return self._codes.nbytes + self._scale.nbytes + self._zero.nbytes

    def write(self, start: int, keys: _Floats, values: _Floats) -> None:
        """Quantize keys and values per token and head to the positions from `start`.

        keys, values: (kv_heads, tokens, d).
        Raises NotFiniteError.
        """
        for index, x in enumerate((keys, values)):
            if not _compiled().write(np.ascontiguousarray(x), self.bits, self.width, start, *self._arrays(index)):
                quantize_activations(x.reshape(-1, x.shape[2]), self.bits)  # raises NotFiniteError with the position

    def row(self, window: int | None) -> NDArray[np.int64]:
        """The layer of a KV cache that a token program reads and writes. window: as in `float_layer`."""
        return code_layer(self._codes, self._scale, self._zero, self.bits, self.width, window)

    def _arrays(self, index: int) -> tuple[NDArray[np.uint8], _Floats, _Floats]:
        """(codes, scale, zero) of the keys (0) or the values (1)."""
        return self._codes[index], self._scale[index], self._zero[index]


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported on first use: importing Numba takes a second."""
    from kernels.cpu.token import kv_codes

    return kv_codes
