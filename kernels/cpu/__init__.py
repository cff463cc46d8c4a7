"""The CPU engine: Numba functions around vector loops written in LLVM IR. `kernels.cpu.engine` is its door."""
