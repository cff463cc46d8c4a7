"""Perplexity, KL divergence to full precision, and zero-shot tasks."""
