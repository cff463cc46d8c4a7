"""Calibration and evaluation text: sources, segments, and the record of what was read."""
