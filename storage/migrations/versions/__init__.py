"""One file per revision, ordered by number."""
