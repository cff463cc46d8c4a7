"""Figures: pure functions from a DataFrame to a plotly figure, for a light or a dark page."""
