"""Bit planes and exact integer matmuls: y = x W^T with p-bit weights, q-bit activations.

Import from the modules, for example `kernels.dispatch.linear` and `kernels.formats.weight.pack_weight`. This file holds
no code on purpose: transformers probes for a Hugging Face library of the same name and must not find one here.
"""
