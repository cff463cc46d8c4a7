"""Data behind the figures: histograms, signal-to-noise ratios and per-block diagnostics."""
