"""A folder of safetensors files that GPTQ, AutoRound or compressed-tensors wrote, as an import.

Of the folder only config.json (or quantize_config.json) and the safetensors files are read.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from abq_core.imports import compressed_tensors, gptq
from abq_core.imports.base_layout import BaseLayout, Shape
from abq_core.imports.compressed_tensors import CompressedTensors
from abq_core.imports.gptq import Gptq
from abq_core.imports.grouping import FolderError
from abq_core.imports.safetensors_files import SafetensorsFiles
from abq_core.imports.source import ActivationGrid, Format, ImportSource, StoredTensor
from abq_core.models.errors import ModelError, ModelNotFoundError
from abq_core.models.files import CONFIG, OLDER_QUANTIZATION, quantized_config, weight_files

_COMPARED = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_UNUSED = (".rotary_emb.inv_freq", ".attn.bias", ".masked_bias")  # buffers that old checkpoints stored
_METHODS: Mapping[str, Format] = {
    "gptq": "gptq",
    "auto-round": "auto-round",
    "intel/auto-round": "auto-round",
    "compressed-tensors": "compressed-tensors",
}
_TITLES = {"gptq": "GPTQ", "auto-round": "AutoRound", "compressed-tensors": "compressed-tensors"}


class _Decoder(Protocol):
    """What reads the quantized linears of one format."""

    def check(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> None: ...

    def decode(self, files: SafetensorsFiles, prefix: str, shape: Shape) -> StoredTensor: ...


class _Place(NamedTuple):
    """How a parameter is stored. prefix: of its tensors, without a dot.  quantized: by the folder's decoder."""

    prefix: str
    shape: Shape
    quantized: bool


def open_folder(folder: Path, base: BaseLayout) -> ImportSource:
    """Check a folder against its base model; no weight is read.

    Raises UnsafeModelError, ModelNotFoundError, and ModelError for a folder of another model or in another format.
    """
    config, quantization = quantized_config(folder)
    paths = _weights(folder)
    with _named(folder):
        kind = _format(quantization)
        _check_same_model(config, base)
        decoder = _decoder(kind, quantization)
        files = SafetensorsFiles(paths)
        places = _places(files, base, kind)
        for place in places.values():
            if place.quantized:
                decoder.check(files, place.prefix, place.shape)
        sizes, activations = _sizes(files, places, kind), _activations(decoder, files, places)
        name = _name(kind, decoder, files, places, base)

    def read(parameter: str) -> StoredTensor:
        place = places[parameter]
        with _named(folder):
            if place.quantized:
                found = decoder.decode(files, place.prefix, place.shape)
            else:
                found = StoredTensor(files.read(parameter).float())
            if not torch.isfinite(found.values).all():
                raise FolderError(f"is damaged: '{parameter[:80]}' holds values that are not finite (NaN or infinity)")
            return found

    described = [one for one in (folder / CONFIG, folder / OLDER_QUANTIZATION) if one.is_file()]
    return ImportSource(folder, kind, name, (*described, *paths), sizes, activations, read)


def _weights(folder: Path) -> list[Path]:
    """The weight files; early GPTQ programs wrote one file of another name. Raises as `weight_files` does."""
    try:
        return weight_files(folder)
    except ModelNotFoundError:
        found = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        if len(found) != 1:
            raise
        return found


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Raise a clause about the folder as a ModelError."""
    try:
        yield
    except FolderError as error:
        raise ModelError(f"'{folder}' {error}.") from error


def _format(quantization: Mapping[str, Any]) -> Format:
    method = quantization.get("quant_method")
    if not isinstance(method, str) or method not in _METHODS:
        raise FolderError(
            f"was quantized with {str(method)[:40]!r}, which cannot be imported; supported are {', '.join(_METHODS)}, "
            "and GGUF files"
        )
    return _METHODS[method]


def _decoder(kind: Format, quantization: dict[str, Any]) -> Gptq | CompressedTensors:
    if kind == "compressed-tensors":
        return CompressedTensors.read(quantization)
    return Gptq.read(quantization) if kind == "gptq" else Gptq.read_auto_round(quantization)


def _check_same_model(config: Mapping[str, Any], base: BaseLayout) -> None:
    for name in _COMPARED:
        ours = getattr(base.config, name, None)
        if name in config and ours is not None and config[name] != ours:
            raise FolderError(
                f"has {name} {str(config[name])[:40]!r}, but {base.ref} has {ours!r}: name the model that it was made "
                "from with --base"
            )


def _places(files: SafetensorsFiles, base: BaseLayout, kind: Format) -> dict[str, _Place]:
    """Where every parameter of the base model is stored. Raises FolderError for missing and for unknown tensors."""
    entries, parts = files.entries, gptq.PARTS if kind != "compressed-tensors" else compressed_tensors.PARTS
    wanted = dict(base.shapes)
    if base.tied and any(f"{base.head.removesuffix('.weight')}.{part}" in entries for part in ("weight", *parts)):
        wanted[base.head] = base.table_shape
    places = {}
    used: set[str] = set()
    for parameter, shape in wanted.items():
        prefix = parameter.removesuffix(".weight")
        own = {name for part in parts if (name := f"{prefix}.{part}") in entries}
        packed = f"{prefix}.{parts[0]}" in entries
        scaled = f"{prefix}.weight_scale" in own and parameter in entries
        if parameter in entries:
            own |= {parameter}
        if (packed or scaled) and len(shape) == 2:
            places[parameter] = _Place(prefix, shape, quantized=True)
        elif parameter in entries:
            entry = entries[parameter]
            if entry.shape != shape or not entry.dtype.is_floating_point:
                raise FolderError(
                    f"has '{parameter[:80]}' of shape {entry.shape} as {entry.dtype}; the base model has {shape}"
                )
            places[parameter] = _Place(prefix, shape, quantized=False)
        else:
            raise FolderError(f"lacks the weights of '{parameter[:80]}'")
        used |= own
    _check_rest(files, set(entries) - used)
    return places


def _check_rest(files: SafetensorsFiles, names: set[str]) -> None:
    """Refuse tensors that no parameter is made of: leaving them out would make another model.

    GPTQ programs store a bias of zeros for linears without one.
    """
    for name in sorted(names):
        is_zero = name.endswith(".bias") and len(files.entries[name].shape) == 1 and not files.read(name).any()
        if not is_zero and not name.endswith(_UNUSED):
            raise FolderError(f"has the tensor '{name[:80]}', which the base model does not use")


def _sizes(files: SafetensorsFiles, places: Mapping[str, _Place], kind: Format) -> dict[str, int]:
    parts = gptq.PARTS if kind != "compressed-tensors" else compressed_tensors.PARTS
    sizes = {}
    for parameter, place in places.items():
        names = [parameter, *(f"{place.prefix}.{part}" for part in parts)] if place.quantized else [parameter]
        sizes[parameter] = sum(files.entries[name].size for name in names if name in files.entries)
    return sizes


def _activations(
    decoder: Gptq | CompressedTensors, files: SafetensorsFiles, places: Mapping[str, _Place]
) -> dict[str, ActivationGrid]:
    if isinstance(decoder, Gptq):
        return {}
    return {
        parameter: grid
        for parameter, place in places.items()
        if place.quantized and (grid := decoder.scheme_of(files, place.prefix, place.shape).activations)
    }


def _name(
    kind: Format,
    decoder: Gptq | CompressedTensors,
    files: SafetensorsFiles,
    places: Mapping[str, _Place],
    base: BaseLayout,
) -> str:
    """The format and its numbers, such as GPTQ W4g128; of several kinds of linears, that of the most weights."""
    if isinstance(decoder, Gptq):
        return f"{_TITLES[kind]} W{decoder.bits}{f'g{decoder.group_size}' if decoder.group_size else ''}"
    weights: dict[compressed_tensors.Scheme, int] = {}
    for parameter, place in places.items():
        if place.quantized and parameter in base.linears:
            scheme = decoder.scheme_of(files, place.prefix, place.shape)
            weights[scheme] = weights.get(scheme, 0) + place.shape[0] * place.shape[1]
    if not weights:
        raise FolderError("has no quantized linear, so there is nothing to import")
    most = max(weights, key=lambda scheme: weights[scheme])
    letter = "FP" if most.kind == "float" else "W"
    activations = f"A{most.activations.bits}" if most.activations else ""
    return f"{_TITLES[kind]} {letter}{most.bits}{activations}{f'g{most.group_size}' if most.group_size else ''}"
