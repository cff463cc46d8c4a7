"""Texts: generated side by side and in duels with votes, and documents that models read."""
