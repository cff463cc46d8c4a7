"""The built-in model and text: what lets every feature work offline on a CPU."""
