"""Checks of the contents of untrusted model files: config fields, tokenizers, weight values."""
