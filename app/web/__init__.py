"""The dashboard: page, tabs, API endpoints, downloads, metrics and access checks."""
