"""Measures every promise about jobs and the server.

`python tests/soak [--short] [--json FILE] [--markdown FILE]`.
The exit code is 1 if a promise is not kept. On an idle machine the long form takes most of an hour, the short form less
than ten minutes.
"""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from kernels.host.threads import THREADS_WAIT

os.environ.update({**THREADS_WAIT, **os.environ})  # read when torch is imported

from promise import Outcome, Promise
from promises import PROMISES
from record import Record

LANES = 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/soak", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds of each")
    parser.add_argument("--json", type=Path, help="record each outcome in this file")
    parser.add_argument("--markdown", type=Path, help="write the table of all recorded outcomes to this file")
    parser.add_argument("--only", nargs="*", default=[], help="names of checks, such as kills resume")
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.markdown and not options.json:
        parser.error("--markdown shows the outcomes of --json: pass both")
    logging.disable(logging.WARNING)
    if options.lane:
        answer_lane(options.short)
        return 0
    chosen = [name for name in PROMISES if not options.only or name in options.only]
    record = Record(options.json) if options.json else None
    outcomes = measure_all(chosen, options.short, record)
    if record and options.markdown:
        record.write_page(options.markdown)
    return 0 if all(name in outcomes and outcomes[name].held for name in chosen) else 1


def measure_all(chosen: list[str], short: bool, record: Record | None) -> dict[str, Outcome]:
    """Measure timed promises one at a time, then the others in two parallel processes, the longest first."""
    outcomes = {}

    def ended(name: str, outcome: Outcome) -> None:
        outcomes[name] = outcome
        report(name, outcome)
        if record:
            record.add(name, outcome, short, load)

    load = os.getloadavg()[0]
    for name in chosen:
        if PROMISES[name].timed:
            ended(name, measure(PROMISES[name], short))
    waiting: SimpleQueue[str] = SimpleQueue()
    for name in sorted(chosen, key=lambda name: -PROMISES[name].minutes):
        if name not in outcomes:
            waiting.put(name)
    with ThreadPoolExecutor(LANES) as lanes:
        for _ in lanes.map(lambda _: measure_lane(waiting, short, ended), range(min(LANES, waiting.qsize()))):
            pass
    return outcomes


def measure_lane(waiting: "SimpleQueue[str]", short: bool, ended: Callable[[str, Outcome], None]) -> None:
    """Measure waiting promises in a separate process. If it dies, its check has no outcome."""
    command = [sys.executable, str(Path(__file__).parent), "--lane", *(["--short"] if short else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as lane:
        assert lane.stdin is not None and lane.stdout is not None
        with contextlib.suppress(Empty, BrokenPipeError):
            while True:
                name = waiting.get_nowait()
                lane.stdin.write(f"{name}\n")
                if not (answer := lane.stdout.readline()):
                    break
                ended(name, Outcome(**json.loads(answer)))


def answer_lane(short: bool) -> None:
    """Measure each check named by a line of stdin; print its outcome as a line of JSON."""
    for line in sys.stdin:
        print(json.dumps(asdict(measure(PROMISES[line.strip()], short))), flush=True)


def report(name: str, outcome: Outcome) -> None:
    """Print the outcome."""
    verdict = "held    " if outcome.held else "NOT HELD"
    limit = PROMISES[name].limit
    print(
        f"{time.strftime('%H:%M:%S')} {verdict} {name} in {outcome.seconds:.0f} s: {outcome.figure}; limit: {limit}",
        flush=True,
    )


def measure(promise: Promise, short: bool) -> Outcome:
    """Run the check in an empty folder. An exception becomes its figure."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="abq-soak-", ignore_cleanup_errors=True) as work:
        try:
            outcome = promise.check(Path(work), short)
        except Exception as error:
            outcome = Outcome(f"{type(error).__name__}: {error}", held=False)
    return replace(outcome, seconds=time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
