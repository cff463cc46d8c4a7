"""Parts of the form of the Calibrate tab: methods with their cost, presets, and components."""
