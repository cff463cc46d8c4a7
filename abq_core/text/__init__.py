"""Calibration and evaluation text: sources, token segments, and records of both."""
