"""The public interface of the GPU engine, which `kernels.cuda` implements.

Importing it needs neither torch nor CuPy nor a GPU: functions import what they need when they are called.

- A packed weight on a GPU: `upload`, `DeviceWeight`; several with a common input as one: `can_stack`, `stack`.
  `kernels.dispatch.linear` multiplies by them.
- An input that a product gates or normalizes as it reads it: `Gated`, `Normed`; `materialize` writes its values out.
- Attention of one token over a KV cache: the module `decode_attention`.
- torch's INT8 product, for comparison: the module `int8`, `int8_matmul`, `padded_int8_tokens`.
- The device, its benchmark, and what the compiler reports: `device`, `bench_gpu`, `compile_report`.
"""

from kernels.cuda import decode_attention, int8
from kernels.cuda.bench import bench_gpu
from kernels.cuda.compile import CompileError, compile_report
from kernels.cuda.decode_attention import AttentionInput
from kernels.cuda.device_tensors import DeviceWeight, padded_int8_tokens, upload
from kernels.cuda.driver import CudaDevice, CudaError, device
from kernels.cuda.engine import materialize
from kernels.cuda.inputs import Gated, Input, Normed
from kernels.cuda.private_apis import int8_matmul
from kernels.cuda.stacked import can_stack, stack

__all__ = [
    "AttentionInput",
    "CompileError",
    "CudaDevice",
    "CudaError",
    "DeviceWeight",
    "Gated",
    "Input",
    "Normed",
    "bench_gpu",
    "can_stack",
    "compile_report",
    "decode_attention",
    "device",
    "int8",
    "int8_matmul",
    "materialize",
    "padded_int8_tokens",
    "stack",
    "upload",
]
