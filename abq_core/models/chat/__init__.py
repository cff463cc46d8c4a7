"""Conversations with a model: its chat template, rendered in a process with limits."""
