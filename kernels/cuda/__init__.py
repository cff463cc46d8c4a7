"""The GPU engine: CUDA C++ kernels for NVIDIA tensor cores, compiled by NVRTC.

Other packages use it through `kernels.gpu` and `kernels.dispatch`.
"""
