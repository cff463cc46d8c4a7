"""Names of the CPU paths that do not depend on the processor.

This module imports nothing, so that others may.
"""

GEMM = "int8-gemm"
DEQUANTIZED = "dequantized-fp32"
