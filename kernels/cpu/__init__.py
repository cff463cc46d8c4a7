"""The CPU engine: Numba functions around vector loops written in LLVM IR.

Start reading at `kernels.cpu.engine`.
"""
