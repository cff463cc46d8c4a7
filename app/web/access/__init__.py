"""Who may use the page: login, accounts, origin checks and rate limits."""
