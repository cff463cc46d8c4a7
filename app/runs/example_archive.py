"""One example as an archive: what a run's folder has, with blocks in their compact form, and its rows.

A .tar.xz of record.json, spec.json, data.json, diagnostics/*.parquet and blocks/NNN.safetensors. Frames are stored
uncompressed, so that xz compresses them.
"""

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abq_core.text.records import TextRecord
from app.json_values import to_json_text

if TYPE_CHECKING:
    import pandas

_EXTREME = 9 | lzma.PRESET_EXTREME


@dataclass(frozen=True)
class ExampleArchive:
    """The content of an archive.

    record: the rows, JSON-ready (`app.services.exchange.examples` writes and reads it).  spec: as in the run's
    spec.json.  blocks: files of compact blocks, in order.
    """

    record: Mapping[str, Any]
    spec: Mapping[str, Any]
    texts: Mapping[str, TextRecord]
    frames: "Mapping[str, pandas.DataFrame]"
    blocks: list[bytes]

    def write(self, path: Path) -> None:
        """Write a new archive."""
        files = {
            "record.json": to_json_text(self.record).encode(),
            "spec.json": to_json_text(self.spec).encode(),
            "data.json": to_json_text({part: text.to_dict() for part, text in self.texts.items()}).encode(),
            **{f"diagnostics/{name}.parquet": _parquet(frame) for name, frame in sorted(self.frames.items())},
            **{f"blocks/{index:03d}.safetensors": data for index, data in enumerate(self.blocks)},
        }
        with tarfile.open(path, "w:xz", preset=_EXTREME) as archive:  # type: ignore[call-overload] # a flag of LZMA
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    @classmethod
    def read(cls, path: Path) -> "ExampleArchive":
        """Read an archive that `write` wrote."""
        import pandas

        with tarfile.open(path, "r:xz") as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        texts = json.loads(files["data.json"])
        frames = {name: data for name, data in files.items() if name.startswith("diagnostics/")}
        return cls(
            record=json.loads(files["record.json"]),
            spec=json.loads(files["spec.json"]),
            texts={part: TextRecord.from_dict(text) for part, text in texts.items()},
            frames={Path(name).stem: pandas.read_parquet(io.BytesIO(data)) for name, data in frames.items()},
            blocks=[files[name] for name in sorted(files) if name.startswith("blocks/")],
        )


def _parquet(frame: "pandas.DataFrame") -> bytes:
    floats = [str(name) for name in frame if frame[name].dtype.kind == "f"]
    return frame.to_parquet(
        index=False, compression="none", use_dictionary=False, use_byte_stream_split=floats or False
    )
