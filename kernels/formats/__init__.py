"""Data formats: bit planes, packed weights, activations, and readable references."""
