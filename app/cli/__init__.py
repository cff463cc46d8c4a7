"""The commands of `abq`, one module a noun. app/cli/main.py puts them together."""
