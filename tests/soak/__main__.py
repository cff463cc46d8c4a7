"""Measures every promise about jobs and prints a table: `python tests/soak [--short] [--markdown FILE]`.

Exit code 1 where one is not held. The long form takes about an hour, the short one less than ten minutes.
"""

import argparse
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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from app.settings import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

from promise import Outcome, Promise
from promises import PROMISES

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
    parser.add_argument("--one", help=argparse.SUPPRESS)  # the name of the check that this process makes
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if options.one:
        print(json.dumps(asdict(measure(PROMISES[options.one], options.short))))
        return 0
    chosen = {name: promise for name, promise in PROMISES.items() if not options.only or name in options.only}
    before = os.getloadavg()[0]
    outcomes = measure_all(chosen, options.short)
    if options.markdown:
        command = " ".join(["python tests/soak", *(sys.argv[1:] if arguments is None else arguments)])
        rows = [(promise, outcomes[name]) for name, promise in chosen.items()]
        options.markdown.write_text(page(rows, command, before), "utf-8")
    return 0 if all(outcome.held for outcome in outcomes.values()) else 1


def measure_all(chosen: dict[str, Promise], short: bool) -> dict[str, Outcome]:
    """Every check in a process of its own: first those with a time, alone; then the others, in the short form two at
    a time, for most of them wait most of the time.
    """
    alone = [name for name in chosen if chosen[name].timed or not short]
    outcomes = {name: report(name, chosen[name], short) for name in alone}
    others = [name for name in chosen if name not in outcomes]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: report(name, chosen[name], short), others)
    return {**outcomes, **dict(zip(others, found, strict=True))}


def report(name: str, promise: Promise, short: bool) -> Outcome:
    """Measure it and say so."""
    started = time.monotonic()
    command = [sys.executable, str(Path(__file__).parent), "--one", name, *(["--short"] if short else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    outcome = Outcome(**json.loads(lines[-1])) if done.returncode == 0 else Outcome("the check itself died", held=False)
    print(f"{'held    ' if outcome.held else 'NOT HELD'} {name} ({time.monotonic() - started:.0f} s): "
          f"{outcome.figure}; limit: {promise.limit}", flush=True)  # fmt: skip
    return outcome


def measure(promise: Promise, short: bool) -> Outcome:
    """The check in an empty folder; what it raises is its figure."""
    with tempfile.TemporaryDirectory(prefix="abq-soak-") as work:
        try:
            return promise.check(Path(work), short)
        except Exception as error:
            return Outcome(f"{type(error).__name__}: {error}", held=False)


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
