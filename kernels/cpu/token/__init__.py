"""A decode step: its operations, and the program that runs them."""
