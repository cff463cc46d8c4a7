"""abq bench: how fast the engine is on this machine, and timings that come from others."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from app import formatting
from app.cli.answers import Answer, JsonOption, Table, answers
from app.cli.options import OptionError, read_counts, read_list, read_shapes
from app.cli.session import open_services

bench = typer.Typer(
    no_args_is_help=True, help="Time the integer engine against others: kernels, decode; export and import timings."
)

_DECODE_COLUMNS = {"cpu": "fp32,bf16,int8,W8A8,W4A4,W2A8", "cuda": "fp16,int8,W8A8,W4A4,W2A8"}


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
    peers: Annotated[
        str | None,
        typer.Option("--peers", help="torch, onnxruntime, llama.cpp, with commas between. Default: torch."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="W2A8, W4A8, W8A8, W2A2; 4096x4096; M 1, 8, 64; one thread; all installed peers."),
    ] = False,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="Compile the CUDA kernels, with or without a GPU, and list them.")
    ] = False,
    arch: Annotated[
        str, typer.Option("--arch", help="With --compile-only: architectures, with commas between.")
    ] = "80,86,89,90a",
    as_json: JsonOption = False,
) -> Answer:
    """Time one linear layer, activation quantization included, every result checked first.

    Peers besides torch come with pip install 'abq-explorer[peers]'.
    Example: abq bench kernels --precisions W2A8,W4A4 --shapes 4096x4096 --m 1 --threads 1 --json
    """
    if compile_only:
        return _compiled(read_list(arch))
    _check_device(device)
    if device == "cuda" and (quick or threads or peers):
        raise OptionError(
            "--quick, --threads and --peers are for --device cpu: on a GPU every peer is timed that is installed."
        )
    from kernels.benchmark.machine import describe_machine
    from kernels.benchmark.matmul import QUICK
    from kernels.benchmark.peers import installed_peers

    services = open_services()
    if quick:
        others = installed_peers() if peers is None else read_list(peers)
        measured = services.throughput.time_kernels(
            QUICK.precisions, QUICK.shapes, QUICK.m, QUICK.threads, peers=others
        )
    else:
        others = ["torch"] if peers is None else read_list(peers)
        counts = read_counts("--m", m)
        measured = services.throughput.time_kernels(
            read_list(precisions), read_shapes(shapes), counts, threads, peers=others, device=device
        )
    counted = device == "cuda"  # operations, against what the device reaches
    rows = [
        [
            k.precision,
            f"{k.n}x{k.k}",
            str(k.m),
            k.engine,
            k.path,
            f"{formatting.seconds(k.median_us / 1e6)} ({formatting.seconds(k.iqr_us / 1e6)})",
            formatting.seconds(k.cold_us / 1e6),
            "yes" if k.exact else "NO",
            ", ".join(f"{factor:.2f}x {peer}" for peer, factor in k.speedup.items()),
            formatting.size(k.packed_bytes),
            *([_share(k.limit)] if counted else []),
        ]
        for k in measured
    ]
    header = [
        "Precision", "Shape", "M", "Engine", "Path", "Median and IQR", "Cold", "Exact", "Speed-up over", "Weights",
    ]  # fmt: skip
    if counted:
        header.append("Cold, of what binds")
    machine = describe_machine(others, measured[0].threads)
    return Answer({"machine": machine, "measurements": [asdict(k) for k in measured]}, Table(header, rows))


def _share(limit: tuple[str, float] | None) -> str:
    return "" if limit is None else f"{limit[1]:.0%} of {limit[0]}"


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
            help="fp32 (on a GPU fp16), bf16, int8 (torch), precisions and run ids, with commas between. Default: the "
            "first, int8, W8A8, W4A4, W2A8; on a CPU bf16 too.",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            help="cpu or cuda. On a GPU a token is one CUDA graph in every column, and all that is no linear of a "
            "block is float16.",
        ),
    ] = "cpu",
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens to write.")] = 64,
    model: Annotated[str, typer.Option("--model", help="builtin, a folder or a hub id.")] = "builtin",
    as_json: JsonOption = False,
) -> Answer:
    """Time text generation end to end. Example: abq bench decode --columns fp32,int8,W2A8 --tokens 32 --json"""
    _check_device(device)
    services = open_services()
    wanted = read_list(columns or _DECODE_COLUMNS[device])
    records = services.throughput.time_decode(wanted, tokens, model, device=device).to_dict("records")
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


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise OptionError(f"--device {device}: use cpu or cuda.")


@bench.command("export")
@answers
def export_timings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .json file that is not there yet.")],
    device: Annotated[str | None, typer.Option("--device", help="Of this device only; default: of this one.")] = None,
    as_json: JsonOption = False,
) -> Answer:
    """Write timings to a file that another machine can import. Example: abq bench export timings.json"""
    from app.services.timings import this_device

    device = device or this_device()
    count = open_services().timings.export(file, device)
    return Answer(
        {"path": str(file), "device": device, "timings": count}, f"{count} timings of {device} are in {file}."
    )


@bench.command("import")
@answers
def import_timings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What abq bench export wrote.")],
    as_json: JsonOption = False,
) -> Answer:
    """Keep another machine's timings beside this one's; the page marks them. Example: abq bench import timings.json"""
    new, known = open_services().timings.import_from(file)
    return Answer({"new": new, "known": known}, f"{new} timings are new, {known} were here already.")
