"""The GPU engine: CUDA C++ kernels for NVIDIA tensor cores, compiled by NVRTC and launched on torch tensors.

Other packages use it through `kernels.gpu` and `kernels.dispatch`.
"""
