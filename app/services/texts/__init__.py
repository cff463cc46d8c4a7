"""Generated texts: side by side, and in duels with votes."""
