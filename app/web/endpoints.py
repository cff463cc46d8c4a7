"""What a program may call (gradio_client): one named endpoint for each useful service, plain values in and out."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import wraps
from typing import Any

import gradio as gr
import pandas as pd

from abq_core.spec import CalibrationSpec
from app.services import Explorer
from app.services.versioned_cache import Shared
from app.web.limits import Limits
from app.web.tabs.guard import EXPECTED
from app.web.tabs.measurements import read_shapes


def build_endpoints(explorer: Explorer, limits: Limits) -> None:
    """Publish the endpoints of this explorer; call it inside the page's Blocks."""
    job_rows = Shared(lambda: _rows(explorer.jobs_frame()), explorer.moment)
    run_rows = Shared(lambda: _rows(explorer.runs_frame()), explorer.moment)

    def models() -> list[str]:
        """The models that the page offers."""
        return explorer.models()

    def explore(model: str, precision: str) -> list[dict[str, Any]]:
        """Signal-to-noise ratio of every linear at a precision, rounded to nearest."""
        return _rows(explorer.explore(model, precision)["linears"])

    def allocate(model: str, bits: float, candidates: list[str]) -> dict[str, Any]:
        """Choose a precision for every linear within so many stored bits a weight. The answer as JSON text is a
        precision for submit.
        """
        return explorer.allocate(model, candidates, bits).to_dict()

    def submit(
        model: str, precision: str, method: str, data: str, segments: int, seq_len: int, epochs: int, seed: int
    ) -> dict[str, Any]:
        """Queue a calibration; epochs below 0: the method's own. Returns run and job."""
        spec = CalibrationSpec(
            model, explorer.precision(precision), method, data=data, segments=segments, seq_len=seq_len,
            epochs=None if epochs < 0 else epochs, seed=seed, device=explorer.settings.device,
        )  # fmt: skip
        limits.check_queue(explorer)
        job = explorer.submit(spec)
        return {"run": job.run_id, "job": str(job.id), "state": job.state}

    def jobs() -> list[dict[str, Any]]:
        """The newest 100 jobs, newest first."""
        return job_rows.read()

    def job(job: str) -> dict[str, Any]:
        """One job by job id or run id, with its log."""
        found = explorer.job(job)
        return json.loads(json.dumps(asdict(found), default=str)) | {"log": explorer.logs(job)}

    def cancel(job: str) -> str:
        """Ask a job to stop. Returns its state."""
        return explorer.cancel(job).state

    def resume(job: str) -> str:
        """Queue a failed or cancelled job again. Returns its state."""
        return explorer.resume(job).state

    def runs() -> list[dict[str, Any]]:
        """All runs with their latest evaluation, and each model at full precision."""
        return run_rows.read()

    def diagnostics(run: str, name: str) -> list[dict[str, Any]]:
        """One diagnostics frame of a run: blocks, linears, levels, outliers, balance, clipping ..."""
        return _rows(explorer.diagnostics(run, name))

    def evaluate(run_or_model: str, data: str, segments: int, seq_len: int) -> dict[str, Any]:
        """Perplexity and distance to full precision."""
        return asdict(explorer.evaluate(run_or_model, data, segments, seq_len))

    def generate(
        columns: list[str],
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        model: str,
        request: gr.Request,
    ) -> Iterator[dict[str, str]]:
        """Stream the text of each column: "full", run ids or precisions. Each answer has all text so far."""
        texts = dict.fromkeys(columns, "")
        try:
            limits.check_text(request, columns, prompt, max_new_tokens)
            for event in explorer.generate(columns, prompt, max_new_tokens, temperature, seed, model):
                if hasattr(event, "text"):
                    texts[event.column] += event.text
                    yield dict(texts)
        except EXPECTED as error:
            raise gr.Error(str(error), print_exception=False) from error

    def throughput() -> list[dict[str, Any]]:
        """Stored throughput measurements, newest first."""
        return _rows(explorer.throughput_frame())

    def bench(precisions: list[str], shapes: list[str], m: list[int], threads: int) -> list[dict[str, Any]]:
        """Time kernels; shapes as "4096x4096". Stores and returns the measurements."""
        measured = explorer.bench_kernels(precisions, read_shapes(shapes), m, threads)
        return _rows(pd.DataFrame([asdict(measurement) for measurement in measured]))

    def note(run: str, text: str) -> str:
        """Keep a note with a run."""
        explorer.set_note(run, text)
        return run

    def delete(run: str) -> str:
        """Delete a run and its files."""
        explorer.delete_run(run)
        return run

    simple = [models, explore, submit, jobs, job, cancel, resume, runs, diagnostics, throughput, note, delete]
    for function in simple:
        gr.api(_answering(function), api_name=function.__name__)
    for function in (allocate, evaluate, bench):
        gr.api(_answering(function), api_name=function.__name__, concurrency_limit=1, concurrency_id="model")
    gr.api(generate, api_name="generate", concurrency_limit=1, concurrency_id="model")


def _answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """Expected errors reach the caller as their sentence."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EXPECTED as error:
            raise gr.Error(str(error), print_exception=False) from error

    return call


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame as JSON-ready rows, NaN as null. gradio_client takes a key "path" for a file, so it gets another name."""
    named = frame.rename(columns={"path": "kernel_path"})
    rows: list[dict[str, Any]] = json.loads(named.to_json(orient="records", date_format="iso"))
    return rows
