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
    parser.add_argument("--lane", nargs="*", help=argparse.SUPPRESS)  # checks of this process, answered as JSON
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    if options.lane is not None:
        for name in options.lane:
            print(json.dumps([name, asdict(measure(PROMISES[name], options.short))]), flush=True)
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
    """Measure one after the other. In the short form those without a time go in two lanes, for they mostly wait."""
    alone = [name for name in chosen if PROMISES[name].timed or not short]
    outcomes = {}
    for name in alone:
        outcomes[name] = measure(PROMISES[name], short)
        report(name, outcomes[name])
    others = [name for name in chosen if name not in outcomes]
    with ThreadPoolExecutor(2) as lanes:
        for found in lanes.map(measure_lane, (others[::2], others[1::2])):
            outcomes.update(found)
    return outcomes


def measure_lane(names: list[str]) -> dict[str, Outcome]:
    """The short form of these checks in a process of its own."""
    command = [sys.executable, str(Path(__file__).parent), "--short", "--lane", *names]
    outcomes = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lane:
        for line in lane.stdout or ():
            name, found = json.loads(line)
            outcomes[name] = Outcome(**found)
            report(name, outcomes[name])
    return outcomes


def report(name: str, outcome: Outcome) -> None:
    """Say how it ended."""
    said = "held    " if outcome.held else "NOT HELD"
    print(f"{time.strftime('%H:%M:%S')} {said} {name}: {outcome.figure}; limit: {PROMISES[name].limit}", flush=True)


def measure(promise: Promise, short: bool) -> Outcome:
    """The check in an empty folder; what it raises is its figure."""
    with tempfile.TemporaryDirectory(prefix="abq-soak-", ignore_cleanup_errors=True) as work:
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
