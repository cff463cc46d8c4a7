"""Block sizes of the Hadamard transform (`kernels.hadamard`)."""

LARGEST_BLOCK = 256  # columns that one warp holds (kernels/cuda/quantize.cu)


def block_of(k: int) -> int:
    """Block size for k channels: the largest power of two up to 256 that divides k.

    1 means no transform.
    """
    return min(k & -k, LARGEST_BLOCK)


def is_block_of(block: int, k: int) -> bool:
    """Whether k channels can be split into blocks of this size."""
    return 1 <= block <= LARGEST_BLOCK and block & (block - 1) == 0 and k % block == 0
