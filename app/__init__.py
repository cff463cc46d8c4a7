"""The user interfaces: dashboard, command line, worker and reports."""
