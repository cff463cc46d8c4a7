"""What the paths of the CPU engine share on every processor: names, and how products are split between threads.

This module imports nothing, to avoid import cycles.
"""

GEMM = "int8-gemm"
DEQUANTIZED = "dequantized-fp32"

PANEL_STEP = 6  # a thread's panels start at a multiple of this, which is a multiple of every loop's panels
WORTH_A_THREAD = 1 << 23  # multiplications; smaller products finish before another thread wakes up
