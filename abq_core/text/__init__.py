"""Calibration and evaluation text: sources, token segments, and the record of exactly which tokens were read."""
