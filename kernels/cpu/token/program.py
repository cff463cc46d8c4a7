"""The operations of a decode step, worked through by one compiled call.

Called one by one from Python, the operations of a small model take as long to call as to compute. So they are rows of a
table (`rows.py`), and `run` is a loop over it.
"""

import numpy as np

from kernels.cpu.arguments import Array
from kernels.cpu.compile import compiled
from kernels.cpu.decode import decode
from kernels.cpu.hadamard import transform
from kernels.cpu.token import operations
from kernels.cpu.token.addresses import array_at, float_of
from kernels.cpu.token.attend_row import append, attend
from kernels.cpu.token.rows import (
    ACT_BITS,
    ACT_CLIP,
    ACTIVATION,
    ADD,
    ADDED,
    ATTEND,
    BIAS,
    BIAS_SIZE,
    BIT_PLANES,
    BLOCK,
    DATA,
    DATA_SIZE,
    EPSILON,
    FIELDS,
    HAS_ADDED,
    HAS_UP,
    HEADS,
    INPUT,
    INPUT_SIZE,
    KV_HEADS,
    LAYER,
    NORM,
    NORM_BIAS,
    NORM_SIZE,
    NORM_START,
    NORM_WEIGHT,
    OPERATION,
    OUTPUT,
    OUTPUT_SIZE,
    OUTPUT_START,
    PADDED,
    PANELS,
    PATH,
    PRODUCT,
    REGROUP,
    ROOT,
    SCALE,
    SEGMENT,
    SIDE_SIZE,
    SPACING,
    SUMS,
    WEIGHT_ONLY,
    WIDTHS,
    ZERO,
)  # fmt: skip
from kernels.cpu.weight_only import weight_only


@compiled
def run(table: Array, buffers: Array, layers: Array, position: int) -> int:
    """Work through a table with one thread, for the token at `position`.

    table: (operations, ROW_SIZE).  buffers: (BUFFERS,) addresses of float32 values.  layers: (layers, LAYER_SIZE).
    Returns the number of rows, or that of the first row whose input is not finite; then its output is not written.
    """
    for index in range(table.shape[0]):
        row = table[index]
        operation = row[OPERATION]
        if operation == PRODUCT:
            finite = multiply(row, buffers, 0, row[PANELS])
        elif operation == NORM:
            finite = _norm(row, buffers)
        elif operation == ATTEND:
            finite = append(row, buffers, layers[row[LAYER]], position)
            if finite:
                attend(row, buffers, layers[row[LAYER]], position, (0, row[HEADS]))
        else:
            _change(row, buffers)
            finite = True
        if not finite:
            return index
    return table.shape[0]


@compiled
def multiply(row: Array, buffers: Array, first_panel: int, last_panel: int) -> bool:
    """Panels first_panel .. last_panel - 1 of a product. Returns whether its input is finite."""
    fields = (
        array_at(row[DATA], np.uint32, row[DATA_SIZE]),
        array_at(row[WIDTHS], np.int64, row[FIELDS]),
        row[SEGMENT],
        np.int32(row[SPACING]),
        float_of(row[ACT_CLIP]),
        array_at(row[SCALE], np.float32, row[SIDE_SIZE]),
        array_at(row[ZERO], np.int16, row[SIDE_SIZE]),
        array_at(row[SUMS], np.int32, row[SIDE_SIZE]),
        array_at(row[BIAS], np.float32, row[BIAS_SIZE]),
    )
    k, padded = row[INPUT_SIZE], row[PADDED]
    x = array_at(buffers[row[INPUT]], np.float32, padded)
    if row[BLOCK] > 1:
        mixed = np.empty(padded, np.float32)
        transform(x[:k].reshape(1, k), row[BLOCK], float_of(row[ROOT]), mixed[:k].reshape(1, k), 0, 1)
        x = mixed
    start = row[OUTPUT_START]
    out = array_at(buffers[row[OUTPUT]] + 4 * start, np.float32, row[OUTPUT_SIZE]).reshape(1, row[OUTPUT_SIZE])
    if row[PATH] == WEIGHT_ONLY:
        x[k:] = 0
        weight_only(fields, x.reshape(1, padded), first_panel, last_panel, out)
        return np.isfinite(out[0, 16 * first_panel])  # NaN or infinity in the input spreads to every output
    tokens, no_integers = x[:k].reshape(1, k), np.empty((0, 0, 0), np.int32)
    by_planes = row[PATH] == BIT_PLANES
    return decode(tokens, row[ACT_BITS], by_planes, fields, first_panel, last_panel, out, no_integers) == 1


@compiled
def _norm(row: Array, buffers: Array) -> bool:
    size, epsilon = row[NORM_SIZE], float_of(row[EPSILON])
    x, out, weight = _input(row, buffers), _output(row, buffers), array_at(row[NORM_WEIGHT], np.float32, size)
    bias = array_at(row[NORM_BIAS], np.float32, size if row[NORM_BIAS] else 0)
    operations.add(x, array_at(buffers[ADDED], np.float32, size if row[HAS_ADDED] else 0))
    finite = True
    for start in range(row[NORM_START], row[INPUT_SIZE], size):
        vector, normed = x[start : start + size], out[start : start + size]
        if bias.size:
            total = operations.layer_norm(vector, weight, bias, epsilon, normed)
        else:
            total = operations.rms_norm(vector, weight, epsilon, normed)
        finite &= np.isfinite(total)
    return finite


@compiled
def _change(row: Array, buffers: Array) -> None:
    """ADD, REGROUP or GATE: the operations that no value can stop."""
    x, out = _input(row, buffers), _output(row, buffers)
    if row[OPERATION] == ADD:
        operations.add(out, x)
    elif row[OPERATION] == REGROUP:
        vectors = row[HEADS] // row[KV_HEADS] + 2
        operations.regroup(x.reshape(row[KV_HEADS], vectors, x.size // (row[KV_HEADS] * vectors)))
    else:
        operations.activate(x[: out.size], row[ACTIVATION], out)
        if row[HAS_UP]:
            operations.multiply(out, x[out.size :])


@compiled
def _input(row: Array, buffers: Array) -> Array:
    return array_at(buffers[row[INPUT]], np.float32, row[INPUT_SIZE])


@compiled
def _output(row: Array, buffers: Array) -> Array:
    return array_at(buffers[row[OUTPUT]], np.float32, row[OUTPUT_SIZE])
