"""What commands write to the terminal, and how it may end."""
