"""abq kv: what a smaller KV cache costs."""

from typing import Annotated

import typer

from app import formatting
from app.cli.options import RunOrModel
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, Table, answers


@answers
def kv(
    run_or_model: RunOrModel,
    tokens: Annotated[
        int, typer.Option("--tokens", help="Tokens per text, 64 to 2048; at most the model's context.")
    ] = 512,
    as_json: JsonOption = False,
) -> Answer:
    """Measure perplexity and KL against the size of the KV cache: bits of K and V, and tokens that it holds.

    Examples:

      abq kv builtin

      abq kv r-0123456789 --tokens 1024 --json
    """
    from app.jobs.progress_line import ProgressLine

    service = open_services().lenses.kv_cache
    with ProgressLine() as line:

        def on_step(done: int, total: int) -> None:
            line.show("kv", done / total, "Simulating caches.", None)

        found = service.measure(service.subject(run_or_model, tokens), on_step).to_dict("records")
    rows = [
        [
            str(row["bits"]),
            row["kept"],
            str(row["tokens"]),
            formatting.size(row["bytes"]),
            formatting.nats(row["kl_mean"]),
            formatting.perplexity(row["perplexity"], row["perplexity_stderr"]),
            formatting.percent(row["same_top"]),
        ]
        for row in found
    ]
    header = ["Bits", "Keeps", "Tokens", "Cache", "KL", "Perplexity", "Same top"]
    return Answer({"subject": run_or_model, "sizes": found}, Table(header, rows))
