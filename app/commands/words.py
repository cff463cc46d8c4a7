"""Numbers as a person reads them: perplexity with its standard error, bytes in MiB, times with three figures."""


def missing(value: object) -> bool:
    """True for None, and for NaN and pandas' NaT, which equal nothing."""
    return value is None or value != value


def perplexity(value: float | None, stderr: float | None) -> str:
    if missing(value) or value is None:
        return "-"
    return f"{value:.2f}" + ("" if missing(stderr) else f" ± {stderr:.2f}")


def share(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{100 * value:.1f} %"


def nats(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{value:.4f}"


def mebibytes(value: float | None) -> str:
    return "-" if missing(value) or value is None else f"{value / 2**20:.2f} MiB"


def seconds(value: float | None) -> str:
    """Three figures and a unit: 820 ms, 4.52 s, 12 min 5 s."""
    if missing(value) or value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.3g} ms"
    if value < 100:
        return f"{value:.3g} s"
    return f"{int(value) // 60} min {int(value) % 60} s"
