"""Downloads of the page: CSV data of the figures, reports, runs, exports, plotly.

A request names a run or job id and one of a fixed set of names, never a path.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import plotly
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from abq_core.analysis.attention_heads import attention_heads
from app.figures.run_lenses import under_its_lens
from app.json_values import to_json_text
from app.services import ServiceError, Services
from app.services.lenses.bit_planes import Place
from app.web.access.private_texts import check_text_access, may_see_text, public_record

ASSETS = Path(__file__).parent / "assets"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
EXPLORE_FRAMES = frozenset({"histograms", "levels", "linears", "outliers"})
CACHE_ONE_DAY = {"Cache-Control": "max-age=86400"}
NO_CACHE = {"Cache-Control": "no-cache"}
MOST_DIGITS = 9
COMPRESSION = 4  # of gzip: 4 % larger than with 9, in a third of the time
ERRORS = (ValueError, RuntimeError, OSError)  # answered with 404 and the message


def download_routes(services: Services) -> list[Route]:
    """The routes under /abq/."""
    return [
        _script_route("/abq/plotly.min.js", PLOTLY, CACHE_ONE_DAY),
        _script_route("/abq/page.js", ASSETS / "page.js", NO_CACHE),
        *_csv_routes(services),
        *_file_routes(services),
    ]


def _script_route(url: str, path: Path, headers: dict[str, str]) -> Route:
    async def script(request: Request) -> Response:
        return FileResponse(path, media_type="text/javascript", headers=headers)

    return Route(url, script, middleware=[Middleware(GZipMiddleware, compresslevel=COMPRESSION)])


def _csv_routes(services: Services) -> list[Route]:
    """The data behind the figures and tables."""

    def diagnostics(request: Request, name: str) -> pd.DataFrame:
        run = services.runs.get(request.path_params["run"])
        check_text_access(run, request)
        return under_its_lens(services.runs.diagnostics(run.id, name), run.method)

    def run_frame(request: Request) -> pd.DataFrame:
        return diagnostics(request, request.path_params["name"])

    def heads_frame(request: Request) -> pd.DataFrame:
        attention = diagnostics(request, "attention")
        block = whole_number(request.query_params, "block")
        return attention_heads(attention[attention["block"].eq(block)])

    def explore_frame(request: Request) -> pd.DataFrame:
        name, query = request.path_params["name"], request.query_params
        if name not in EXPLORE_FRAMES:
            raise ServiceError(f"There is no table of this name. Choose one of {', '.join(sorted(EXPLORE_FRAMES))}.")
        return services.models.explore(query.get("model", ""), query.get("precision", ""))[name]

    def bit_planes(request: Request) -> pd.DataFrame:
        query = request.query_params
        row, column, block = (whole_number(query, name) for name in ("row", "column", "block"))
        place = Place(block, query.get("tensor", ""), row, column)
        return services.lenses.bit_planes.read(query.get("model", ""), query.get("precision", ""), place).tile

    def level_sets(request: Request) -> pd.DataFrame:
        query = request.query_params
        at = (query.get(name, "") for name in ("model", "precision"))
        block, tensor, own = whole_number(query, "block"), query.get("tensor", ""), query.get("own", "")
        return services.lenses.level_sets.compare(*at, block, tensor, own)["formats"]

    def transform(request: Request) -> pd.DataFrame:
        query = request.query_params
        at = (query.get(name, "") for name in ("model", "precision"))
        return services.lenses.transform.compare(*at, whole_number(query, "block"), query.get("tensor", ""))["rows"]

    def losses(request: Request) -> pd.DataFrame:
        return services.jobs.losses(request.path_params["job"])

    def predictions(request: Request) -> pd.DataFrame:
        return services.allocation.predictions(request.query_params.get("model", ""))

    return [
        _csv_route("/abq/run/{run}/attention_heads.csv", "attention_heads-{run}", heads_frame),
        _csv_route("/abq/run/{run}/{name}.csv", "{name}-{run}", run_frame),
        _csv_route("/abq/explore/{name}.csv", "{name}", explore_frame),
        _csv_route("/abq/lens/bit-planes.csv", "bit-planes", bit_planes),
        _csv_route("/abq/lens/level-sets.csv", "level-sets", level_sets),
        _csv_route("/abq/lens/transform.csv", "transform", transform),
        _csv_route("/abq/job/{job}/losses.csv", "losses", losses),
        _csv_route("/abq/runs.csv", "runs", lambda request: services.runs.frame()),
        _csv_route("/abq/predictions.csv", "predictions", predictions),
        _csv_route("/abq/throughput.csv", "throughput", lambda request: services.timings.frame(shipped=True)),
    ]


def whole_number(query: Mapping[str, str], name: str) -> int:
    """A whole number of a query, 0 if it is missing. Raises ServiceError."""
    text = query.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > MOST_DIGITS:
        raise ServiceError(f"{name} is {text[:40]!r}: use a whole number of at most {MOST_DIGITS} digits.")
    return int(text)


def _csv_route(url: str, filename: str, read: Callable[[Request], pd.DataFrame]) -> Route:
    """A DataFrame as a CSV attachment.

    filename: without ".csv"; may name parameters of the URL in braces.
    """

    async def csv(request: Request) -> Response:
        try:
            frame = await run_in_threadpool(read, request)
        except ERRORS as error:
            return PlainTextResponse(str(error), 404)
        name = "".join(c for c in filename.format(**request.path_params) if c.isalnum() or c in "-_*")
        headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
        return Response(frame.to_csv(index=False), media_type="text/csv", headers=headers)

    return Route(url, csv)


def _file_routes(services: Services) -> list[Route]:
    """An exported run as a zip archive, and a report of several runs."""

    def archive(request: Request, folder: Path) -> Path:
        check_text_access(services.runs.get(request.path_params["run"]), request)
        exported = services.runs.export(request.path_params["run"], folder)
        _remove_positions(exported / "data.json")
        return Path(shutil.make_archive(str(exported), "zip", folder, exported.name))

    def report(request: Request, folder: Path) -> Path:
        run_ids = [run for run in request.query_params.get("runs", "").split(",") if run]
        return services.reports.write(run_ids, folder / "abq-report.html", lambda run: may_see_text(run, request))

    def export(request: Request, folder: Path) -> Path:
        run, format = request.path_params["run"], request.path_params["format"]
        check_text_access(services.runs.get(run), request)
        return services.exports.archive(run, format, folder)

    return [
        _file_route("/abq/export/{run}/{format}.zip", export),
        _file_route("/abq/run/{run}.zip", archive),
        _file_route("/abq/report.html", report),
    ]


def _remove_positions(path: Path) -> None:
    """Remove from an exported data.json which windows of a text were read, and their hash."""
    if path.is_file():
        records = json.loads(path.read_text("utf-8"))
        kept = {part: public_record(record) for part, record in records.items()}
        path.write_text(to_json_text(kept, sort_keys=True), "utf-8")


def _file_route(url: str, write: Callable[[Request, Path], Path]) -> Route:
    """A route for a file that `write(request, folder)` creates in a temporary folder.

    The folder is deleted after the response.
    """

    async def file(request: Request) -> Response:
        folder = tempfile.TemporaryDirectory(prefix="abq-download-")
        try:
            path = await run_in_threadpool(write, request, Path(folder.name))
        except ERRORS as error:
            folder.cleanup()
            return PlainTextResponse(str(error), 404)
        return FileResponse(path, filename=path.name, background=BackgroundTask(folder.cleanup))

    return Route(url, file)
