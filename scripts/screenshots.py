"""Take screenshots of the six tabs for the documentation: `python scripts/screenshots.py [--data FOLDER] [--dark]`.

Without a data folder it first runs a few short calibrations of the built-in model, which takes some minutes.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]  # fmt: skip
HEIGHTS = {1280: 880, 1920: 1080}
STARTED_WITHIN_SECONDS = 120
WAIT_MS = 180_000
WITH_MODEL = ("duel", "import")  # taken only with --model or --only: docs/images has them of a real model
DEMO = [("W8A8", "rtn"), ("W4A4", "rtn"), ("W4A4", "abq"), ("W2*A8", "rtn"), ("W2*A8", "abq")]


@dataclass(frozen=True)
class Shot:
    """One screenshot: file name, tab, precision, and the steps before it is taken."""

    name: str
    tab: str
    precision: str
    prepare: Callable[[Page], None]


def choose(label: str) -> Callable[[Page], None]:
    """Choose a figure of the tab and wait until it is drawn."""

    def do(page: Page) -> None:
        figure = page.locator(".abq-picture:visible").first
        figure.locator(".main-svg").first.wait_for()
        before = drawn(page)
        page.get_by_role("radio", name=label, exact=True).check()
        page.wait_for_function(
            "(before) => [...document.querySelectorAll('[data-drawn]')]"
            ".some(e => e.offsetParent && e.dataset.drawn !== before)",
            arg=before,
        )

    return do


def drawn(page: Page) -> str:
    """How many times the visible figure was drawn."""
    return str(
        page.evaluate("[...document.querySelectorAll('[data-drawn]')].find(e => e.offsetParent)?.dataset.drawn ?? '0'")
    )


def wait_for_picture(page: Page) -> None:
    page.locator(".abq-picture .main-svg:visible").first.wait_for()


def show_losses(page: Page) -> None:
    """Select a calibration with losses."""
    row = page.locator("#calibrate-queue tr[data-key]").filter(has=page.locator("td", has_text=re.compile("^abq$")))
    row.filter(has_text="succeeded").first.click()
    page.locator("#calibrate-figure .scatterlayer .trace").first.wait_for()


def generate(page: Page) -> None:
    page.locator("#generate-columns", has_text="Full precision").wait_for()
    page.get_by_role("button", name="Generate").click()
    page.locator("#generate-answer", has_text="differs").or_(
        page.locator("#generate-answer", has_text="same text")
    ).first.wait_for()


def candidates(page: Page) -> None:
    """Columns that follow the first one, and the candidates of a token."""
    page.locator("#generate-columns", has_text="Full precision").wait_for()
    page.locator("#generate-follow input").check()
    page.get_by_role("button", name="Generate").click()
    page.locator("#generate-answer", has_text="would choose").wait_for()
    page.locator("#generate-streams .abq-text").first.locator("[data-top]").nth(12).hover()
    page.locator(".abq-candidates").wait_for()


def measure_document(page: Page) -> None:
    """A document that full precision and the columns read."""
    page.locator("#generate-columns", has_text="Full precision").wait_for()
    page.get_by_role("radio", name="Document: where does it differ?").check()
    page.get_by_role("button", name="Measure", exact=True).click()
    page.locator("#document-answer", has_text="Read:").wait_for()


def measure_formats(page: Page) -> None:
    choose("Level sets")(page)
    page.get_by_role("button", name="Measure perplexity by simulation").click()
    page.locator("#explore-answer", has_text="of the formats that the engine runs").wait_for()


def measure_transform(page: Page) -> None:
    """The transform of the linear with the strongest outliers, with its time."""
    choose("Hadamard transform")(page)
    before = drawn(page)
    page.locator("#explore-tensor input").fill("mlp.down_proj")
    page.locator("#explore-tensor input").press("Enter")
    page.wait_for_function("(before) => document.querySelector('#explore-figure').dataset.drawn !== before", arg=before)
    page.get_by_role("button", name="Measure its time here").click()
    page.locator("#explore-answer", has_text="it adds").wait_for()


def time_kernels(page: Page) -> None:
    page.get_by_role("button", name="Time the kernels").click()
    page.locator("#throughput-table td", has_text="exact").first.wait_for()
    page.locator("#throughput-answer", has_text="times").wait_for()


def read_planes(page: Page) -> None:
    """A run of 8 bits, read at every width; the slider at 3."""
    page.locator("#compare-runs tbody tr", has_text="W8A8").first.click()
    page.get_by_role("radio", name="Fewer planes").check()
    page.locator("#planes-answer", has_text="Not measured yet at 8 of 8").wait_for()
    page.get_by_role("button", name="Read with fewer planes").click()
    page.locator("#planes-reads tbody tr").nth(6).wait_for()
    page.locator("#planes-slider input[type=number]").fill("3")
    page.locator("#planes-slider input[type=number]").press("Enter")
    page.locator("#planes-answer", has_text="At 3 of 8 planes").wait_for()


def measure_caches(page: Page) -> None:
    page.get_by_role("radio", name="KV cache").check()
    page.get_by_role("button", name="Measure smaller caches").click()
    page.locator("#kv-answer", has_text="The smallest cache within").wait_for()


def measure_texts(page: Page) -> None:
    """Two texts, each calibrated and measured on both."""
    page.get_by_role("radio", name="Calibration text").check()
    page.locator("#texts-method").get_by_label("rtn", exact=True).check()
    page.locator("#texts-answer", has_text="of 2 texts").wait_for()
    page.get_by_role("button", name="Calibrate on each text").click()
    pending = page.locator("#calibrate-queue").get_by_text(re.compile("^(queued|running)"))
    pending.first.wait_for()
    pending.first.wait_for(state="detached")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#texts-answer", has_text="2 of 2 texts").wait_for()
    page.get_by_role("button", name="Measure every run on every text").click()
    page.locator("#texts-answer", has_text="4 of 4 pairs").wait_for()


def open_import(page: Page) -> None:
    """The form for imports, beside the runs. An import is made by the command line before: `abq import`."""
    wait_for_picture(page)
    page.get_by_role("button", name="Import a quantized model").click()
    page.get_by_role("button", name="Import", exact=True).wait_for()


def duel(page: Page) -> None:
    """Two texts, before a vote."""
    page.get_by_role("radio", name="Duel: which is better?").check()
    page.locator("#duel-standings", has_text="there are").wait_for()
    page.get_by_role("button", name="New duel").click()
    page.get_by_role("button", name="Left is better").wait_for()


SHOTS = [
    Shot("explore", "explore", "W2*A8", wait_for_picture),
    Shot("bit-planes", "explore", "W4A8", choose("Bit planes")),
    Shot("level-sets", "explore", "W2*A8", measure_formats),
    Shot("transform", "explore", "W4A4", measure_transform),
    Shot("calibrate", "calibrate", "W4A4", show_losses),
    Shot("distributions", "distributions", "W4A4", wait_for_picture),
    Shot("attention", "distributions", "W4A4", choose("Attention maps")),
    Shot("generate", "generate", "W4A4", generate),
    Shot("candidates", "generate", "W4A4", candidates),
    Shot("document", "generate", "W4A4", measure_document),
    Shot("duel", "generate", "W4A4", duel),
    Shot("throughput", "throughput", "W2*A8", time_kernels),
    Shot("compare", "compare", "W4A4", wait_for_picture),
    Shot("planes", "compare", "W8A8", read_planes),
    Shot("kv-cache", "compare", "W4A4", measure_caches),
    Shot("texts", "compare", "W4A4", measure_texts),
    Shot("import", "compare", "W4A4", open_import),
]


def make_demo(data: Path) -> None:
    """Run a few short calibrations to their end."""
    environment = {**os.environ, "ABQ_DATA_DIR": str(data)}
    for precision, method in DEMO:
        command = [sys.executable, "-m", "app.cli", "calibrate", "builtin", "--precision", precision]
        command += ["--method", method, "--segments", "16", "--wait"]
        command += ["--epochs", "5"] if method == "abq" else []
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


@contextmanager
def running(data: Path, model: str) -> Iterator[str]:
    """Serve the page, which may read the folder of `model`, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app.cli", "app", "--port", str(port)]
    command += ["--allow", model] if Path(model).is_dir() else []
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "ABQ_DATA_DIR": str(data)})
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + STARTED_WITHIN_SECONDS
        while not answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The page did not start on {address}.")
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def take(address: str, out: Path, model: str, width: int, dark: bool, only: list[str]) -> None:
    """Take screenshots at one width in light or dark mode. only: their names."""
    out.mkdir(parents=True, exist_ok=True)
    suffix = ("-dark" if dark else "") + (f"-{width}" if width != 1280 else "")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = browser.new_context(
            viewport={"width": width, "height": HEIGHTS.get(width, width * 9 // 16)},
            color_scheme="dark" if dark else "light",
        )
        for shot in (shot for shot in SHOTS if shot.name in only):
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(f"{address}?model={model}&precision={shot.precision}&tab={shot.tab}")
            page.wait_for_function(
                f"location.search.includes('precision=') && location.search.includes('tab={shot.tab}')"
            )
            shot.prepare(page)
            page.locator(".abq-picture .main-svg:visible, .abq-streams").first.wait_for(timeout=WAIT_MS)
            path = out / f"{shot.name}{suffix}.png"
            page.screenshot(path=path, full_page=True)
            print(path)
            page.close()
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="data folder with finished runs (default: make one)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--model", default="builtin", help="show the runs of this model")
    parser.add_argument("--only", nargs="*", default=[], choices=[shot.name for shot in SHOTS], metavar="NAME")
    options = parser.parse_args()
    usual = [shot.name for shot in SHOTS if options.model != "builtin" or shot.name not in WITH_MODEL]
    with tempfile.TemporaryDirectory(prefix="abq-demo-") as temporary:
        data = options.data or Path(temporary)
        if options.data is None:
            make_demo(data)
        with running(data, options.model) as address:
            take(address, options.out, options.model, options.width, options.dark, options.only or usual)


if __name__ == "__main__":
    main()
