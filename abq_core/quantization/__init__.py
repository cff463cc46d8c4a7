"""Quantization of weights and activations, and the linears that use it."""
