"""Precision names of the kernels, such as "W2*A8g128".

Weight bits, star, activation bits, group size.
"""

import re

_NAME = re.compile(
    r"W(?P<p>\d+)(?P<star>\*)?A(?P<q>\d+)(?:g(?P<group>[1-9]\d*))?(?:kv\d+)?(?:h\d+)?(?:e\d+)?", re.IGNORECASE
)


class BenchError(ValueError):
    """The arguments of a benchmark are invalid."""


def parse_precision(name: str) -> tuple[int, bool, int, int | None]:
    """Parse a name such as "W2*A8g128" to (weight bits, starred, activation bits, group size).

    Raises BenchError.
    """
    match = _NAME.fullmatch(name.strip())
    if match is None or not 1 <= int(match["p"]) <= 8 or int(match["q"]) not in (*range(1, 9), 16):
        raise BenchError(
            f"'{name}' is not a precision of the kernels: use W1..W8, an optional star, A1..A8 or A16, e.g. W2*A8"
        )
    return int(match["p"]), match["star"] is not None, int(match["q"]), int(match["group"]) if match["group"] else None


def weight_bits(precision: str) -> int:
    """Bits needed for every level of a name such as "W2*A8", "FP16" or "BF16".

    A star needs one more.
    """
    return int(re.findall(r"\d+", precision)[0]) + precision.count("*")
