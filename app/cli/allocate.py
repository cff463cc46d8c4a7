"""abq allocate: mixed precision under a budget, and parsing the file that it writes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from abq_core.mix import MIX_SUFFIX
from abq_core.user_files import read_user_text, user_path
from app import formatting
from app.cli.options import DataOption, ForceOption, OptionError, SeedOption
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, Table, answers
from app.json_values import to_json_text
from app.notation import parse_list

if TYPE_CHECKING:
    import pandas

    from abq_core.mix import ModelPrecision
    from app.services import Services

_MAX_MIX_BYTES = 16 << 20


@answers
def allocate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="builtin, a model folder or .gguf file, or a Hugging Face id.")
    ],
    bits: Annotated[float | None, typer.Option("--bits", help="Mean stored bits per weight, such as 2.5.")] = None,
    mib: Annotated[
        float | None, typer.Option("--mib", help="Instead of --bits: MiB of the blocks' linears, with scales.")
    ] = None,
    bits_per_parameter: Annotated[
        float | None,
        typer.Option(
            "--bits-per-parameter", help="Instead: of the whole model; chooses bits of embedding and LM head too."
        ),
    ] = None,
    bit_operations: Annotated[
        float | None,
        typer.Option(
            "--bit-operations",
            help="Second budget: mean of stored bits times activation bits. Needed if candidates differ in the latter.",
        ),
    ] = None,
    candidates: Annotated[
        str, typer.Option("--candidates", help="Precisions to choose from, comma-separated.")
    ] = "W2A8,W2*A8,W3A8,W4A8",
    out: Annotated[Path | None, typer.Option("--out", help="Write the mix to this file, for abq calibrate.")] = None,
    force: ForceOption = False,
    data: DataOption = "builtin",
    segments: Annotated[int, typer.Option("--segments", help="Segments of calibration text to measure on.")] = 4,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", help="Tokens per segment. Default: 256, or the context.")
    ] = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> Answer:
    """Choose a precision per linear under a budget.

    Minimizes the predicted KL divergence to full precision within a budget of bits or bytes.

    Examples:

      abq allocate builtin --bits 2.5 --out mix.json

      abq allocate builtin --bits-per-parameter 3.5

      abq allocate builtin --bits 3 --bit-operations 16 --candidates W2A8,W3A8,W4A8,W2A4,W3A4,W4A4

      abq calibrate builtin --precision mix.json --wait
    """
    if sum(budget is not None for budget in (bits, mib, bits_per_parameter)) != 1:
        raise OptionError(
            "Give one budget: --bits (stored bits per weight), --mib (size of the linears) or --bits-per-parameter "
            "(of the whole model)."
        )
    if out is not None and out.suffix != MIX_SUFFIX:
        raise OptionError(f"--out {out}: name a file that ends in {MIX_SUFFIX}; abq calibrate requires it.")
    from app.files import output_path, write_output
    from app.jobs.progress_line import ProgressLine
    from app.services.allocation import SensitivityText

    target = None if out is None else output_path(out, force)
    services = open_services()
    text = SensitivityText(data, segments, seq_len, seed)
    names, size = parse_list(candidates), None if mib is None else _bytes(mib)
    with ProgressLine() as line:

        def on_step(done: int, total: int) -> None:
            line.show("allocate", done / max(total, 1), "Measuring sensitivities: one linear at a time.", None)

        if bits_per_parameter is None:
            chosen = services.allocation.allocate(model, names, bits, size, text, on_step, bit_operations)
        else:
            chosen = services.allocation.allocate_model(model, names, bits_per_parameter, text, on_step, bit_operations)
    whole = services.models.estimate(model, chosen.precision).bits_per_parameter
    content = {"model": model, **chosen.to_dict(), "bits_per_parameter": whole}
    if target is not None:
        write_output(target, to_json_text(content).encode(), force)
    uniform = ", ".join(f"{precision} {formatting.nats(kl)}" for precision, kl in chosen.uniform.items())
    summary = (
        f"{chosen.precision}: {formatting.bits(chosen.stored_bits)} stored bits per weight "
        f"({formatting.bits(chosen.precision.information_bits)} information bits), "
        f"{formatting.size(chosen.stored_bytes)}, {chosen.bit_operations:.3g} bit operations per weight; "
        f"{formatting.bits(whole)} bits per parameter of the whole model.\n"
        f"Predicted KL to full precision: {formatting.nats(chosen.predicted_kl)}; "
        f"with one precision for all linears: {uniform}.\n"
    )
    written = "" if out is None else f"Written to {out}.\n"
    return Answer(content, [_table(chosen.frame()), summary + written])


def read_precision_option(services: "Services", text: str) -> "ModelPrecision":
    """Parse the notation, the name of a stored mix, or a file of `abq allocate`.

    Raises PrecisionError.
    """
    if not text.endswith(MIX_SUFFIX):
        return services.models.precision(text)
    path = user_path(text, OptionError)
    if not path.exists():
        raise OptionError(f"--precision {text}: this file does not exist. `abq allocate --out {text}` writes one.")
    return services.models.precision(read_user_text(path, _MAX_MIX_BYTES, OptionError))


def _bytes(mib: float) -> int:
    if not 0 < mib < float("inf"):
        raise OptionError(f"--mib is {mib}: give a number above 0, such as 1.5.")
    return int(mib * 2**20)


def _table(frame: "pandas.DataFrame") -> Table:
    """Precisions with one row per linear and one column per block."""
    wide = frame.pivot(index="tensor", columns="block", values="precision").reindex(dict.fromkeys(frame["tensor"]))
    rows = [[str(name), *map(str, row)] for name, row in zip(wide.index, wide.fillna("-").values, strict=True)]
    return Table(["Linear", *(f"Block {block}" for block in wide.columns)], rows)
