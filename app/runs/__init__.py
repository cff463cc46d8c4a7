"""A finished run on disk: its folder, verification, provenance and reports."""
