"""Precision names of the kernels, such as "W2*A8g128": weight bits, star, activation bits, group size."""

import re

_NAME = re.compile(r"W(?P<p>\d+)(?P<star>\*)?A(?P<q>\d+)(?:g(?P<group>\d+))?(?:kv\d+)?", re.IGNORECASE)


class BenchError(ValueError):
    """A benchmark that cannot be run as asked."""


def parse_precision(name: str) -> tuple[int, bool, int, int | None]:
    """(weight bits, starred, activation bits, group size) of a name such as "W2*A8g128". Raises BenchError."""
    match = _NAME.fullmatch(name.strip())
    if match is None or not 1 <= int(match["p"]) <= 8 or int(match["q"]) not in (*range(1, 9), 16):
        raise BenchError(
            f"'{name}' is no precision the kernels have: W1..W8, a star or none, A1..A8 or A16, e.g. W2*A8"
        )
    return int(match["p"]), match["star"] is not None, int(match["q"]), int(match["group"]) if match["group"] else None


def weight_bits(precision: str) -> int:
    """Bits that hold every level of a name such as "W2*A8", "FP16" or "BF16": a star has one more than its digit's."""
    return int(re.findall(r"\d+", precision)[0]) + precision.count("*")
