"""Block sizes of the Hadamard transform (`kernels.hadamard`)."""

LARGEST_BLOCK = 256  # the columns that a warp holds (kernels/cuda/quantize.cu)


def block_of(k: int) -> int:
    """Channels of a block where a token has k: the largest power of two up to 256 that divides k; 1 is no transform."""
    return min(k & -k, LARGEST_BLOCK)


def is_block_of(block: int, k: int) -> bool:
    """Whether k channels can be cut into such blocks."""
    return 1 <= block <= LARGEST_BLOCK and block & (block - 1) == 0 and k % block == 0
