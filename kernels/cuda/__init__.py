"""Products on NVIDIA tensor cores: CUDA C++ sources, their compilation by NVRTC, their launch on torch's tensors."""
