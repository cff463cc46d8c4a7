"""What a person touches: the dashboard, the command line, the worker, the reports."""
