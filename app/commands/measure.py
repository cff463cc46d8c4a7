"""abq eval, abq generate and abq bench: what a run or a model does, and how fast."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import words
from app.commands.answers import Answer, JsonOption, Table, answers
from app.commands.calibrate import EVALUATION_HEADER, evaluation_cells
from app.commands.options import DataOption, OptionError, RunOrModel, SeedOption, read_counts, read_list, read_shapes
from app.commands.session import open_explorer

if TYPE_CHECKING:
    from abq_core.generate import Finished, Token
    from app.services import Explorer

bench = typer.Typer(no_args_is_help=True, help="Time the integer engine against torch: kernels, decode.")


@answers
def evaluate(
    run_or_model: RunOrModel,
    data: DataOption = "builtin",
    segments: Annotated[int, typer.Option("--segments", min=2, help="Pieces of text to read.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", min=2, help="Tokens in each.")] = 512,
    tasks: Annotated[
        str, typer.Option("--tasks", help="Ask these instead: piqa, arc_easy, ... or .yaml files, with commas between.")
    ] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions of each task; default: all.")] = None,
    engine: Annotated[str, typer.Option("--engine", help="With --tasks, of a run: simulated or packed.")] = "simulated",
    as_json: JsonOption = False,
) -> Answer:
    """Measure perplexity and the distance to full precision, or what zero-shot tasks give.

    Examples:

      abq eval r-0123456789 --data wikitext2 --json

      abq eval r-0123456789 --tasks piqa,arc_easy,my_task.yaml --limit 200
    """
    from app.follow import ProgressLine

    explorer = open_explorer()
    if tasks:
        return _tasks(explorer, run_or_model, read_list(tasks), limit, engine)
    line = ProgressLine()

    def on_step(step: int, steps: int) -> None:
        line.show("eval", step / max(steps, 1), "Measuring perplexity.", None)

    result = asdict(explorer.evaluate(run_or_model, data, segments, seq_len, on_step))
    line.close()
    del result["segment_losses"]  # kept in the database, for comparing runs segment by segment
    return Answer(result, Table(EVALUATION_HEADER, [evaluation_cells(result)]))


def _tasks(explorer: "Explorer", run_or_model: str, tasks: list[str], limit: int | None, engine: str) -> Answer:
    from app.follow import ProgressLine

    if engine not in ("simulated", "packed"):
        raise OptionError(f"--engine {engine}: use simulated or packed.")
    line = ProgressLine()

    def on_step(task: str, done: int, total: int) -> None:
        line.show(task, done / max(total, 1), f"{done:,} of {total:,} requests.", None)

    scores = explorer.evaluate_tasks(run_or_model, tasks, limit, engine, on_step)  # type: ignore[arg-type]
    line.close()
    is_run = run_or_model.startswith("r-")
    found = explorer.runs_frame()
    row = found[found["run"].eq(run_or_model if is_run else "") & (is_run or found["model"].eq(run_or_model))].iloc[0]
    data = {
        "run" if is_run else "model": run_or_model,
        **{name: row[name] for name in ("precision", "method", "task_score", "task_stderr")},
        "engine": engine if is_run else "full",
        "tasks": [asdict(score) for score in scores],
    }
    average = f"Mean accuracy of all tasks asked so far: {words.task_average(row)}\n"
    return Answer(data, [Table(words.TASK_HEADER, [words.task_cells(asdict(score)) for score in scores]), average])


@answers
def generate(
    run_or_model: RunOrModel,
    prompt: Annotated[str, typer.Option("--prompt", help="The text to go on from.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Tokens to write.")] = 64,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")] = 0.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> Answer:
    """Write text with a run (on the integer engine) or a model. Example: abq generate builtin --prompt 'def main('"""
    explorer = open_explorer()
    is_run = run_or_model.startswith("r-")
    column = run_or_model if is_run else "full"
    model = explorer.run(run_or_model).model if is_run else run_or_model
    stream = explorer.generate([column], prompt, max_new_tokens, temperature, seed, model)
    if not as_json:
        return Answer(None, _as_it_comes(prompt, stream))
    from abq_core.generate import Token

    events = list(stream)
    tokens = [event for event in events if isinstance(event, Token)]
    finished = next(event for event in events if not isinstance(event, Token))
    values: dict[str, Any] = {
        "run" if is_run else "model": run_or_model,
        "prompt": prompt,
        "text": "".join(token.text for token in tokens),
        "tokens": [{"id": t.id, "text": t.text, "kl": t.kl} for t in tokens],
        "tokens_per_second": finished.tokens_per_second,
        "first_token_seconds": finished.first_token_seconds,
        "weight_bytes": finished.weight_bytes,
    }
    return Answer(values, "")


def _as_it_comes(prompt: str, stream: "Iterator[Token | Finished]") -> Iterator[str]:
    from abq_core.generate import Token

    yield prompt
    for event in stream:
        if isinstance(event, Token):
            yield event.text
        else:
            size, rate = words.mebibytes(event.weight_bytes), event.tokens_per_second
            yield "\n"
            typer.echo(f"{event.tokens} tokens, {rate:.3g} tokens/s, weights {size}", err=True)


@bench.command()
@answers
def kernels(
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    precisions: Annotated[str, typer.Option("--precisions", help="With commas between.")] = "W2A8,W2*A8,W4A4,W4A8,W8A8",
    shapes: Annotated[
        str, typer.Option("--shapes", help="Outputs x inputs, with commas between.")
    ] = "4096x4096,11008x4096",
    m: Annotated[str, typer.Option("--m", help="Rows of the input (batch), with commas between.")] = "1,8",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: ABQ_THREADS, or all cores.")] = None,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile the CUDA kernels, with or without a GPU, and list them.")
    ] = False,
    arch: Annotated[
        str, typer.Option("--arch", help="With --compile-only: architectures, with commas between.")
    ] = "80,86,89,90a",
    as_json: JsonOption = False,
) -> Answer:
    """Time one linear layer, activation quantization included, every result checked first.

    Example: abq bench kernels --precisions W2A8,W4A4 --shapes 4096x4096 --m 1 --threads 1 --json
    """
    if compile_only:
        return _compiled(read_list(arch))
    if device != "cpu":
        raise OptionError(f"--device {device}: kernels run on the CPU in this version. Use --device cpu.")
    explorer = open_explorer()
    measured = explorer.bench_kernels(read_list(precisions), read_shapes(shapes), read_counts("--m", m), threads)
    rows = [
        [
            k.precision,
            f"{k.n}x{k.k}",
            str(k.m),
            k.engine,
            k.path,
            f"{k.median_us:.1f} µs ± {k.iqr_us:.1f}",
            "yes" if k.exact else "NO",
            ", ".join(f"{factor:.2f}x {peer}" for peer, factor in k.speedup.items()),
            words.mebibytes(k.packed_bytes),
        ]
        for k in measured
    ]
    header = ["Precision", "Shape", "M", "Engine", "Path", "Median and IQR", "Exact", "Speed-up over", "Weights"]
    return Answer({"measurements": [asdict(k) for k in measured]}, Table(header, rows))


def _compiled(archs: list[str]) -> Answer:
    from kernels.cuda.compile import compile_report

    found = list(compile_report(archs))
    header = ["Kernel", "Architecture", "Registers", "Spill bytes", "Shared bytes"]
    rows = [[k.kernel, f"sm_{k.arch}", str(k.registers), str(k.spill_bytes), str(k.shared_bytes)] for k in found]
    return Answer([asdict(k) for k in found], Table(header, rows))


@bench.command()
@answers
def decode(
    columns: Annotated[
        str, typer.Option("--columns", help="fp32, bf16, int8 (torch), precisions and run ids, with commas between.")
    ] = "fp32,bf16,int8,W8A8,W4A4,W2A8",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to write.")] = 64,
    model: Annotated[str, typer.Option("--model", help="builtin, a folder or a hub id.")] = "builtin",
    as_json: JsonOption = False,
) -> Answer:
    """Time text generation end to end. Example: abq bench decode --columns fp32,int8,W2A8 --tokens 32 --json"""
    explorer = open_explorer()
    records = explorer.bench_decode(read_list(columns), tokens, model).to_dict("records")
    rows = [
        [
            row["column"],
            row["path"],
            f"{row['tokens_per_second']:.3g} tokens/s",
            words.seconds(row["first_token_seconds"]),
            words.mebibytes(row["weight_bytes"]),
        ]
        for row in records
    ]
    header = ["Column", "Path", "Decode", "First token", "Weights"]
    return Answer({"measurements": records}, Table(header, rows))
