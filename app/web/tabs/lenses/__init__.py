"""Figures of the Explore tab that look at one linear closely, each with widgets of its own."""
