"""Downloads of the page: CSV data of the figures, reports, exported runs, plotly.

A request names a run or job id and one of a fixed set of names, never a path.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from app.services import Services

ASSETS = Path(__file__).parent / "assets"
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
EXPLORE_FRAMES = frozenset({"histograms", "levels", "linears", "outliers"})
CACHE_ONE_DAY = {"Cache-Control": "max-age=86400"}


def download_routes(services: Services) -> list[Route]:
    """The routes under /abq/."""

    async def plotly_library(request: Request) -> Response:
        return FileResponse(PLOTLY, media_type="text/javascript", headers=CACHE_ONE_DAY)

    async def page_script(request: Request) -> Response:
        return FileResponse(ASSETS / "page.js", media_type="text/javascript", headers={"Cache-Control": "no-cache"})

    async def run_frame(request: Request) -> Response:
        run, name = request.path_params["run"], request.path_params["name"]
        return await _csv(lambda: services.runs.diagnostics(run, name), f"{name}-{run}")

    async def explored(request: Request) -> Response:
        name, model = request.path_params["name"], request.query_params.get("model", "")
        precision = request.query_params.get("precision", "")
        if name not in EXPLORE_FRAMES:
            return PlainTextResponse("There is no table of this name.", 404)
        return await _csv(lambda: services.models.explore(model, precision)[name], name)

    async def losses(request: Request) -> Response:
        job = request.path_params["job"]
        return await _csv(lambda: services.jobs.losses(job), "losses")

    async def runs(request: Request) -> Response:
        return await _csv(services.runs.frame, "runs")

    async def predictions(request: Request) -> Response:
        model = request.query_params.get("model", "")
        return await _csv(lambda: services.allocation.predictions(model), "predictions")

    async def throughput(request: Request) -> Response:
        return await _csv(lambda: services.timings.frame(shipped=True), "throughput")

    async def run_archive(request: Request) -> Response:
        run = request.path_params["run"]
        folder = tempfile.TemporaryDirectory(prefix="abq-export-")
        try:
            exported = await run_in_threadpool(services.runs.export, run, Path(folder.name))
            path = await run_in_threadpool(shutil.make_archive, str(exported), "zip", folder.name, exported.name)
        except (ValueError, RuntimeError, OSError) as error:
            folder.cleanup()
            return PlainTextResponse(str(error), 404)
        return FileResponse(path, filename=Path(path).name, background=BackgroundTask(folder.cleanup))

    async def report(request: Request) -> Response:
        run_ids = [run for run in request.query_params.get("runs", "").split(",") if run]
        folder = tempfile.TemporaryDirectory(prefix="abq-report-")
        try:
            path = await run_in_threadpool(services.reports.write, run_ids, Path(folder.name) / "report.html")
        except (ValueError, RuntimeError, OSError) as error:
            folder.cleanup()
            return PlainTextResponse(str(error), 404)
        return FileResponse(path, filename="abq-report.html", background=BackgroundTask(folder.cleanup))

    return [
        Route("/abq/plotly.min.js", plotly_library),
        Route("/abq/page.js", page_script),
        Route("/abq/run/{run}/{name}.csv", run_frame),
        Route("/abq/run/{run}.zip", run_archive),
        Route("/abq/explore/{name}.csv", explored),
        Route("/abq/job/{job}/losses.csv", losses),
        Route("/abq/runs.csv", runs),
        Route("/abq/predictions.csv", predictions),
        Route("/abq/throughput.csv", throughput),
        Route("/abq/report.html", report),
    ]


async def _csv(read: Callable[[], pd.DataFrame], name: str) -> Response:
    """A DataFrame as a CSV attachment, or 404 with the error message if it cannot be read."""
    try:
        frame = await run_in_threadpool(read)
    except (ValueError, RuntimeError, OSError) as error:
        return PlainTextResponse(str(error), 404)
    safe_name = "".join(c for c in name if c.isalnum() or c in "-_*")
    headers = {"Content-Disposition": f'attachment; filename="{safe_name}.csv"'}
    return Response(frame.to_csv(index=False), media_type="text/csv", headers=headers)
