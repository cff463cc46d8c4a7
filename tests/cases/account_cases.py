"""The password of the tests' account."""

PASSWORD = "correct horse battery"
