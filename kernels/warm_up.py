"""Compile the CPU kernels ahead of their first use, and cache them on disk.

`python -m kernels.warm_up` does this for all paths, at low priority.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kernels import dispatch, fake_quant, hadamard, half_products
from kernels.formats.weight import pack_weight
from kernels.host.priority import lower_priority
from kernels.kv_codes import KvCodes
from kernels.precision_names import parse_precision
from kernels.token_program import Memory, Operation, Program, buffer_sizes, float_layer

EVERY_PATH = ("W2A8", "W2A2", "W4A16")  # one precision per kernel for one token
_TOKENS = (1, 2, 16)


@dataclass(frozen=True)
class WarmUp:
    """Result of a warm-up.

    paths: those that were run.  compiled: number of functions that were not cached yet.
    """

    paths: tuple[str, ...]
    compiled: int
    seconds: float


def warm_up(precisions: Sequence[str] = EVERY_PATH) -> WarmUp:
    """Run every path of these precisions, so that Numba compiles it.

    Also runs the other operations of a decode step, and fake quantization.

    Numba compiles per argument type: the sizes of a model and its number of bits only change which paths are compiled.
    Raises BenchError for an unknown precision.
    """
    parsed = [parse_precision(name) for name in precisions]
    started = time.perf_counter()
    from kernels.cpu.compile import compilations

    before = compilations()
    paths = dict.fromkeys(path for bits, starred, act, _ in parsed for path in _multiply(bits + starred, act))
    _decode_a_token()
    _fake_quantize_a_row()
    hadamard.transformed(np.ones((1, 64), np.float32), 64)
    return WarmUp(tuple(paths), compilations() - before, time.perf_counter() - started)


def _multiply(planes: int, act_bits: int) -> list[str]:
    ones, k = np.ones(32, np.float32), 64
    weight = pack_weight(np.ones((32, k), np.uint16), planes, ones, np.ones(32, np.uint16), act_bits=act_bits)
    for tokens in _TOKENS:
        dispatch.linear(np.ones((tokens, k), np.float32), weight, act_bits, 1)
    return [dispatch.path_for(weight, tokens, act_bits) for tokens in _TOKENS]


def _decode_a_token() -> None:
    d = 8
    operation = Operation.attend(0, 2, 1, d, 1.0)
    keys, values = np.ones((2, 1, 4, d), np.float32)
    Program([operation]).run(Memory(buffer_sizes([operation]), float_layer(keys, values, None)[None]), 1)
    KvCodes(1, 4, d, 4).write(0, keys, values)
    for product in (half_products.bfloat16_product, half_products.float16_product):
        product(np.ones((4, d), np.uint16), np.ones(d, np.float32), 1)


def _fake_quantize_a_row() -> None:
    x = np.ones((1, 64), np.float32)
    low, high, _ = fake_quant.ends(x)
    fake_quant.rounding_errors(x, 8)
    fake_quant.on_grid_gradients(x, fake_quant.on_grid(x, high, low, x, 3), high, low, x, 3)


if __name__ == "__main__":
    lower_priority()
    warm_up()
