"""Several texts decoded at once, in this program and in llama.cpp's parallel mode, on this machine's CPU.

    python benchmarks/decode_streams.py ~/models/smollm2-135m --gguf smollm2-Q4_0.gguf --markdown docs/decode-peers.md

This program has no server: "together" is one forward pass of transformers' modules for the next token of every stream,
"in turn" its decoder for one stream after the other. Without the package xllamacpp the GGUF files are left out. Every
column has a process of its own and as many threads; they take turns. Needs an idle machine.
"""

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from column_process import ColumnProcess, in_turn, serve_module
from pages.measured_part import replace_measured

from kernels.benchmark.machine import describe_machine
from kernels.host.threads import thread_count

COLUMNS = ("W8A8h8", "W4A8h8", "W2A8h8")
STREAMS = (1, 2, 4, 8, 16, 32, 64)
TOKENS, PROMPT = 32, 16  # of each stream
RESULT = Path(__file__).parent / "results" / "decode-streams.json"
BEGIN, END = "<!-- streams -->", "<!-- end of streams -->"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the JSON; print the table and insert it into the page."""
    options = _options(arguments)
    threads, most = thread_count(), max(options.streams)
    files = options.gguf if find_spec("xllamacpp") else []
    asked = [(f"{column}, {way}", ("stream_column", str(options.model), column, way))
             for column in options.columns for way in ("together", "in turn")]  # fmt: skip
    asked += [(file.stem, ("gguf_stream_column", str(file), most, threads)) for file in files]
    started = (ColumnProcess(label, serve_module, *words, start="spawn") for label, words in asked)
    rows = in_turn(started, options.rounds, options.streams)
    machine = describe_machine([], threads, also=("abq-explorer", *(["xllamacpp"] if files else [])))
    columns = [{**row, "rounds": row["rounds"][1:]} for row in rows]  # the first round warms up
    result = {"machine": machine, "model": options.model.name, "streams": options.streams, "columns": columns}
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    page = table(result)
    print(page)
    if options.markdown is not None:
        replace_measured(options.markdown, page, BEGIN, END)


def table(result: dict[str, Any]) -> str:
    """The medians as Markdown: tokens/s of all streams, one column per number of streams."""
    machine, streams = result["machine"], result["streams"]
    version = machine["versions"].get("xllamacpp")
    peer, rounds = f"xllamacpp {version}; " if version else "", len(result["columns"][0]["rounds"])
    lines = [
        f"{result['model']}; {machine['cpu']}, {machine['threads']} threads; {peer}{machine['date']}. Tokens/s of all "
        f"streams: {TOKENS} tokens each after a prompt of {PROMPT}, median of {rounds} rounds.",
        "",
        f"| engine | weights | {' | '.join(f'{count} streams' if count > 1 else '1 stream' for count in streams)} |",
        f"|{'---|' * (2 + len(streams))}",
    ]
    for column in result["columns"]:
        rates = [median(one[at] for one in column["rounds"]) for at in range(len(streams))]
        lines.append(f"| {column['engine']} | `{column['weights']}` | {' | '.join(f'{rate:.0f}' for rate in rates)} |")
    return "\n".join([*lines, ""])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--gguf", nargs="*", type=Path, default=[], help="GGUF files of the same model")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="precisions of this program")
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    parser.add_argument("--rounds", type=int, default=4, help="one more than are counted")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path, help=f"page in which to replace the part between {BEGIN} and {END}")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}: use 2 or more, because the first is not counted")
    return options


if __name__ == "__main__":
    main()
