"""Add the timings of a benchmark's machine to the Throughput tab of every installation:

    python scripts/ship_timings.py benchmarks/results/cpu-*.json

Reads files of `cpu_peers.py`, `cpu_decode.py`, `gpu_kernels.py` and `gpu_decode.py`. Of the kernel timings it takes
only the packed engine's rows, which include the speedup over each peer. Writes one file per device to
app/shipped/timings.
"""

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.services.speed.timings import FORMAT, SHIPPED, read_timings

_DECODED = ("column", "path", "tokens_per_second", "first_token_seconds", "weight_bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the files and print what they contain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="files of benchmarks/results")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args(arguments)
    timings = defaultdict(list)
    for path in sorted(options.results):
        content = json.loads(path.read_text("utf-8"))
        machine = content["machine"]
        device = machine.get("device") or machine["cpu"]
        created = f"{machine['date']}T00:00:00+00:00"
        timings[device] += [{"created": created, "device": device, "values": values} for values in rows_of(content)]
    for device, rows in timings.items():
        path = options.out / f"{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
        lines = ",\n".join(json.dumps(row) for row in rows)
        path.write_text(f'{{"format": "{FORMAT}", "timings": [\n{lines}\n]}}\n', "utf-8")
        print(f"{path}: {len(read_timings(path))} timings of {device}")


def rows_of(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The values of each timing in a benchmark's file."""
    for row in content.get("measurements", []):
        if row["engine"] == "abq":
            yield {"kind": "kernel", **{name: value for name, value in row.items() if not name.startswith("limit")}}
    models = content.get("models") or ({content["model"]: content} if "columns" in content else {})
    threads = content["machine"].get("threads", 1)
    for model, measured in models.items():
        for row in measured["columns"]:
            kept = {name: row[name] for name in _DECODED}
            yield {"kind": "decode", **kept, "model": model, "tokens": content["tokens"], "threads": threads}


if __name__ == "__main__":
    main()
