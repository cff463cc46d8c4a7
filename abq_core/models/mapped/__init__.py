"""Models whose weights stay in the checkpoint: memory-mapped, in its dtype, float32 only where they are used."""
