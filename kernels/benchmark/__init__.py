"""Benchmarks on the CPU: the engine against other libraries, memory bandwidth and the machine."""
