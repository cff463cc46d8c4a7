"""The results of `cpu_peers.py` as text: every row, and the ratios that the project aims for."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
_SHAPE = (4096, 4096)


@dataclass(frozen=True)
class Target:
    """The target speedup of our `precision` over the best of some rows, by number of tokens."""

    precision: str
    against: str
    chosen: Callable[[Row], bool]
    at_least: dict[int, float]
    field: str = "median_us"


def _of(engine: str, precision: str, path: str = "") -> Callable[[Row], bool]:
    return lambda row: row["engine"] == engine and row["precision"] == precision and path in row["path"]


TARGETS = (
    Target("W2A8", "ONNX Runtime W2", _of("onnxruntime", "W2A8"), {1: 1.4, 8: 1.4, 64: 1.5}),
    Target("W4A8", "ONNX Runtime W4", _of("onnxruntime", "W4A8"), {1: 1.3, 8: 1.2, 64: 1.5}),
    Target(
        "W8A8",
        "the best of ONNX Runtime W8 and torch int8",
        lambda row: row["engine"] in ("onnxruntime", "torch-int8") and row["precision"] == "W8A8",
        {1: 1.2, 8: 1.0, 64: 1.0},
    ),
    Target("W2A8", "llama.cpp tq2_0", _of("llama.cpp", "W2A8", "tq2_0"), {1: 2.0, 8: 2.0, 64: 2.0}),
    Target("W2A2", "our own W2A8", _of("abq", "W2A8"), {1: 1.7, 8: 1.5}),
    Target("W2A8", "torch bf16, cold", _of("torch-bf16", "BF16"), {1: 8.0, 8: 4.0, 64: 1.0}, "cold_us"),
)


def row_text(row: Row) -> str:
    """Format one measurement as a line."""
    return (
        f"{row['n']}x{row['k']} M={row['m']:<4}{row['engine']:15}{row['precision']:6}"
        f"{row['median_us']:10.1f} µs ± {row['iqr_us']:.1f}, cold {row['cold_us']:.1f} µs, "
        f"{'exact' if row['exact'] else 'NOT EXACT'}  {row['path']}"
    )


def page(content: dict[str, Any], command: str) -> str:
    """Format the targets, their ratios at every shape, and all rows as Markdown; command: how they were measured."""
    machine, rows = content["machine"], content["measurements"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return "\n".join(
        [
            "# The CPU engine against other engines",
            "",
            "Speed of the CPU engine compared with ONNX Runtime, torch and llama.cpp. Times are medians with a warm "
            "cache, or a cold one if stated, and include quantizing the activations. Ratios above 1 mean that our "
            "engine is faster. [kernels.md](kernels.md#comparison-with-other-engines) describes the measurement.",
            "",
            f"Processor: {machine['cpu']}, {machine['threads']} of {machine['cores']} cores, last-level cache "
            f"{machine['last_level_cache_bytes'] / 2**20:.0f} MiB. {versions}.",
            "",
            f"## Targets at {_SHAPE[0]}x{_SHAPE[1]}",
            "",
            *_table(["ours", "against", "M", "ratio of medians", "target", "result"], _target_cells(rows)),
            "",
            bandwidth_text(machine, rows),
            "",
            "## Ratios at every shape and number of tokens",
            "",
            "Shapes are outputs x inputs, M is the number of tokens. Bold: the other engine is faster.",
            "",
            *_table(["ours", "against", "shape", *(f"M = {m}" for m in _tokens(rows))], _ratio_cells(rows)),
            "",
            "## All measurements",
            "",
            *_all_rows(rows),
            "",
            f"Reproduce with `{command}`.",
            "",
        ]
    )


def ratio(rows: Iterable[Row], target: Target, m: int, shape: tuple[int, int] = _SHAPE) -> float | None:
    """Our speedup over the best of the target's rows; None if either was not measured."""
    here = [row for row in rows if (row["n"], row["k"], row["m"]) == (*shape, m)]
    ours = [row[target.field] for row in here if _of("abq", target.precision)(row)]
    theirs = [row[target.field] for row in here if target.chosen(row)]
    return min(theirs) / ours[0] if ours and theirs else None


def bandwidth_text(machine: dict[str, Any], rows: Iterable[Row]) -> str:
    """The share of its limit (memory bandwidth or instructions) that W2A8 at M = 1 reaches, cold."""
    row = next((r for r in rows if (r["n"], r["k"], r["m"]) == (*_SHAPE, 1) and _of("abq", "W2A8")(r)), None)
    if row is None:
        return "W2A8 at M = 1 was not measured."
    read, issue = machine["read_gb_per_second"], machine["issue_gb_per_second"]
    reached, limit = row["packed_bytes"] / row["cold_us"] / 1e3, min(read, issue)
    return (
        f"W2A8 at M = 1, cold, reads {reached:.1f} GB/s of packed weight: {100 * reached / limit:.0f} % of "
        f"{limit:.1f} GB/s, the {'memory bandwidth' if read <= issue else 'rate of the VNNI instructions'} (memory "
        f"{read:.1f} GB/s; instructions, with weights in the L1 cache, {issue:.1f} GB/s)."
    )


def _target_cells(rows: Sequence[Row]) -> Iterable[list[str]]:
    for target in TARGETS:
        for m, at_least in target.at_least.items():
            found = ratio(rows, target, m)
            if found is not None:
                result = "met" if found >= at_least else "**missed**"
                yield [target.precision, target.against, str(m), f"{found:.2f}", f"{at_least:.1f}", result]


def _tokens(rows: Iterable[Row]) -> list[int]:
    return sorted({row["m"] for row in rows})


def _ratio_cells(rows: Sequence[Row]) -> Iterable[list[str]]:
    for target in TARGETS:
        for shape in dict.fromkeys((row["n"], row["k"]) for row in rows):
            found = [ratio(rows, target, m, shape) for m in _tokens(rows)]
            if any(found):
                yield [target.precision, target.against, f"{shape[0]}x{shape[1]}", *map(_ratio_text, found)]


def _ratio_text(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:.2f}"
    return text if float(text) >= 1 else f"**{text}**"


def _all_rows(rows: Sequence[Row]) -> Iterable[str]:
    header = ["shape", "M", "engine", "weights", "median, µs", "IQR", "cold, µs", "IQR", "cold GB/s", "exact", "path"]
    cells = [
        [
            f"{row['n']}x{row['k']}",
            str(row["m"]),
            row["engine"],
            row["precision"],
            f"{row['median_us']:.0f}",
            f"{row['iqr_us']:.0f}",
            f"{row['cold_us']:.0f}",
            f"{row['cold_iqr_us']:.0f}",
            f"{row['packed_bytes'] / row['cold_us'] / 1e3:.1f}",
            "yes" if row["exact"] else "**no**",
            row["path"],
        ]
        for row in rows
    ]
    return _table(header, cells)


def _table(header: list[str], rows: Iterable[list[str]]) -> Iterable[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
