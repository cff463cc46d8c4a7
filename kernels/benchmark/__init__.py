"""CPU benchmarks: the engine against other libraries, memory bandwidth, the machine."""
