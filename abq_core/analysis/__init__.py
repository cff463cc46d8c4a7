"""Data frames for figures: effects of a precision, and diagnostics of a calibration."""
