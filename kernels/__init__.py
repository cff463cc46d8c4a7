"""Bit planes and integer matmuls: y = x W^T with p-bit weights and q-bit activations, exactly.

Import what you need from its module (`kernels.dispatch.linear`, `kernels.weight.pack_weight`, ...). This file stays
empty of code on purpose: transformers probes for a Hugging Face library of the same name, and must not find one here.
"""
