"""Figures that look closely at one linear, at a run with fewer bits, or at the KV cache."""
