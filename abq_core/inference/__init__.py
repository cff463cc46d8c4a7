"""Run a quantized model: packed layers, decoders, KV cache and text generation."""
