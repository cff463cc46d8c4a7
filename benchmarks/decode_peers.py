"""One model in this program, in llama.cpp and in ik_llama.cpp, on this machine's CPU: speed, bytes and memory.

    python benchmarks/decode_peers.py ~/models/smollm2-135m --gguf smollm2-Q4_0.gguf smollm2-Q8_0.gguf

The packages xllamacpp and ik-llama-cpp-python run the GGUF files; a package that is not installed is left out. Every
column has a process of its own and as many threads; the columns take turns, greedy, with the same prompts by token id.
Needs an idle machine.
"""

import argparse
import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from column_process import ColumnProcess, in_turn, serve_module
from decode_round import Request
from pages.measured_part import BEGIN, END, replace_measured

from abq_core.text.sources import BUILTIN_TEXT, read_text
from kernels.benchmark.machine import describe_machine
from kernels.host.threads import thread_count

COLUMNS = ("W8A8h8", "W4A8h8", "W2A8h8")
ENGINES = {  # engine -> its Python module, and the package that brings it
    "llama.cpp": ("xllamacpp", "xllamacpp"),
    "ik_llama.cpp": ("ik_llama_cpp", "ik-llama-cpp-python"),
}
RESULT = Path(__file__).parent / "results" / "decode-peers.json"
SHORT = 16  # tokens of the prompt before the timed tokens


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the JSON; print the table and insert it into the page."""
    options = _options(arguments)
    installed = [engine for engine, (module, _) in ENGINES.items() if find_spec(module)]
    long, short = _prompts(options.model, options.prompt)
    threads = thread_count()
    columns: list[tuple[str, tuple[object, ...]]] = [
        *((column, ("abq_column", str(options.model), column)) for column in options.columns),
        *(
            (f"{engine} {file.stem}", ("gguf_column", engine, str(file), len(long) + options.tokens, threads))
            for engine in installed
            for file in options.gguf
        ),
    ]
    started = (ColumnProcess(label, serve_module, *asked, start="spawn") for label, asked in columns)
    request = Request(long, short, options.tokens)
    rows = [_summary(row) for row in in_turn(started, 1 + options.rounds, request)]  # the first round warms up
    packages = [ENGINES[engine][1] for engine in installed]
    machine = describe_machine([], threads, also=("abq-explorer", *packages))
    result = {"machine": machine, "model": options.model.name, "prompt": options.prompt, "tokens": options.tokens}
    result |= {"rounds": options.rounds, "columns": rows}
    options.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    page = table(result)
    print(page)
    if options.markdown is not None:
        marks = (f"<!-- {options.part} -->", f"<!-- end of {options.part} -->") if options.part else (BEGIN, END)
        replace_measured(options.markdown, page, *marks)


def table(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    machine = result["machine"]
    versions = machine["versions"]
    packages = "; ".join(f"{name} {versions[name]}" for _, name in ENGINES.values() if name in versions)
    lines = [
        f"{result['model']}; {machine['cpu']}, {machine['threads']} threads, {machine['read_gb_per_second']:.1f} GB/s; "
        f"{packages}; {machine['date']}. {result['tokens']} tokens after a prompt of {SHORT}, and a prompt of "
        f"{result['prompt']}; median of {result['rounds']} rounds, in turn.",
        "",
        "| engine | weights | MiB | tokens/s | prompt, tokens/s | process, MiB |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['engine']} | `{row['weights']}` | {row['bytes'] / 2**20:.0f} | {_whole(row['tokens_per_second'])} | "
        f"{_whole(row['prompt_tokens_per_second'])} | {row['resident_bytes'] / 2**20:.0f} |"
        for row in result["columns"]
    ]
    return "\n".join([*lines, ""])


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _summary(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the medians of its rounds."""
    rounds = row.pop("rounds")[1:]
    decoded = [1 / one["between"] for one in rounds if one["between"]]
    return {
        **row,
        "tokens_per_second": median(decoded) if decoded else None,
        "prompt_tokens_per_second": 1 / median(one["prompt"] for one in rounds),
        "resident_bytes": max(one["resident_bytes"] for one in rounds),
        "rounds_tokens_per_second": decoded,
    }


def _prompts(folder: Path, tokens: int) -> tuple[list[int], list[int]]:
    """A long and a short prompt of the built-in text, each starting as the tokenizer starts a text."""
    from abq_core.models.tokenizer import encode, load_tokenizer, text_prefix

    tokenizer = load_tokenizer(folder)
    text = "\n\n".join(read_text(BUILTIN_TEXT, "evaluation").documents)
    ids = [*text_prefix(tokenizer), *encode(tokenizer, [text], special_tokens=False)[0]]
    return ids[:tokens], ids[:SHORT]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("--gguf", nargs="*", type=Path, default=[], help="GGUF files of the same model")
    parser.add_argument("--columns", nargs="+", default=list(COLUMNS), help="precisions of this program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens decoded after the short prompt")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the long prompt")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path, help=f"page in which to replace the part between {BEGIN} and {END}")
    parser.add_argument("--part", help="replace the part between <!-- PART --> and <!-- end of PART --> instead")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}: use 1 or more")
    if options.part and options.markdown is None:
        parser.error("--part names a part of the page of --markdown")
    return options


if __name__ == "__main__":
    main()
