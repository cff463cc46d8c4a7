"""Names of the CPU paths that do not depend on the processor.

This module imports nothing, to avoid import cycles.
"""

GEMM = "int8-gemm"
DEQUANTIZED = "dequantized-fp32"
