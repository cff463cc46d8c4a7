"""Access to the page: login, accounts, origin checks and rate limits."""
