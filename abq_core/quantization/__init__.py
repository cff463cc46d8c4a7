"""Integer grids, quantizers, the Hadamard transform and the quantized linear layer."""
