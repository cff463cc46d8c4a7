"""Safetensors files of a model, written shard by shard, so that memory holds one shard."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

_SHARD_BYTES = 2 << 30


class ShardWriter:
    """Writes tensors to `model.safetensors`, or to numbered shards with an index if they exceed `shard_bytes`.

    variant: transformers' word for another name, such as `model.abq.safetensors`.
    """

    def __init__(self, folder: Path, shard_bytes: int = _SHARD_BYTES, variant: str = "") -> None:
        self._folder, self._limit, self._suffix = folder, shard_bytes, f".{variant}" if variant else ""
        self._held: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self.bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor, and write the shard if it is full."""
        self._held[name] = tensor.detach().cpu().contiguous()
        self.bytes += tensor.nbytes
        if sum(held.nbytes for held in self._held.values()) >= self._limit:
            self._flush()

    def close(self) -> None:
        """Write the last shard and the index."""
        if self._held:
            self._flush()
        count = len(self._shards)
        if count == 1:
            self._path(0).rename(self._folder / f"model{self._suffix}.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._shards):
            file = self._folder / f"model{self._suffix}-{number + 1:05d}-of-{count:05d}.safetensors"
            self._path(number).rename(file)
            weight_map |= dict.fromkeys(names, file.name)
        index = {"metadata": {"total_size": self.bytes}, "weight_map": weight_map}
        (self._folder / f"model.safetensors.index{self._suffix}.json").write_text(
            json.dumps(index, indent=1) + "\n", "utf-8"
        )

    def _flush(self) -> None:
        save_file(self._held, self._path(len(self._shards)), metadata={"format": "pt"})
        self._shards.append(list(self._held))
        self._held = {}

    def _path(self, number: int) -> Path:
        return self._folder / f".shard-{number}"
