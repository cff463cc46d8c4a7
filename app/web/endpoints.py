"""The page's API for `gradio_client`: one endpoint per service, JSON in and out."""

import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import wraps
from typing import Any

import gradio as gr
import pandas as pd

from abq_core.spec import CalibrationSpec
from app.notation import parse_shapes
from app.services import Services
from app.services.evaluation import EvaluationText
from app.services.versioned_cache import VersionedCache
from app.web.access.login import account_of
from app.web.access.private_texts import check_text_access, public_record
from app.web.access.request_bodies import Arguments
from app.web.failures import message_of
from app.web.limits import Limits

Endpoint = Callable[..., Any]


def build_endpoints(services: Services, limits: Limits) -> dict[str, Arguments]:
    """Register the endpoints and return the arguments of each, by name.

    Call this inside the page's `gr.Blocks`.
    """
    functions = [
        *_model_endpoints(services),
        *_job_endpoints(services, limits),
        *_run_endpoints(services),
        *_generate_endpoint(services, limits),
        *_throughput_endpoints(services),
    ]
    return {function.__name__: Arguments(function) for function in functions}


def _model_endpoints(services: Services) -> list[Endpoint]:
    def models() -> list[str]:
        """List the models that the page offers."""
        return services.models.names()

    def explore(model: str, precision: str) -> list[dict[str, Any]]:
        """Signal-to-noise ratio of every linear layer, rounded to nearest at this precision."""
        return _rows(services.models.explore(model, precision)["linears"])

    def allocate(model: str, bits: float, candidates: list[str], bit_operations: float = 0.0) -> dict[str, Any]:
        """Choose a precision per linear layer under a budget of mean stored bits per weight.

        bit_operations: maximum of the mean of stored bits times activation bits, 0 for no limit. The result as JSON
        text is a valid `precision` of `submit`.
        """
        return services.allocation.allocate(model, candidates, bits, bit_operations=bit_operations or None).to_dict()

    return [_publish(models), _publish(explore), _publish(allocate, uses_model=True)]


def _job_endpoints(services: Services, limits: Limits) -> list[Endpoint]:
    rows = VersionedCache(lambda: _rows(services.jobs.frame()), services.storage.version)

    def submit(  # noqa: PLR0913 (the parameters are those of the API)
        model: str,
        precision: str,
        method: str,
        data: str,
        segments: int,
        seq_len: int,
        epochs: int,
        seed: int,
        request: gr.Request,
    ) -> dict[str, Any]:
        """Queue a calibration and return its run, job and state.

        Negative `epochs`: the method's default.
        """
        spec = CalibrationSpec(
            model, services.models.precision(precision), method, data=data, segments=segments, seq_len=seq_len,
            epochs=None if epochs < 0 else epochs, seed=seed, device=services.settings.device,
        )  # fmt: skip
        job = services.jobs.submit(spec, account_of(request), limits.max_queued)
        return {"run": job.run_id, "job": str(job.id), "state": job.state}

    def jobs() -> list[dict[str, Any]]:
        """List the newest 100 jobs, newest first."""
        return rows.read()

    def job(job: str) -> dict[str, Any]:
        """Return one job with its log. job: job id or run id."""
        found = services.jobs.get(job)
        return json.loads(json.dumps(asdict(found), default=str)) | {"log": services.jobs.log(job)}

    def cancel(job: str) -> str:
        """Request cancellation of a job and return its state."""
        return services.jobs.cancel(job).state

    def resume(job: str) -> str:
        """Queue a failed or cancelled job again and return its state."""
        return services.jobs.resume(job, limits.max_queued).state

    return [_publish(function) for function in (submit, jobs, job, cancel, resume)]


def _run_endpoints(services: Services) -> list[Endpoint]:
    rows = VersionedCache(lambda: _rows(services.runs.frame()), services.storage.version)

    def runs() -> list[dict[str, Any]]:
        """List all runs with their latest evaluation, and each evaluated model at full precision."""
        return rows.read()

    def diagnostics(run: str, name: str, request: gr.Request) -> list[dict[str, Any]]:
        """Return one diagnostics table of a run.

        For example blocks, linears, levels, outliers, balance or clipping.
        """
        check_text_access(services.runs.get(run), request)
        return _rows(services.runs.diagnostics(run, name))

    def note(run: str, text: str) -> str:
        """Set the note of a run and return its id."""
        services.runs.set_note(run, text)
        return run

    def delete(run: str) -> str:
        """Delete a run and its files, and return its id."""
        services.runs.delete(run)
        return run

    def evaluate(run_or_model: str, data: str, segments: int, seq_len: int, request: gr.Request) -> dict[str, Any]:
        """Measure perplexity, and the distance from full precision (KL divergence and others)."""
        text = EvaluationText(data, segments, seq_len)
        result = asdict(services.evaluation.evaluate(run_or_model, text, account=account_of(request)))
        del result["segment_losses"]
        return {**result, "text": public_record(result["text"])}

    shared = [_publish(function) for function in (runs, diagnostics, note, delete)]
    return [*shared, _publish(evaluate, uses_model=True)]


def _generate_endpoint(services: Services, limits: Limits) -> list[Endpoint]:
    def generate(
        columns: list[str],
        prompt: str,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        model: str,
        request: gr.Request,
    ) -> Iterator[dict[str, str]]:
        """Stream the text of each column; each item holds all text so far.

        A column is "full", a run id or a precision.
        """
        texts = dict.fromkeys(columns, "")
        limits.check_text(request, columns, prompt, max_new_tokens)
        for event in services.generation.generate(columns, prompt, max_new_tokens, temperature, seed, model):
            if hasattr(event, "text"):
                texts[event.column] += event.text
                yield dict(texts)

    return [_publish(generate, uses_model=True)]


def _throughput_endpoints(services: Services) -> list[Endpoint]:
    def throughput() -> list[dict[str, Any]]:
        """List stored throughput measurements, newest first."""
        return _rows(services.timings.frame())

    def bench(precisions: list[str], shapes: list[str], m: list[int], threads: int) -> list[dict[str, Any]]:
        """Time kernels, and store and return the measurements.

        shapes: outputs x inputs, such as "4096x4096".
        """
        measured = services.throughput.time_kernels(precisions, parse_shapes(shapes), m, threads)
        return _rows(pd.DataFrame([asdict(measurement) for measurement in measured]))

    return [_publish(throughput), _publish(bench, uses_model=True)]


def _publish(function: Endpoint, uses_model: bool = False) -> Endpoint:
    """Register an endpoint under the function's name.

    Of those with `uses_model` one runs at a time.
    """
    queue: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"} if uses_model else {}
    gr.api(_with_error_messages(function), api_name=function.__name__, **queue)
    return function


def _with_error_messages(function: Callable[..., Any]) -> Callable[..., Any]:
    """Send errors to the client as a sentence, without a traceback."""

    def shown(error: BaseException) -> gr.Error:
        return gr.Error(message_of(error, function), print_exception=False)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # a panic of a library is no Exception, and would leave no answer
            raise shown(error) from error

    @wraps(function)
    def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from function(*args, **kwargs)
        except BaseException as error:  # a panic of a library is no Exception, and would leave no answer
            raise shown(error) from error

    return stream if inspect.isgeneratorfunction(function) else call


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A DataFrame as JSON rows, with null for NaN.

    `gradio_client` takes a dict with the key "path" for a file, so that column is renamed.
    """
    named = frame.rename(columns={"path": "kernel_path"})
    rows: list[dict[str, Any]] = json.loads(named.to_json(orient="records", date_format="iso"))
    return rows
