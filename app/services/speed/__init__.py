"""Measured speed: kernel and decode timings of this machine, and those of other machines."""
