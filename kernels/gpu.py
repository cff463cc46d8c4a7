"""The public interface of the GPU engine.

`kernels.cuda` holds the implementation, which other packages do not import.
Importing it needs neither torch nor CuPy nor a GPU: each function imports what it needs when it is called.

- A packed weight on a GPU: `upload`, `DeviceWeight`; several with a common input as one: `can_stack`, `stack`.
  `kernels.dispatch.linear` multiplies by it.
- An input that the product normalizes or gates as it reads it: `Normed`, `Gated`; `materialize` writes the values out.
- Attention of one token over a KV cache: the module `decode_attention`.
- torch's INT8 product, for comparison: the module `int8`, `int8_matmul`, `padded_int8_tokens`.
- The device: `device`, `CudaDevice`.
"""

from kernels.cuda import decode_attention, int8
from kernels.cuda.compile import CompileError
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
    "can_stack",
    "decode_attention",
    "device",
    "int8",
    "int8_matmul",
    "materialize",
    "padded_int8_tokens",
    "stack",
    "upload",
]
