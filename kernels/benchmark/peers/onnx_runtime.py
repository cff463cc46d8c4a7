"""ONNX Runtime as a peer: MatMulNBits at 2, 4 and 8 bits.

Blocks of 128, accuracy level 4 (int8 activations).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.benchmark.peers.peer import Peer

_BITS = (2, 4, 8)
_BLOCK = 128
_INT8_ACTIVATIONS = 4
_IR_VERSION, _OPSET = 10, 21


def onnx_runtime_peers(n: int, k: int, copies: Callable[[int], int], threads: int) -> list[Peer]:
    """onnxruntime at W2, W4 and W8 for weights (n, k) of random codes.

    Empty if k is not a multiple of 128.
    """
    return [_mat_mul_n_bits(n, k, bits, copies, threads) for bits in _BITS] if k % _BLOCK == 0 else []


def _mat_mul_n_bits(n: int, k: int, bits: int, copies: Callable[[int], int], threads: int) -> Peer:
    random = np.random.default_rng(n * bits + k)
    blocks, per_byte, zero = k // _BLOCK, 8 // bits, 1 << (bits - 1)
    codes = random.integers(1 if bits == 8 else 0, 1 << bits, (n, k), dtype=np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    data = np.bitwise_or.reduce(codes.reshape(n, blocks, -1, per_byte) << shifts, axis=-1)
    scales = np.ones(n * blocks, np.float32)
    zero_byte = int(np.bitwise_or.reduce(np.uint8(zero) << shifts))
    zeros = np.full(n * -(-blocks * bits // 8), zero_byte, np.uint8)
    model = _model(n, k, bits, data, scales, zeros)
    weight_bytes = data.nbytes + scales.nbytes + zeros.nbytes
    sessions = [_session(model, threads) for _ in range(copies(weight_bytes))]

    def bind(x: NDArray[np.float32]) -> list[Callable[[], Any]]:
        return [_bound(session, x, n) for session in sessions]

    integers = (codes.astype(np.int16) - zero).astype(np.int8)
    path = f"MatMulNBits (blocks of {_BLOCK}, accuracy level {_INT8_ACTIVATIONS})"
    return Peer("onnxruntime", f"W{bits}A8", path, weight_bytes, integers, bind, lambda y: y.astype(np.float64))


def _model(
    n: int, k: int, bits: int, data: NDArray[np.uint8], scales: NDArray[np.float32], zeros: NDArray[np.uint8]
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    arrays = {"data": data, "scales": scales, "zeros": zeros}
    node = helper.make_node(
        "MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft",
        K=k, N=n, bits=bits, block_size=_BLOCK, accuracy_level=_INT8_ACTIVATIONS,
    )  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])
    graph = helper.make_graph([node], "product", [x], [y], [numpy_helper.from_array(a, s) for s, a in arrays.items()])
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


def _session(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # do not spin while another engine is timed
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _bound(session: Any, x: NDArray[np.float32], n: int) -> Callable[[], Any]:
    """Bind fixed buffers, which has the lowest overhead per run."""
    y = np.empty((len(x), n), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

    def run() -> NDArray[np.float32]:
        session.run_with_iobinding(binding)
        return y

    return run
