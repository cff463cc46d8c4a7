"""Quantize a real model in several ways: size, perplexity by two protocols, KL and decoding speed of each.

    python benchmarks/real_model.py ~/models/smollm2-135m --calibrate-on valid.txt --evaluate-on test.txt

Every step is a command of the command line in a process of its own, and is printed; a peer (`make peers`) runs in a
process of its own, too. Rows are stored as they finish;
runs and evaluations stay in the data folder (--data-dir). `--speed` times the models, which needs an idle machine: they
decode in turn in one process.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pages.measured_part import BEGIN, END, replace_measured
from pages.real_model_page import tables
from peer_row import PeerRow
from peer_weights import PEER_PYTHON, PeerError, is_peer, supports
from row_file import RowFile

from abq_core.evaluation.perplexity import EvaluationError
from abq_core.imports.spec import METHOD as IMPORTED
from abq_core.precision import FULL, Precision
from app.services.speed.timings import this_device

PRECISIONS = ("W8A8", "W4A8", "W4A8h8", "W4A8h8e8", "W4A4", "W2*A8h8")
METHODS = ("rtn", "abq")
PROTOCOLS = ("windows", "paper")
SEGMENTS = 32
RESULT = Path(__file__).parent / "results" / "real-model.json"
Key = dict[str, Any]


class Subject(NamedTuple):
    """A model or a run, by what `abq eval` takes.  measured: of its calibration: {"seconds": 12.5}."""

    name: str
    measured: Mapping[str, float] = MappingProxyType({})


class CommandError(RuntimeError):
    """A command of the benchmark failed."""


class Bench:
    """Runs commands on one model in one data folder and keeps their answers in a file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.file = RowFile(options.out)
        self.environment = {**os.environ, "ABQ_DATA_DIR": str(options.data_dir)}

    def abq(self, *words: str) -> dict[str, Any]:
        """Run one command with --json and return its answer.  Raises CommandError if it fails."""
        print("abq", shlex.join(words), file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "app.cli", *words, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=self.environment)
        if done.returncode:
            raise CommandError(f"abq {shlex.join(words)} ended with {done.returncode}.")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def full(self) -> None:
        """Evaluate the model at full precision."""
        self._evaluate(self._key(str(FULL), "none"), lambda: Subject(str(self.options.model)))

    def calibrated(self, precision: str, method: str) -> None:
        """Calibrate and evaluate."""
        options = self.options

        def run() -> Subject:
            data = ("--data", str(options.calibrate_on))
            settings = [f"--{name}={value}" for name, value in options.set]
            how = ("--precision", precision, "--method", method, *data, *settings)
            done = self.abq("calibrate", str(options.model), *how, "--wait")
            job = self.abq("jobs", "show", done["job"])
            took = datetime.fromisoformat(job["finished_at"]) - datetime.fromisoformat(job["started_at"])
            return Subject(done["run"], {"seconds": took.total_seconds()})

        self._evaluate(self._key(precision, method) | settings_key(options.set), run)

    def imported(self, file: Path) -> None:
        """Import and evaluate a file that another program has quantized."""
        base = ("--base", str(self.options.model))
        key = self._key(file.name, IMPORTED)
        self._evaluate(key, lambda: Subject(self.abq("import", str(file), *base)["run"]))

    def peer(self, precision: str, method: str) -> None:
        """Let a peer quantize the model, and evaluate it.  Raises PeerError."""
        options = self.options
        key = self._key(precision, method) | ({"steps": str(options.steps)} if method.startswith("autoround") else {})
        if self.file.find(key) is None:
            print(f"{method} {precision}", file=sys.stderr, flush=True)
            row = PeerRow(options.model, precision, method, options.calibrate_on, options.steps, options.peer_python)
            self.file.add(key, row.evaluated(options.evaluate_on, options.protocols, options.segments))

    def _key(self, precision: str, method: str) -> Key:
        """The key of a row: what it depends on besides the code and the settings."""
        options = self.options
        texts = {"calibrated": options.calibrate_on.name, "evaluated": options.evaluate_on.name}
        read = {} if options.segments == SEGMENTS else {"windows": options.segments}
        return {"model": options.model.name, "precision": precision, "method": method, **texts, **read}

    def _evaluate(self, key: Key, make: Callable[[], Subject]) -> None:
        """Evaluate by the protocols that the row lacks.  make: is called if one is missing."""
        options, found = self.options, self.file.find(key) or {}
        missing = [protocol for protocol in options.protocols if protocol not in found]
        if not missing:
            return
        subject, text = make(), ("--data", str(options.evaluate_on))
        found |= subject.measured
        for protocol in missing:
            part = ("--segments", str(options.segments)) if protocol == "windows" else ()
            found[protocol] = self.abq("eval", subject.name, *text, "--protocol", protocol, *part)
            self.file.add(key, found)

    def speed(self, columns: Sequence[str]) -> None:
        """Time the decoding of all columns in turn, `rounds` times."""
        words = ("bench", "decode", "--model", str(self.options.model), "--columns", ",".join(columns))
        rounds = [self.abq(*words)["measurements"] for _ in range(self.options.rounds)]
        on = {"machine": this_device(), "date": date.today().isoformat()}
        self.file.add({"model": self.options.model.name, "speed": list(columns)}, {"rounds": rounds, **on})


def settings_key(settings: Sequence[tuple[str, str]]) -> Key:
    """The settings by name; a name that occurs more than once has all its values: {"switch": "a=true, b=true"}."""
    names = dict.fromkeys(name for name, _ in settings)
    return {name: ", ".join(sorted(value for other, value in settings if other == name)) for name in names}


def rows(bench: Bench, options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """What measures each row: full precision, the imported files, the peers, then each method at every precision."""
    yield bench.full
    for file in options.gguf:
        yield partial(bench.imported, file)
    for peer in options.peers:
        for precision in options.precisions:
            if supports(Precision.parse(precision)):
                yield partial(bench.peer, precision, peer)
    for method in options.methods:
        for precision in options.precisions:
            yield partial(bench.calibrated, precision, method)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, and print all rows as tables."""
    options = _options(arguments)
    bench = Bench(options)
    if options.speed:
        bench.speed(["bf16", *options.precisions])
    else:
        for measure in rows(bench, options):
            try:
                measure()
            except (CommandError, PeerError, EvaluationError) as error:
                print(error, file=sys.stderr, flush=True)
    page = tables(bench.file.rows())
    print(page)
    if options.markdown is not None:
        replace_measured(options.markdown, page)


def _setting(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is not name=value, such as epochs=5")
    return name, value


def _peer(text: str) -> str:
    if not is_peer(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not gptq or autoround, alone or as autoround@256")
    return text


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder or a .gguf file")
    parser.add_argument("--calibrate-on", type=Path, required=True, help="a .txt file")
    parser.add_argument("--evaluate-on", type=Path, required=True, help="a .txt file")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--gguf", nargs="+", type=Path, default=[], help="files of llama.cpp to import and evaluate")
    parser.add_argument(
        "--peers", nargs="+", type=_peer, default=[], help="gptq, autoround, or with more text: gptq@256"
    )
    parser.add_argument("--steps", type=int, default=200, help="of AutoRound, each with 8 segments")
    parser.add_argument("--peer-python", type=Path, default=PEER_PYTHON, help="with the peers' packages (make peers)")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--segments", type=int, default=SEGMENTS, help="windows of 512 tokens that `windows` reads")
    parser.add_argument("--set", nargs="+", type=_setting, default=[], help="settings of the calibrations: epochs=5")
    parser.add_argument("--speed", action="store_true", help="time decoding instead; needs an idle machine")
    parser.add_argument("--rounds", type=int, default=3, help="timings per column")
    parser.add_argument("--data-dir", type=Path, default=Path("build/real-model-data"))
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--markdown", type=Path, help=f"page in which to replace the part between {BEGIN} and {END}")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
