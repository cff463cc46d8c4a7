"""abq bench: time the engine on this machine; export and import timings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app import formatting
from app.cli.options import ForceOption, OptionError
from app.cli.session import open_services
from app.cli.terminal.answers import Answer, JsonOption, Table, answers
from app.notation import parse_list, parse_shapes, parse_token_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kernels.measurement import KernelMeasurement

bench = typer.Typer(no_args_is_help=True, help="Benchmarks: kernels, decode; export and import of timings.")

_CASES = ("W2A8,W2*A8,W4A4,W4A8,W8A8", "4096x4096,11008x4096", "1,8")  # precisions, shapes, tokens
_ARCHS = "80,86,89,90a"
_DECODE_COLUMNS = {"cpu": "fp32,bf16,int8,W8A8,W4A4,W2A8", "cuda": "fp16,int8,W8A8,W4A4,W2A8"}


@bench.command()
@answers
def kernels(
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    precisions: Annotated[str, typer.Option("--precisions", help="Comma-separated.")] = _CASES[0],
    shapes: Annotated[str, typer.Option("--shapes", help="Outputs x inputs, comma-separated.")] = _CASES[1],
    m: Annotated[str, typer.Option("--m", help="Tokens (rows of the input), comma-separated.")] = _CASES[2],
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Default: ABQ_THREADS, or all cores.")] = None,
    peers: Annotated[
        str | None,
        typer.Option("--peers", help="torch, onnxruntime, llama.cpp; comma-separated. Default: torch."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="W2A8, W4A8, W8A8, W2A2; 4096x4096; M 1, 8, 64; one thread; all installed peers."),
    ] = False,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile the CUDA kernels and list them; needs no GPU.")
    ] = False,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help=f"With --compile-only: GPU architectures, comma-separated. Default: {_ARCHS}."),
    ] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Time one linear layer, including activation quantization. Every result is checked first.

    Peers other than torch: pip install 'abq-explorer[peers]'.
    Example: abq bench kernels --precisions W2A8,W4A4 --shapes 4096x4096 --m 1 --threads 1 --json
    """
    is_chosen = (precisions, shapes, m) != _CASES or threads is not None
    if compile_only and (is_chosen or quick or peers is not None or device != "cpu"):
        raise OptionError("--compile-only times nothing: of the other options, use only --arch and --json.")
    if quick and is_chosen:
        raise OptionError("--quick sets --precisions, --shapes, --m and --threads: remove them, or --quick.")
    if compile_only:
        return _compiled(parse_list(_ARCHS if arch is None else arch))
    if arch is not None:
        raise OptionError(f"--arch {arch} needs --compile-only.")
    _check_device(device)
    if device == "cuda" and (quick or threads or peers):
        raise OptionError("--quick, --threads and --peers are for --device cpu; a GPU is timed with all its peers.")
    from kernels.benchmark.machine import describe_machine
    from kernels.benchmark.matmul import QUICK
    from kernels.benchmark.peers import installed_peers

    time_kernels = open_services().throughput.time_kernels
    if quick:
        timed = installed_peers() if peers is None else parse_list(peers)
        measured = time_kernels(QUICK.precisions, QUICK.shapes, QUICK.m, QUICK.threads, peers=timed)
    else:
        timed = ["torch"] if peers is None else parse_list(peers)
        asked = (parse_list(precisions), parse_shapes(parse_list(shapes)), parse_token_counts(parse_list(m)))
        if not all(asked):
            raise OptionError(
                "--precisions, --shapes and --m need at least one value each, such as --shapes 4096x4096."
            )
        measured = time_kernels(*asked, threads, peers=timed, device=device)
    machine = describe_machine(timed, measured[0].threads)
    data = {"machine": machine, "measurements": [asdict(one) for one in measured]}
    return Answer(data, _kernel_table(measured, on_gpu=device == "cuda"))


def _kernel_table(measured: "Sequence[KernelMeasurement]", on_gpu: bool) -> Table:
    """One row per measurement; on a GPU also the share of the device's limit that it reaches."""
    header = [
        "Precision", "Shape", "M", "Engine", "Path", "Median (IQR)", "Cold", "Exact", "Speed-up over", "Weights",
    ]  # fmt: skip
    rows = [
        [
            one.precision,
            f"{one.n}x{one.k}",
            str(one.m),
            one.engine,
            one.path,
            f"{formatting.seconds(one.median_us / 1e6)} ({formatting.seconds(one.iqr_us / 1e6)})",
            formatting.seconds(one.cold_us / 1e6),
            "yes" if one.exact else "NO",
            ", ".join(f"{factor:.2f}x {peer}" for peer, factor in one.speedup.items()),
            formatting.size(one.packed_bytes),
            *([_limit(one.limit)] if on_gpu else []),
        ]
        for one in measured
    ]
    return Table([*header, "Cold, share of limit"] if on_gpu else header, rows)


def _limit(limit: tuple[str, float] | None) -> str:
    return "" if limit is None else f"{formatting.percent(limit[1])} of {limit[0]}"


def _compiled(archs: list[str]) -> Answer:
    from kernels.gpu import compile_report

    found = list(compile_report(archs))
    header = ["Kernel", "Architecture", "Registers", "Spill bytes", "Shared bytes"]
    rows = [[k.kernel, f"sm_{k.arch}", str(k.registers), str(k.spill_bytes), str(k.shared_bytes)] for k in found]
    return Answer([asdict(k) for k in found], Table(header, rows))


@bench.command()
@answers
def decode(
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="fp32 (on a GPU fp16), bf16, int8 (torch), precisions and run ids, comma-separated. "
            "Default: fp32,bf16,int8,W8A8,W4A4,W2A8; on a GPU fp16,int8,W8A8,W4A4,W2A8.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="cpu or cuda. On a GPU each token is one CUDA graph; all but the blocks' linears is float16.",
        ),
    ] = "cpu",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to generate.")] = 64,
    model: Annotated[
        str, typer.Option("--model", help="builtin, a folder, a .gguf file or a Hugging Face id.")
    ] = "builtin",
    profile: Annotated[
        bool,
        typer.Option("--profile", help="Show where the time of one token goes instead: by operation, on the CPU."),
    ] = False,
    as_json: JsonOption = False,
) -> Answer:
    """Time text generation of the whole model.

    Examples:

      abq bench decode --columns fp32,int8,W2A8 --tokens 32 --json

      abq bench decode --columns W4A8h8 --profile
    """
    _check_device(device)
    services = open_services()
    names = parse_list(columns or _DECODE_COLUMNS[device])
    if profile:
        if device != "cpu":
            raise OptionError("--profile is for --device cpu: on a GPU a token is one CUDA graph.")
        profiles = services.throughput.profile_decode(names, tokens, model)
        return Answer({"profiles": profiles}, _profile_table(profiles))
    records = services.throughput.time_decode(names, tokens, model, device=device).to_dict("records")
    rows = [
        [
            row["column"],
            row["path"],
            formatting.tokens_per_second(row["tokens_per_second"]),
            formatting.seconds(row["first_token_seconds"]),
            formatting.size(row["weight_bytes"]),
        ]
        for row in records
    ]
    header = ["Column", "Path", "Decode", "First token", "Weights"]
    return Answer({"measurements": records}, Table(header, rows))


def _profile_table(profiles: "Sequence[Mapping[str, Any]]") -> Table:
    """One row per column and kind of operation, and one for the whole token."""
    rows = [[str(one["column"]), *cells] for one in profiles for cells in formatting.profile_cells(one)]
    return Table(["Column", *formatting.PROFILE_HEADER], rows)


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device {device}: use cpu or cuda.")


@bench.command("export")
@answers
def export_timings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new .json file.")],
    device: Annotated[
        str | None, typer.Option("--device", help="The device whose timings are written; default: this machine's CPU.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> Answer:
    """Write timings to a file for another machine. Example: abq bench export timings.json"""
    from app.services.speed.timings import this_device

    device = device or this_device()
    count = open_services().timings.export(file, device, force)
    return Answer(
        {"path": str(file), "device": device, "timings": count}, f"Wrote {count} timings of {device} to {file}."
    )


@bench.command("import")
@answers
def import_timings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file from abq bench export.")],
    as_json: JsonOption = False,
) -> Answer:
    """Add timings of another machine; the page marks them.

    Example: abq bench import timings.json
    """
    new, known = open_services().timings.import_from(file)
    return Answer({"new": new, "known": known}, f"Imported {new} timings; {known} were already stored.")
