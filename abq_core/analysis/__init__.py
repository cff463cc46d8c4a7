"""Data frames for the figures: effects of a precision on weights, and diagnostics of a calibration."""
