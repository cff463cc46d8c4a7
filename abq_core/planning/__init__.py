"""Planning before a calibration: cost, estimate, bit allocation, sweeps, shared blocks."""
