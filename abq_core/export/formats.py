"""Export a run: the formats, and the steps from an empty folder to one with weights, card and proof."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast, get_args

from abq_core.export import compressed_tensors
from abq_core.export.compressed_tensors import Activations, write_compressed_tensors
from abq_core.export.errors import ExportError
from abq_core.export.folder import export_target, folder_bytes, new_folder
from abq_core.export.gguf import writer as gguf_writer
from abq_core.export.model_card import README, Card, Loading, public_name
from abq_core.export.model_files import licence
from abq_core.export.plugin import writer as plugin_writer
from abq_core.export.proof import LLAMA_CPP, PLUGIN, TRANSFORMERS, VLLM, Proof, Runtime, forward_passes, prove
from abq_core.export.source import ExportSource
from abq_core.inference.runtime import streamed_model
from abq_core.models.hub import hub_repository
from abq_core.models.reference import is_local

PROOF_FILE = "proof.json"
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Options:
    """Choices of an export.

    activations: of compressed-tensors, "run" or "symmetric" (as vLLM requires).
    nearest: of gguf, round again what no storage type holds exactly.
    """

    activations: Activations = "run"
    nearest: bool = False

    @classmethod
    def read(cls, activations: str = "run", nearest: bool = False) -> "Options":
        """Options from text. Raises ExportError."""
        if activations not in get_args(Activations):
            kinds = " or ".join(get_args(Activations))
            raise ExportError(f"--activations is {activations[:60]!r}: use {kinds}.")
        return cls(cast(Activations, activations), nearest)


@dataclass(frozen=True)
class Written:
    """What a writer wrote. file: what the runtime loads, below the folder; "" for the folder itself.

    weight_bytes: of all tensors.  dropped: what the format does not keep, as sentences.
    """

    dropped: Sequence[str]
    weight_bytes: int
    file: str = ""


@dataclass(frozen=True)
class Format:
    """One format. write(source, folder, options, on_step) fills an empty folder; steps: of a block in `write`.

    runtimes: that load it; the first one's proof is the main one.
    """

    name: str
    help: str
    write: Callable[[ExportSource, Path, Options, OnStep], Written]
    steps: int
    runtimes: Sequence[Runtime]
    loading: Callable[[ExportSource, str], Loading]


@dataclass(frozen=True)
class Exported:
    """A finished export. path: the folder, or the file for a format of one file.  bytes: of all files.

    bits_per_parameter: bytes of all tensors, in bits, per parameter of the model (a tied table counts once).
    dropped: what the format does not keep of the run.  proof: in the format's first runtime.
    more_proofs: in its others.
    """

    path: str
    format: str
    bytes: int
    bits_per_parameter: float
    dropped: Sequence[str]
    proof: Proof
    more_proofs: Sequence[Proof] = ()


def export_run(
    source: ExportSource,
    name: str,
    target: str | Path,
    options: Options,
    environment: Mapping[str, str],
    on_step: OnStep,
) -> Exported:
    """Write a run in a format to the new folder `target`, load it in its runtimes, and describe it.

    environment: of the runtimes' processes, without secrets.  on_step(done, total): may raise to stop; then nothing
    remains. Raises ExportError, MissingBlockError.
    """
    format, path = format_named(name), export_target(target)
    total, done = (format.steps + forward_passes(len(format.runtimes))) * source.blocks + 1, 0

    def proven() -> None:
        nonlocal done
        done += 1
        on_step(format.steps * source.blocks + done, total)

    with new_folder(path) as folder:
        written = format.write(source, folder, options, lambda step, _: on_step(step, total))
        run = streamed_model(source.base, source.precision, source.store)
        proofs = prove(format.runtimes, folder / written.file, run, environment, proven)
        bits = 8 * written.weight_bytes / source.parameters
        (folder / PROOF_FILE).write_text(json.dumps([asdict(proof) for proof in proofs], indent=2) + "\n", "utf-8")
        card = _card(source, format, path.name, written, proofs, bits)
        (folder / README).write_text(card.render(), "utf-8")
        size = folder_bytes(folder)
    return Exported(str(path / written.file), name, size, bits, written.dropped, proofs[0], proofs[1:])


def format_named(name: str) -> Format:
    """The format of this name. Raises ExportError."""
    found = FORMATS.get(name)
    if found is None:
        raise ExportError(f"{name[:60]!r} is not a format: use one of {', '.join(FORMATS)}.")
    return found


def _card(
    source: ExportSource, format: Format, folder: str, written: Written, proofs: Sequence[Proof], bits: float
) -> Card:
    ref, record = source.base.ref, source.record
    facts = [(name, str(value)) for name, value in record.items() if name not in ("precision", "method")]
    return Card(
        name=public_name(ref),
        hub_id=None if is_local(ref) else hub_repository(ref),
        licence=licence(ref),
        format=format.name,
        precision=str(source.precision),
        method=str(record["method"]),
        facts=[*facts, ("bits per parameter of this export", f"{bits:.2f}")],
        dropped=written.dropped,
        proofs=proofs,
        loading=format.loading(source, folder),
    )


def _write_compressed_tensors(source: ExportSource, folder: Path, options: Options, on_step: OnStep) -> Written:
    dropped, weight_bytes = write_compressed_tensors(source, folder, options.activations, on_step)
    return Written(dropped, weight_bytes)


def _write_gguf(source: ExportSource, folder: Path, options: Options, on_step: OnStep) -> Written:
    dropped, weight_bytes = gguf_writer.write_gguf(source, folder, options.nearest, on_step)
    return Written(dropped, weight_bytes, gguf_writer.FILE)


def _write_packed(source: ExportSource, folder: Path, options: Options, on_step: OnStep) -> Written:
    return Written([], plugin_writer.write_packed(source, folder, on_step))


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format(
            compressed_tensors.NAME,
            "for vLLM, and for transformers with the package compressed-tensors",
            _write_compressed_tensors,
            2,
            (TRANSFORMERS, VLLM),
            compressed_tensors.loading,
        ),
        Format(
            gguf_writer.NAME,
            "for llama.cpp, Ollama and LM Studio",
            _write_gguf,
            2,
            (LLAMA_CPP,),
            gguf_writer.loading,
        ),
        Format(
            plugin_writer.NAME,
            "for transformers with abq_core: the packed engine, nothing dropped",
            _write_packed,
            1,
            (PLUGIN,),
            plugin_writer.loading,
        ),
    )
}
