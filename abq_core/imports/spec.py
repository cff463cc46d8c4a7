"""One import as a value: the base model, where the file is, and the sizes that its headers give."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to import
    from abq_core.imports.base_layout import BaseLayout
    from abq_core.imports.source import ImportSource

METHOD = "imported"  # of its run


class ImportSpecError(ValueError):
    """A stored import that cannot be read."""


@dataclass(frozen=True)
class ImportSpec:
    """An import.

    model: the base.  source: a .gguf file, a folder or a hub id with its commit.  precision: the format's own name,
    such as Q4_K_M.  stored_bits: average bits of a weight of the blocks' linears, scales included.
    weight_bytes: of these linears.  model_bytes: of all weights.  file_bytes: of the files on disk.
    data: the text of its diagnostics and its evaluation.
    """

    model: str
    source: str
    format: str
    precision: str
    stored_bits: float
    weight_bytes: int
    model_bytes: int
    file_bytes: int
    bits_per_parameter: float
    data: str = "builtin"
    method: str = METHOD

    @classmethod
    def of(cls, base: "BaseLayout", ref: str, source: "ImportSource", data: str) -> "ImportSpec":
        """The spec of an opened source."""
        weights = sum(base.shapes[name][0] * base.shapes[name][1] for name in base.linears)
        weight_bytes = sum(source.sizes[name] for name in base.linears)
        model_bytes = sum(source.sizes.values())
        return cls(
            model=base.ref,
            source=ref,
            format=source.format,
            precision=source.name,
            stored_bits=8 * weight_bytes / weights,
            weight_bytes=weight_bytes,
            model_bytes=model_bytes,
            file_bytes=source.file_bytes,
            bits_per_parameter=8 * model_bytes / base.parameters,
            data=data,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ImportSpec":
        """Read `to_dict`'s dictionary. Raises ImportSpecError."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ImportSpecError(f"This import has the field {unknown[0]!r}, which only a later version knows.")
        try:
            return cls(**data)
        except TypeError as error:
            raise ImportSpecError(f"This import cannot be read: {error}.") from error

    def command_line(self) -> str:
        """The `abq import` command line for this import."""
        words = ["abq", "import", self.source, "--base", self.model]
        return shlex.join(words if self.data == "builtin" else [*words, "--data", self.data])


def is_import(spec: Mapping[str, Any]) -> bool:
    """Whether the spec of a run is that of an import."""
    return spec.get("method") == METHOD
