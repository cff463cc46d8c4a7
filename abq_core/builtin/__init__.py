"""The built-in model and text, so that every feature works offline on a CPU."""
