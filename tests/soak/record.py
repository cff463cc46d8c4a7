"""The outcomes of checks, recorded in a JSON file, and the page that shows them."""

import json
import os
import platform
import sqlite3
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from promise import Outcome
from promises import PROMISES

_PAGE = """# Reliability

Guarantees about jobs and the server, each with its latest measurement. The checks use real processes, kills and disks.

`make soak` runs all checks again (`make soak SHORT=1`: fewer rounds). To run one check:

    python tests/soak --only CHECK --json {json} --markdown {markdown}

A result of the short form never replaces one of the long form. *Load* is the load average of the machine at the start.

| check | guarantee | measured | limit | held | form | date, load |
|---|---|---|---|---|---|---|
{rows}

Measured on: {machines}. Raw results: `{json}`.
"""


class Record:
    """The recorded outcome of each check by name. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def add(self, name: str, outcome: Outcome, short: bool, load: float) -> None:
        """Record an outcome. One of the short form does not replace one of the long form."""
        row = {**asdict(outcome), "form": "short" if short else "long", "load": round(load, 1), **_here()}
        with self._lock:
            rows = self.rows()
            if short and rows.get(name, row)["form"] == "long":
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(rows | {name: row}, indent=1, sort_keys=True) + "\n", "utf-8")

    def rows(self) -> dict[str, Any]:
        """All recorded outcomes: name -> figure, held, seconds, form, load, date, machine."""
        return json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}

    def write_page(self, markdown: Path) -> None:
        """Write the table of all recorded outcomes as Markdown."""
        rows = self.rows()
        known = [name for name in PROMISES if name in rows]
        text = _PAGE.format(
            json=self.path,
            markdown=markdown,
            rows="\n".join(_line(name, rows[name]) for name in known),
            machines="; ".join(sorted({rows[name]["machine"] for name in known})),
        )
        markdown.write_text(text, "utf-8")


def _line(name: str, row: dict[str, Any]) -> str:
    promise, held = PROMISES[name], "yes" if row["held"] else "**no**"
    when = f"{row['date']}, {row['load']:.1f}"
    return f"| {name} | {promise.name} | {row['figure']} | {promise.limit} | {held} | {row['form']} | {when} |"


def _here() -> dict[str, str]:
    machine = (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}"
    )
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine}
