"""A device that counts peak tensor memory without computing, for shapes of any size.

It is torch's "meta" device used like an accelerator: values that are copied to the host or read by Python are invented.
Code that mixes host and device tensors fails as it would on a GPU.

Uses torch's dispatch mode, operation schemas and storage addresses, which are not public API: checked with torch 2.13;
`tests/benchmarks/test_counted_device.py` fails if they change.
"""

import pydoc_data.topics
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from random_models import bundled_tokenizer, empty_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from abq_core.calibration.artifacts import MemoryStore
from abq_core.calibration.calibrate import calibrate
from abq_core.models.loading import LoadedModel
from abq_core.precision import FULL
from abq_core.spec import CalibrationSpec

DEVICE = "meta"


class CountedDevice(TorchDispatchMode):
    """Counts bytes of live tensors on DEVICE while open: `live` now, and `peak` at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation; return invented values if it would copy values off the device."""
        options = dict(kwargs or {})
        name = func._schema.name  # type: ignore[attr-defined]
        first = args[0] if args else None
        if name == "aten::_local_scalar_dense" and _counted(first):
            return True if first.dtype == torch.bool else 1.0
        if name == "aten::_to_copy" and _counted(first) and str(options.get("device", DEVICE)) != DEVICE:
            return torch.ones(first.shape, dtype=options.get("dtype") or first.dtype, device=options["device"])
        if name == "aten::copy_" and _counted(args[1]) and not _counted(first):
            return first.fill_(1)
        result = func(*args, **options)
        for leaf in tree_leaves(result):
            if _counted(leaf):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def counted_peak(spec: CalibrationSpec) -> int:
    """Peak bytes on a device while the first block of a model of random_models.CONFIGS is calibrated there.

    Two segments are enough for the optimizer to have its states; further segments stay on the host.
    """
    with TemporaryDirectory() as name:
        text = Path(name) / "text.txt"
        text.write_text("\n\n".join(pydoc_data.topics.topics.values())[: 64 * spec.seq_len], "utf-8")
        tokenizer = bundled_tokenizer()
        base = LoadedModel(spec.model, empty_model(spec.model, 1), tokenizer, FULL)
        short = replace(spec, data=str(text), segments=2, epochs=min(spec.active_epochs, 1), device=DEVICE)
        with CountedDevice() as device:
            calibrate(base, short, MemoryStore())
    return device.peak


def _counted(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == DEVICE
