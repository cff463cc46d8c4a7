"""The machine that the kernels run on: processor, threads, priority, cache files."""
