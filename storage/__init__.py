"""Jobs, runs and measurements as database rows.

Imports no torch; sessions and ORM rows never leave this package.
`storage.database` opens the database. The app calls `storage.jobs`, `storage.runs` and `storage.measurements`; all
errors they raise are in `storage.errors`.
"""
