"""Exports: a quantized model as a folder that another runtime loads, with a proof that it computes the same."""
