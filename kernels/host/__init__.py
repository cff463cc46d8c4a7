"""The machine that the kernels run on: processor, threads, process priority and cached files."""
