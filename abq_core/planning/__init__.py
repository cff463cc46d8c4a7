"""Before a calibration: cost, estimate, bit allocation, sweeps, and blocks shared by two runs."""
