"""The commands of `abq`, one module a noun. app/cli.py puts them together."""
