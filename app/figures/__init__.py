"""Figures: pure functions from a DataFrame to a plotly figure. `dark` says on which background it stands."""
