"""Attention of every family: its function, its heads, and what its KV cache keeps."""
