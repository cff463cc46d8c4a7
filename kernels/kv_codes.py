"""Keys and values of one block at 1 to 8 bits: what a cache holds of them, and one token's attention over it. CPU."""

from functools import cache
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from kernels.formats.activations import quantize_activations

_Floats = NDArray[np.float32]
_WIDTHS = (1, 2, 4, 8)


class KvCodes:
    """Codes of `capacity` positions with a scale and a zero point for each position and head, for K and for V.

    Codes of 3 bits take 4 in memory, those of 5 to 7 take 8, as do all where d channels do not fill bytes.
    """

    def __init__(self, kv_heads: int, capacity: int, d: int, bits: int) -> None:
        width = next(width for width in _WIDTHS if width >= bits)
        self.bits, self.width = bits, width if d * width % 8 == 0 else 8
        self._codes = np.zeros((2, kv_heads, capacity, d * self.width // 8), np.uint8)
        self._scale, self._zero = np.zeros((2, 2, kv_heads, capacity), np.float32)

    @property
    def nbytes(self) -> int:
        """Bytes in memory, scales and zero points included."""
        return self._codes.nbytes + self._scale.nbytes + self._zero.nbytes

    def write(self, start: int, keys: _Floats, values: _Floats) -> None:
        """Quantize keys and values (kv_heads, tokens, d) to the positions from `start`, each token over its range.

        Raises NotFiniteError.
        """
        for index, x in enumerate((keys, values)):
            place = self._codes[index], self._scale[index], self._zero[index]
            if not _compiled().write(np.ascontiguousarray(x), self.bits, self.width, start, *place):
                quantize_activations(x.reshape(-1, x.shape[2]), self.bits)  # raises, and says where

    def attend(self, query: _Floats, first: int, last: int, scale: float) -> _Floats:
        """Softmax attention of query (heads, d) over positions first .. last - 1. Returns (1, heads * d)."""
        out = np.empty(query.shape, np.float32)
        keys, values = ((self._codes[i], self._scale[i], self._zero[i]) for i in (0, 1))
        _compiled().attend(query, *keys, *values, self.width, first, last, np.float32(scale), out)
        return out.reshape(1, -1)


@cache
def _compiled() -> ModuleType:
    """The compiled functions, imported at first use: Numba takes a second that an import should not."""
    from kernels.cpu import kv_codes

    return kv_codes
