"""Measures every promise about jobs and prints a table: `python tests/soak [--short] [--markdown FILE]`.

Exit code 1 where one is not held. On an idle machine the long form takes most of an hour, the short one less than ten
minutes.
"""

import argparse
import contextlib
import json
import logging
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue

from app.settings import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

from promise import Outcome, Promise
from promises import PROMISES

LANES = 2
_HEADER = """# Reliability

What is promised about jobs, measured by real processes, kills and disks. Made by `{command}` on {date}
({machine}).

| promise | measured | limit | held |
|---|---|---|---|
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/soak", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds of each")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    parser.add_argument("--only", nargs="*", default=[], help="names of checks, such as kills resume")
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if options.lane:
        answer_lane(options.short)
        return 0
    chosen = [name for name in PROMISES if not options.only or name in options.only]
    before = os.getloadavg()[0]
    outcomes = measure_all(chosen, options.short)
    if options.markdown:
        command = " ".join(["python tests/soak", *(sys.argv[1:] if arguments is None else arguments)])
        rows = [(PROMISES[name], outcomes[name]) for name in chosen if name in outcomes]
        options.markdown.write_text(page(rows, command, before), "utf-8")
    return 0 if all(name in outcomes and outcomes[name].held for name in chosen) else 1


def measure_all(chosen: list[str], short: bool) -> dict[str, Outcome]:
    """Measure those whose figure is a time one after the other, then the rest in two lanes, the longest first."""
    outcomes = {}
    for name in chosen:
        if PROMISES[name].timed:
            outcomes[name] = measure(PROMISES[name], short)
            report(name, outcomes[name])
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in sorted(chosen, key=lambda name: -PROMISES[name].minutes):
        if name not in outcomes:
            waiting.put(name)
    with ThreadPoolExecutor(LANES) as lanes:
        for found in lanes.map(lambda _: measure_lane(waiting, short), range(min(LANES, waiting.qsize()))):
            outcomes.update(found)
    return outcomes


def measure_lane(waiting: "SimpleQueue[str]", short: bool) -> dict[str, Outcome]:
    """Measure what waits in a process of its own; where that dies, its check has no outcome."""
    command = [sys.executable, str(Path(__file__).parent), "--lane", *(["--short"] if short else [])]
    outcomes: dict[str, Outcome] = {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as lane:
        assert lane.stdin is not None and lane.stdout is not None
        with contextlib.suppress(Empty, BrokenPipeError):
            while True:
                name = waiting.get_nowait()
                lane.stdin.write(f"{name}\n")
                if not (answer := lane.stdout.readline()):
                    break
                outcomes[name] = Outcome(**json.loads(answer))
                report(name, outcomes[name])
    return outcomes


def answer_lane(short: bool) -> None:
    """Be a lane: measure each check that a line names, and answer with a line of JSON."""
    for line in sys.stdin:
        print(json.dumps(asdict(measure(PROMISES[line.strip()], short))), flush=True)


def report(name: str, outcome: Outcome) -> None:
    """Say how it ended."""
    said = "held    " if outcome.held else "NOT HELD"
    limit = PROMISES[name].limit
    print(
        f"{time.strftime('%H:%M:%S')} {said} {name} in {outcome.seconds:.0f} s: {outcome.figure}; limit: {limit}",
        flush=True,
    )


def measure(promise: Promise, short: bool) -> Outcome:
    """The check in an empty folder; what it raises is its figure."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="abq-soak-", ignore_cleanup_errors=True) as work:
        try:
            outcome = promise.check(Path(work), short)
        except Exception as error:
            outcome = Outcome(f"{type(error).__name__}: {error}", held=False)
    return replace(outcome, seconds=time.monotonic() - started)


def page(rows: list[tuple[Promise, Outcome]], command: str, load: float) -> str:
    """The table as Markdown, with where and when it was measured."""
    machine = (
        f"{os.cpu_count()} cores, load {load:.1f} when it began, {platform.system()}, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
    lines = [
        f"| {promise.name} | {outcome.figure} | {promise.limit} | {'yes' if outcome.held else '**no**'} |"
        for promise, outcome in rows
    ]
    header = _HEADER.format(command=command, date=f"{datetime.now(UTC):%Y-%m-%d}", machine=machine)
    return header + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
