"""Data formats: bit planes, packed weights, quantized activations, and readable reference arithmetic."""
