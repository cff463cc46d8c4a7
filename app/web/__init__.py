"""The dashboard: page, tabs, endpoints, downloads and metrics."""
