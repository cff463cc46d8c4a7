"""abq eval and abq generate: evaluate a run or a model, and generate text with it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from abq_core.spec import EVALUATION_SEGMENTS
from abq_core.text.records import Protocol
from abq_core.text.sources import is_name
from app import formatting
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.options import DataOption, OptionError, RunOrModel, SeedOption
from app.cli.session import open_services, tell_stored_weights
from app.cli.terminal.answers import Answer, JsonOption, Table, answers
from app.notation import parse_list
from storage.run_ids import means_run

if TYPE_CHECKING:
    from abq_core.evaluation.perplexity import Evaluation
    from abq_core.inference.generate import Finished, Token
    from abq_core.inference.prompts import Prompt
    from app.services import Services
    from app.services.evaluation import EvaluationText

    Stream = Callable[[Prompt], Iterator[Token | Finished]]

FEWEST_SEGMENTS = 2  # a standard error needs two
MOST_DIGITS = 18  # of a number of segments


@answers
def evaluate(
    run_or_model: RunOrModel,
    data: DataOption = "builtin",
    protocol: Annotated[
        str, typer.Option("--protocol", help="windows: sampled segments; paper: as GPTQ reads WikiText-2 and C4.")
    ] = "windows",
    segments: Annotated[
        str | None, typer.Option("--segments", help="Number of segments, or all. Default: 32; paper, whole files: all.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", min=2, help="Tokens per segment. Default: 512; paper: 2048.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Read only the last tenth of a file, as for runs calibrated on it.")
    ] = False,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", help="Run zero-shot tasks instead: piqa, arc_easy, ... or .yaml files, comma-separated."
        ),
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions per task. Default: all.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="For --tasks of a run: simulated or packed.")] = "simulated",
    as_json: JsonOption = False,
) -> Answer:
    """Measure perplexity and KL to full precision, or zero-shot task scores.

    Examples:

      abq eval r-0123456789 --data wikitext2 --json

      abq eval r-0123456789 --data wikitext2 --protocol paper

      abq eval builtin --data notes.txt --segments all

      abq eval r-0123456789 --tasks piqa,arc_easy,my_task.yaml --limit 200
    """
    from app.jobs.progress_line import ProgressLine
    from app.services.evaluation import EvaluationText

    services = open_services()
    text = EvaluationText(data, _segments(segments, protocol), seq_len, _protocol(protocol), held_out)
    if tasks and text != EvaluationText():
        raise OptionError(
            "--tasks bring their own text: leave --data, --protocol, --segments, --seq-len, --held-out out."
        )
    if not tasks and (limit is not None or engine != "simulated"):
        raise OptionError("--limit and --engine belong to --tasks.")
    if tasks:
        return _tasks(services, run_or_model, parse_list(tasks), limit, engine)
    with ProgressLine() as line:

        def on_step(step: int, steps: int) -> None:
            line.show("eval", step / max(steps, 1), "Measuring perplexity.", None)

        evaluation = services.evaluation.evaluate(run_or_model, text, on_step)
    tell_stored_weights(services, services.runs.get(run_or_model).model if means_run(run_or_model) else run_or_model)
    for note in _notes(evaluation, text):
        typer.echo(note, err=True)
    result = asdict(evaluation)
    buckets = [formatting.bucket_cells(row) for row in result["kl_buckets"]]
    pieces: list[str | Table] = [
        Table(EVALUATION_HEADER, [evaluation_cells(result)]),
        *([Table(formatting.BUCKET_HEADER, buckets)] if buckets else []),
        f"Read {formatting.text(evaluation.text)}.\n",
    ]
    return Answer(result, pieces)


def _protocol(name: str) -> Protocol:
    if name not in get_args(Protocol):
        raise OptionError(f"--protocol {name}: use windows or paper.")
    return cast("Protocol", name)


def _segments(text: str | None, protocol: str) -> int | Literal["all"] | None:
    if text is None or text == "all":
        return cast('Literal["all"] | None', text)
    if protocol == "paper":
        raise OptionError(f"--segments {text}: the paper's protocol reads every window. Leave --segments out.")
    if not text.isdecimal() or len(text) > MOST_DIGITS or int(text) < FEWEST_SEGMENTS:
        raise OptionError(f"--segments {text[:20]}: use a number from {FEWEST_SEGMENTS} on, or all.")
    return int(text)


def _notes(evaluation: "Evaluation", text: "EvaluationText") -> Iterator[str]:
    """What the reader should know about the text: its part of a file, and whether it was shorter than requested."""
    record = evaluation.text
    if not is_name(text.data):
        reason = "" if text.held_out else ", because the run was calibrated on it"
        part = "the whole file" if record.split == "whole" else f"only the last tenth of the file{reason}"
        every = (len(record.windows) + 1) * (record.seq_len - record.prefix_tokens) > record.tokens
        yield f"Read {part}." if every else f"Read {evaluation.segments} segments of {part}."
    by_default = record.protocol == "windows" and record.split == "evaluation"
    segments = EVALUATION_SEGMENTS if text.segments is None and by_default else text.segments
    shorter = text.seq_len is not None and evaluation.seq_len < text.seq_len
    if shorter or (isinstance(segments, int) and evaluation.segments < segments):
        yield f"The text is short: {evaluation.segments} segments of {evaluation.seq_len} tokens were read, all it has."


def _tasks(services: "Services", run_or_model: str, tasks: list[str], limit: int | None, engine: str) -> Answer:
    from app.jobs.progress_line import ProgressLine

    if engine not in ("simulated", "packed"):
        raise OptionError(f"--engine {engine}: use simulated or packed.")
    is_run = means_run(run_or_model)
    if not is_run and engine != "simulated":
        raise OptionError(f"--engine {engine} is for runs; a model is evaluated in full precision.")
    subject = run_or_model if is_run else services.registry.stored_model(run_or_model)
    with ProgressLine() as line:

        def on_step(task: str, done: int, total: int) -> None:
            line.show(task, done / max(total, 1), f"{done:,} of {total:,} requests.", None)

        scores = services.tasks.evaluate(subject, tasks, limit, engine, on_step)  # type: ignore[arg-type]
    found = services.runs.frame()
    row = found[found["run"].eq(subject if is_run else "") & (is_run or found["model"].eq(subject))].iloc[0]
    data = {
        "run" if is_run else "model": run_or_model,
        **{name: row[name] for name in ("precision", "method", "task_score", "task_stderr")},
        "engine": engine if is_run else "full",
        "tasks": [asdict(score) for score in scores],
    }
    average = f"Mean accuracy over all tasks that were run: {formatting.task_average(row)}\n"
    return Answer(
        data, [Table(formatting.TASK_HEADER, [formatting.task_cells(asdict(score)) for score in scores]), average]
    )


@answers
def generate(
    run_or_model: RunOrModel,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text to continue.")] = None,
    chat: Annotated[
        str | None,
        typer.Option(
            "--chat",
            help="Message to answer, with the model's chat template. - reads messages from stdin, one per line.",
        ),
    ] = None,
    system: Annotated[str, typer.Option("--system", help="System prompt of --chat. Default: the template's.")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens to generate.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0: always the most likely token.")
    ] = 0.0,
    seed: SeedOption = 0,
    measured: Annotated[
        bool,
        typer.Option("--kl", help="Also measure each token's KL divergence from full precision, which takes longer."),
    ] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Generate text with a run (on the integer engine) or a model: continue a text, or chat.

    Examples:

      abq generate builtin --prompt 'def main('

      abq generate org/name --chat 'What is the capital of France?' --system 'Be brief.'

      abq generate r-0123456789 --chat -      # a conversation: one message per line, until Ctrl-D
    """
    if (prompt is None) == (chat is None):
        raise OptionError("Use either --prompt, a text to continue, or --chat, a message to answer.")
    if system and chat is None:
        raise OptionError("--system belongs to --chat.")
    services = open_services()
    is_run = means_run(run_or_model)
    column = run_or_model if is_run else "full"
    model = services.runs.get(run_or_model).model if is_run else run_or_model
    tell_stored_weights(services, model)

    def stream(text: "Prompt") -> "Iterator[Token | Finished]":
        return services.generation.generate([column], text, max_new_tokens, temperature, seed, model, measured=measured)

    subject = {"run" if is_run else "model": run_or_model}
    if chat is None:
        assert prompt is not None
        return _continued(subject, prompt, stream, as_json)
    return _chat(subject, chat, system, stream, as_json)


def _continued(subject: dict[str, str], prompt: str, stream: "Stream", as_json: bool) -> Answer:
    events = stream(prompt)
    if as_json:
        return Answer({**subject, "mode": "continuation", "prompt": prompt, **_generated(list(events))}, "")

    def pieces() -> Iterator[str]:
        yield prompt
        yield from _pieces(events)

    return Answer(None, pieces())


def _chat(subject: dict[str, str], chat: str, system: str, stream: "Stream", as_json: bool) -> Answer:
    """Answer one message, or each line of stdin; later answers read the earlier turns."""
    messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    tokens: list[Token | Finished] = []  # of the newest answer

    def pieces() -> Iterator[str]:
        for message in _lines() if chat == "-" else [chat]:
            messages.append({"role": "user", "content": message})
            tokens.clear()
            text = ""
            for piece in _pieces(stream(messages), tokens):
                text += piece
                yield piece
            messages.append({"role": "assistant", "content": text.removesuffix("\n")})

    if not as_json:
        return Answer(None, pieces())
    for _ in pieces():
        pass
    if not tokens:
        raise OptionError("--chat - found no message on stdin: write one per line.")
    return Answer({**subject, "mode": "chat", "messages": messages, **_generated(tokens)}, "")


def _lines() -> Iterator[str]:
    """The lines of stdin that have text. A terminal shows a prompt before each."""
    while True:
        if sys.stdin.isatty():
            typer.echo("> ", err=True, nl=False)
        if not (line := sys.stdin.readline()):
            return
        if line.strip():
            yield line.strip()


def _generated(events: "Sequence[Token | Finished]") -> dict[str, Any]:
    """The fields of one generated text in --json."""
    from abq_core.inference.generate import Token

    tokens = [event for event in events if isinstance(event, Token)]
    finished = next(event for event in events if not isinstance(event, Token))
    return {
        "text": "".join(token.text for token in tokens),
        "complete": finished.complete,
        "tokens": [{"id": t.id, "text": t.text, "kl": t.kl} for t in tokens],
        "tokens_per_second": finished.tokens_per_second,
        "first_token_seconds": finished.first_token_seconds,
        "weight_bytes": finished.weight_bytes,
    }


def _pieces(events: "Iterable[Token | Finished]", seen: "list[Token | Finished] | None" = None) -> Iterator[str]:
    """The text of each token and a line end; speed, size and the mean KL go to stderr. seen: gets every event."""
    from abq_core.inference.generate import Token

    kls: list[float] = []
    for event in events:
        if seen is not None:
            seen.append(event)
        if isinstance(event, Token):
            yield event.text
            if event.kl is not None:
                kls.append(event.kl)
        else:
            size, rate = formatting.size(event.weight_bytes), formatting.tokens_per_second(event.tokens_per_second)
            mean = f", mean KL to full precision {formatting.nats(fmean(kls))}" if kls else ""
            yield "\n"
            typer.echo(f"{event.tokens} tokens, {rate}, weights {size}{mean}", err=True)
