"""llama.cpp as a peer: tq2_0, q2_K and q4_0, through ggml in `xllamacpp`."""

import ctypes
import weakref
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.benchmark.peers.peer import Peer

_BLOCK = 256
_F32 = 0
_GRAPH_BYTES = 1 << 20  # enough for the bookkeeping of one product
_ONE = np.array([1], np.float16).view(np.uint8)


@dataclass(frozen=True)
class _Format:
    """A weight format: ggml's number for it, and random blocks whose values are integers."""

    name: str
    number: int
    precision: str
    blocks: Callable[[np.random.Generator, int], NDArray[np.uint8]]  # (random, count) -> (count, bytes)


def _tq2_0(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """64 bytes of four codes 0..2, then the scale: code - 1."""
    codes = random.integers(0, 3, (count, 64, 4), dtype=np.uint8)
    packed = np.bitwise_or.reduce(codes << np.array([0, 2, 4, 6], np.uint8), axis=-1)
    return np.hstack([packed, np.tile(_ONE, (count, 1))])


def _q2_k(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Blocks of q2_K: code - 2.

    16 bytes of scale 1 and minimum 2, 64 bytes of four codes 0..3, the scales' scales.
    """
    packed = random.integers(0, 256, (count, 64), dtype=np.uint8)
    return np.hstack([np.full((count, 16), 0x21, np.uint8), packed, np.tile(_ONE, (count, 2))])


def _q4_0(random: np.random.Generator, count: int) -> NDArray[np.uint8]:
    """Eight times the scale and 16 bytes of two codes 0..15: code - 8."""
    packed = random.integers(0, 256, (count, 8, 16), dtype=np.uint8)
    return np.concatenate([np.broadcast_to(_ONE, (count, 8, 2)), packed], axis=2).reshape(count, -1)


_FORMATS = (_Format("tq2_0", 35, "W2A8", _tq2_0), _Format("q2_K", 10, "W2A8", _q2_k), _Format("q4_0", 2, "W4A8", _q4_0))


def llama_cpp_peers(n: int, k: int, copies: Callable[[int], int], threads: int) -> list[Peer]:
    """llama.cpp in three formats for weights (n, k) of random codes.

    Empty if k is not a multiple of 256.
    """
    return [_peer(kind, n, k, copies, threads) for kind in _FORMATS] if k % _BLOCK == 0 else []


def _peer(kind: _Format, n: int, k: int, copies: Callable[[int], int], threads: int) -> Peer:
    data = kind.blocks(np.random.default_rng(n + k), n * k // _BLOCK)
    values = np.empty((n, k), np.float32)
    _dequantize(kind.name)(data.ctypes.data, values.ctypes.data, n * k)
    weights = [_Weight(kind.number, n, k, data, threads) for _ in range(copies(data.nbytes))]

    def bind(x: NDArray[np.float32]) -> list[Callable[[], Any]]:
        return [weight.product(x) for weight in weights]

    path = f"mul_mat {kind.name}" + (", repacked" if weights[0].repacked else "") + f" ({_instructions()})"
    integers = values.astype(np.int8)
    return Peer("llama.cpp", kind.precision, path, data.nbytes, integers, bind, lambda y: y.astype(np.float64))


class _Weight:
    """A weight in ggml's memory.

    In the interleaved layout that llama.cpp chooses, if it has one for the format.
    """

    def __init__(self, number: int, n: int, k: int, data: NDArray[np.uint8], threads: int) -> None:
        ggml = _ggml()
        self.n, self.k = n, k
        self.backend = _freed(self, ggml.ggml_backend_cpu_init(), ggml.ggml_backend_free)
        ggml.ggml_backend_cpu_set_n_threads(self.backend, threads)
        self.repacked = False
        for place in [*_interleaved_buffer_types(), ggml.ggml_backend_cpu_buffer_type()]:
            context = _context(self)
            self.tensor = ggml.ggml_new_tensor_2d(context, number, k, n)
            _freed(self, ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, place), ggml.ggml_backend_buffer_free)
            tokens = ggml.ggml_new_tensor_2d(context, _F32, k, 1)
            if ggml.ggml_backend_supports_op(self.backend, ggml.ggml_mul_mat(context, self.tensor, tokens)):
                self.repacked = place != ggml.ggml_backend_cpu_buffer_type()
                break
        ggml.ggml_backend_tensor_set(self.tensor, data.ctypes.data, 0, data.nbytes)

    def product(self, x: NDArray[np.float32]) -> Callable[[], Any]:
        """Return a callable that computes x W^T on fixed buffers."""
        ggml, owner = _ggml(), _Product(self)
        context = _context(owner)
        tokens = ggml.ggml_new_tensor_2d(context, _F32, self.k, len(x))
        result = ggml.ggml_mul_mat(context, self.tensor, tokens)
        graph = ggml.ggml_new_graph(context)
        ggml.ggml_build_forward_expand(graph, result)
        place = ggml.ggml_backend_cpu_buffer_type()
        _freed(owner, ggml.ggml_backend_alloc_ctx_tensors_from_buft(context, place), ggml.ggml_backend_buffer_free)
        ggml.ggml_backend_tensor_set(tokens, x.ctypes.data, 0, x.nbytes)
        floats: Any = (ctypes.c_float * (len(x) * self.n)).from_address(ggml.ggml_get_data(result))
        floats.owner = owner  # the array below and its views keep ggml's memory alive
        values = np.ctypeslib.as_array(floats).reshape(len(x), self.n)

        def run() -> NDArray[np.float32]:
            if ggml.ggml_backend_graph_compute(self.backend, graph) != 0:
                raise RuntimeError("ggml could not compute the product")
            return values

        return run


class _Product:
    """Owns a product's buffers in ggml's memory, and keeps its weight alive."""

    def __init__(self, weight: _Weight) -> None:
        self.weight = weight


def _context(owner: object) -> Any:
    context = _ggml().ggml_init(_InitParams(_GRAPH_BYTES, None, True))
    return _freed(owner, context, _ggml().ggml_free)


def _freed(owner: object, handle: Any, free: Callable[[Any], None]) -> Any:
    """Free the handle when the owner is collected, last in, first out. Returns the handle."""
    weakref.finalize(owner, free, handle)
    return handle


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


_LogCallback = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
_SILENT = _LogCallback(lambda level, text, data: None)

_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ggml_log_set": (None, [_LogCallback, c_void_p]),
    "ggml_init": (c_void_p, [_InitParams]),
    "ggml_free": (None, [c_void_p]),
    "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "ggml_new_graph": (c_void_p, [c_void_p]),
    "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
    "ggml_get_data": (c_void_p, [c_void_p]),
    "ggml_backend_cpu_init": (c_void_p, []),
    "ggml_backend_cpu_set_n_threads": (None, [c_void_p, c_int]),
    "ggml_backend_cpu_buffer_type": (c_void_p, []),
    "ggml_backend_cpu_reg": (c_void_p, []),
    "ggml_backend_reg_dev_get": (c_void_p, [c_void_p, c_size_t]),
    "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
    "ggml_backend_buffer_free": (None, [c_void_p]),
    "ggml_backend_free": (None, [c_void_p]),
    "ggml_backend_supports_op": (c_bool, [c_void_p, c_void_p]),
    "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


@cache
def _ggml() -> Any:
    """Load ggml from the library of `xllamacpp` and declare the function types.

    The package itself is not imported.
    """
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise ImportError("xllamacpp is not installed")
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    library.ggml_log_set(_SILENT, None)
    return library


def _dequantize(name: str) -> Any:
    function = getattr(_ggml(), f"dequantize_row_{name}")
    function.restype, function.argtypes = None, [c_void_p, c_void_p, c_int64]
    return function


@cache
def _interleaved_buffer_types() -> list[Any]:
    """Buffer types in which llama.cpp stores weights in another order than in their file."""
    ggml = _ggml()
    registry = ggml.ggml_backend_cpu_reg()
    address = ggml.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)(address)(ggml.ggml_backend_reg_dev_get(registry, 0))
    types: list[Any] = []
    while listed and listed[len(types)]:
        types.append(listed[len(types)])
    return types


@cache
def _instructions() -> str:
    """The widest vector instructions that this build of ggml uses on this machine."""
    names = {"avx512_vnni": "AVX-512 VNNI", "avx512": "AVX-512", "avx2": "AVX2"}
    return next((text for name, text in names.items() if getattr(_ggml(), f"ggml_cpu_has_{name}")()), "no vectors")
