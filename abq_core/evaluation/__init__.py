"""Measure a model: perplexity, KL divergence from full precision, and zero-shot tasks."""
