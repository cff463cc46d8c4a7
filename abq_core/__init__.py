"""Models and precision: quantize, calibrate, diagnose, evaluate, generate. Knows no page and no database."""
