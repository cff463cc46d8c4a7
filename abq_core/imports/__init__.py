"""Models that other programs quantized (GGUF, GPTQ, AutoRound, compressed-tensors), read as values to compare with."""
