"""Jobs, runs and measurements as rows. Knows no torch; no session and no row leaves this package.

`storage.database` opens the database, `storage.jobs`, `storage.runs` and `storage.measurements` are what the app calls,
`storage.errors` is all they raise.
"""
