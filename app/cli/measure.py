"""abq eval and abq generate: evaluate a run or a model, and generate text with it."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import formatting
from app.cli.answers import Answer, JsonOption, Table, answers
from app.cli.calibrate import EVALUATION_HEADER, evaluation_cells
from app.cli.options import DataOption, OptionError, RunOrModel, SeedOption
from app.cli.session import open_services, tell_stored_weights
from app.notation import parse_list
from storage.run_ids import means_run

if TYPE_CHECKING:
    from abq_core.inference.generate import Finished, Token
    from abq_core.inference.prompts import Prompt
    from app.services import Services

    Stream = Callable[[Prompt], Iterator[Token | Finished]]


@answers
def evaluate(
    run_or_model: RunOrModel,
    data: DataOption = "builtin",
    segments: Annotated[int, typer.Option("--segments", min=2, help="Segments of held-out text.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", min=2, help="Tokens per segment.")] = 512,
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

      abq eval r-0123456789 --tasks piqa,arc_easy,my_task.yaml --limit 200
    """
    from app.jobs.progress_line import ProgressLine

    services = open_services()
    if tasks:
        return _tasks(services, run_or_model, parse_list(tasks), limit, engine)
    line = ProgressLine()

    def on_step(step: int, steps: int) -> None:
        line.show("eval", step / max(steps, 1), "Measuring perplexity.", None)

    result = asdict(services.evaluation.evaluate(run_or_model, data, segments, seq_len, on_step))
    line.close()
    tell_stored_weights(services, services.runs.get(run_or_model).model if means_run(run_or_model) else run_or_model)
    if (result["segments"], result["seq_len"]) != (segments, seq_len):
        text = f"The text is short: {result['segments']} segments of {result['seq_len']} tokens were read, all it has."
        typer.echo(text, err=True)
    del result["segment_losses"]  # stored in the database, for paired comparisons of runs
    return Answer(result, Table(EVALUATION_HEADER, [evaluation_cells(result)]))


def _tasks(services: "Services", run_or_model: str, tasks: list[str], limit: int | None, engine: str) -> Answer:
    from app.jobs.progress_line import ProgressLine

    if engine not in ("simulated", "packed"):
        raise OptionError(f"--engine {engine}: use simulated or packed.")
    line = ProgressLine()

    def on_step(task: str, done: int, total: int) -> None:
        line.show(task, done / max(total, 1), f"{done:,} of {total:,} requests.", None)

    scores = services.tasks.evaluate(run_or_model, tasks, limit, engine, on_step)  # type: ignore[arg-type]
    line.close()
    is_run = means_run(run_or_model)
    found = services.runs.frame()
    row = found[found["run"].eq(run_or_model if is_run else "") & (is_run or found["model"].eq(run_or_model))].iloc[0]
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
        return services.generation.generate([column], text, max_new_tokens, temperature, seed, model)

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
    """The text of each token and a line end; speed and size go to stderr. seen: gets every event."""
    from abq_core.inference.generate import Token

    for event in events:
        if seen is not None:
            seen.append(event)
        if isinstance(event, Token):
            yield event.text
        else:
            size, rate = formatting.size(event.weight_bytes), formatting.tokens_per_second(event.tokens_per_second)
            yield "\n"
            typer.echo(f"{event.tokens} tokens, {rate}, weights {size}", err=True)
