"""How fast the page shows something, and what each tab transfers: Chromium on a fresh data folder.

    python benchmarks/page_load.py --markdown docs/operations.md

Each tab is opened by its address in an empty browser, several times in turn; the table has medians. The first visit is
that of a new data folder, before any command, on a server that has just started. Times need an idle machine.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from page_server import CHROMIUM, FLAGS, page_server
from pages.measured_part import BEGIN, END, replace_measured
from playwright.sync_api import Browser, Page, sync_playwright

WAIT_MS, SETTLE_MS = 120_000, 1500
SHOWN = {  # what a visitor came for
    "explore": "#explore-figure .main-svg",
    "calibrate": "#calibrate-answer :text('with abq')",
    "distributions": "#distributions-figure .main-svg",
    "generate": "#generate-streams .abq-stream",
    "throughput": "#throughput-figure .main-svg",
    "compare": "#compare-figure .main-svg",
}
FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"


class Visit(NamedTuple):
    """One visit of a tab. first_paint, shown: seconds after the address was opened.  transferred: bytes, compressed."""

    first_paint: float
    shown: float
    transferred: int


def visit(browser: Browser, address: str, tab: str) -> Visit:
    """Open one tab in an empty browser, and wait for its first picture or text."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    sizes = _count_bytes(page)
    started = time.perf_counter()
    page.goto(f"{address}?tab={tab}")
    page.locator(SHOWN[tab]).first.wait_for()
    shown = time.perf_counter() - started
    page.wait_for_timeout(SETTLE_MS)
    first_paint = page.evaluate(FIRST_PAINT) / 1000
    context.close()
    return Visit(first_paint, shown, sum(sizes.values()))


def _count_bytes(page: Page) -> Counter[str]:
    """The bytes of each response of the page, by request, as they arrive; answers of events are streams without end."""
    sizes: Counter[str] = Counter()
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on(
        "Network.dataReceived", lambda event: sizes.update({event["requestId"]: int(event["encodedDataLength"])})
    )
    session.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: _rest(sizes, event)}))
    return sizes


def _rest(sizes: Counter[str], event: dict[str, Any]) -> int:
    """The bytes of a finished response that were not counted while it arrived, such as its headers."""
    return max(0, int(event["encodedDataLength"]) - sizes[event["requestId"]])


@contextmanager
def timed_start(data: Path) -> Iterator[tuple[str, float]]:
    """A server on a data folder: its address, and the seconds until it answered."""
    started = time.perf_counter()
    with page_server(data) as address:
        yield address, time.perf_counter() - started


def table(rounds: dict[str, list[Visit]]) -> str:
    """The Markdown: the first visit of each tab, and medians of the later ones."""
    lines = [
        "| tab | first paint, s | shown, s | shown on the first visit, s | transferred, MB |",
        "|---|---|---|---|---|",
    ]
    for tab, (first, *later) in rounds.items():
        paint, shown = (statistics.median(getattr(one, name) for one in later) for name in ("first_paint", "shown"))
        size = statistics.median(one.transferred for one in later) / 1e6
        lines.append(f"| {tab.capitalize()} | {paint:.2f} | {shown:.1f} | {first.shown:.1f} | {size:.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="visits of each tab after the first")
    parser.add_argument("--chromium", default=CHROMIUM)
    parser.add_argument("--markdown", type=Path, help=f"page in which to replace the part between {BEGIN} and {END}")
    options = parser.parse_args(arguments)
    rounds: dict[str, list[Visit]] = {tab: [] for tab in SHOWN}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        with timed_start(Path(data)) as (address, first_start), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=options.chromium, args=FLAGS)
            for _ in range(1 + options.rounds):
                for tab, visits in rounds.items():
                    visits.append(visit(browser, address, tab))
                    print(tab, visits[-1], file=sys.stderr, flush=True)
            browser.close()
        later_starts = []
        for _ in range(options.rounds):
            with timed_start(Path(data)) as (_, seconds):
                later_starts.append(seconds)
    page = table(rounds) + (
        f"\nThe server answers {first_start:.1f} s after `abq app` on a new data folder, which gets its examples, "
        f"and {statistics.median(later_starts):.1f} s after later starts.\n"
    )
    print(page)
    if options.markdown is not None:
        replace_measured(options.markdown, page)


if __name__ == "__main__":
    main()
