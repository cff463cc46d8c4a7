"""A peer's weights: runs its script in an environment with its package, and recovers integers from its output.

A peer's weights must lie on a grid of 2^p levels per row (or group), as ours do; `integers` finds that grid and rejects
weights with more levels than the precision allows.
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from abq_core.calibration.artifacts import BlockArtifact, MemoryStore
from abq_core.calibration.calibration_text import read_text
from abq_core.models.architectures import blocks_of
from abq_core.models.loading import LoadedModel
from abq_core.precision import Precision
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import QuantizedWeight
from abq_core.spec import CalibrationSpec

ROOT = Path(__file__).parent.parent
PEERS = ("gptq", "autoround")
PEER_PYTHON = ROOT / ".venv-peers/bin/python"
_FOLDER = Path(__file__).parent / "peers"
_TOLERANCE = 1e-3  # largest distance of a value from its level, in steps
_LARGEST_SHIFT = 0.3  # largest mean shift of a linear's weights in steps; a wrong zero point shifts by 1
_SHOWN = 2000  # characters of a failed peer's output in the message


class PeerError(RuntimeError):
    """A peer failed, or its weights do not fit the request."""


@dataclass(frozen=True)
class PeerResult:
    """Blocks in our format (`store`), and package, settings, seconds and peak memory (`record`)."""

    store: MemoryStore
    record: dict[str, Any]


def run_peer(
    name: str, python: Path, base: LoadedModel, precision: Precision, tokens: Tensor, options: dict[str, int | bool]
) -> PeerResult:
    """Quantize `base` with a peer. tokens: (segments, length) int64.

    options: steps, seed, symmetric.
    Raises PeerError.
    """
    if not supports(precision):
        raise PeerError(f"{name} does not support the levels of {precision}: omit the star and kv.")
    with tempfile.TemporaryDirectory(prefix="abq-peer-") as folder:
        model, given, out = Path(folder) / "model", Path(folder) / "tokens.safetensors", Path(folder) / "weights.st"
        base.model.save_pretrained(model)
        base.tokenizer.save_pretrained(model)
        save_file({"tokens": tokens.contiguous()}, given)
        command = [str(python), str(_FOLDER / f"{name}.py"), "--model", str(model), "--tokens", str(given)]
        command += ["--out", str(out), "--weight-bits", str(precision.weight_bits)]
        command += ["--act-bits", str(precision.act_bits), "--group-size", str(precision.group_size or 0)]
        command += ["--steps", str(options["steps"]), "--seed", str(options["seed"])]
        command += ["--symmetric"] if options["symmetric"] else []
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
        except OSError as error:
            raise PeerError(f"{python} cannot be run ({error.strerror}): see benchmarks/README.md.") from error
        if done.returncode or not out.is_file():
            raise PeerError(
                f"{name} ended with {done.returncode}. Is its package installed for {python}? See "
                f"benchmarks/README.md. Its output:\n{(done.stdout + done.stderr)[-_SHOWN:]}"
            )
        with safe_open(out, "pt") as file:
            record = json.loads(file.metadata()["record"])
            weights = {key: file.get_tensor(key) for key in file.keys()}
    return PeerResult(stored_blocks(base, precision, weights), record)


def peer_tokens(base: LoadedModel, method: str, spec: CalibrationSpec) -> tuple[str, Tensor]:
    """The peer's name and its calibration tokens, (segments, length) int64.

    Without `@`, the segments of `spec`; with `@N`, N segments that the end-to-end pass of `abq+` reads.
    """
    name, _, count = method.partition("@")
    if not count:
        return name, read_text(base, spec).blocks
    tokens = read_text(base, replace(spec, method="abq+", end_to_end_segments=int(count))).end_to_end
    assert tokens is not None
    return name, tokens


def is_peer(method: str) -> bool:
    """True for a peer's name, alone or with `@` and a number of calibration segments, such as autoround@1536."""
    name, at, count = method.partition("@")
    return name in PEERS and (count.isdecimal() and int(count) > 0 if at else True)


def supports(precision: Precision) -> bool:
    """Whether peers support this precision: no star, and no quantized KV cache."""
    return precision.quantizes_weights and not precision.balanced and precision.kv_bits is None


def stored_blocks(base: LoadedModel, precision: Precision, weights: dict[str, Tensor]) -> MemoryStore:
    """The blocks of `base` with a peer's weights as integers.

    Raises PeerError if one is missing or off the grid.
    """
    names = {id(parameter): name for name, parameter in base.model.named_parameters()}
    store = MemoryStore()
    for index, block in enumerate(blocks_of(base.model)):
        integers_of, linears = {}, linears_of(block)
        for name, linear in linears.items():
            full = names[id(linear.weight)]
            weight = weights.get(full)
            if weight is None or weight.shape != linear.weight.shape:
                found = "nothing" if weight is None else f"shape {tuple(weight.shape)}"
                raise PeerError(f"The peer wrote {found} for {full}, shape {tuple(linear.weight.shape)}.")
            try:
                integers_of[name] = integers(weight, precision)
                _check_shift(integers_of[name], linear.weight)
            except PeerError as error:
                raise PeerError(f"{full}: {error}") from None
        rest = {
            name: parameter.detach()
            for name, parameter in block.named_parameters()
            if name not in {f"{linear}.weight" for linear in linears}
        }
        artifact = BlockArtifact(integers_of, rest, {})
        store.save(index, artifact.to_tensors(dict.fromkeys(linears, precision)))
    return store


def _check_shift(found: QuantizedWeight, original: Tensor) -> None:
    """Raise PeerError if a linear's weights are shifted as a whole, as by a misread zero point."""
    scale = found.scale.repeat_interleave(found.group_size, dim=1)[:, : original.shape[1]]
    shift = ((found.dequantize() - original.float()) / scale).mean().item()
    if abs(shift) > _LARGEST_SHIFT:
        raise PeerError(f"its weights are {shift:+.2f} steps from the model's on average, not 0: misread zero points?")


def integers(weight: Tensor, precision: Precision) -> QuantizedWeight:
    """The codes, scales and zero points behind a dequantized weight (rows, k) float32.

    Raises PeerError if a row (or group) does not lie on 2^p evenly spaced levels that include zero.
    """
    rows, k = weight.shape
    size = precision.group_size or k
    values = weight.double().numpy()
    codes = np.empty((rows, k), dtype=np.int16)
    scale, zero = np.empty((rows, -(-k // size))), np.empty((rows, -(-k // size)), dtype=np.int16)
    for row in range(rows):
        for group, start in enumerate(range(0, k, size)):
            part = values[row, start : start + size]
            step = _step(part, precision.levels)
            steps = np.rint(part / step).astype(int)
            low = min(int(steps.min()), 0)
            codes[row, start : start + size] = steps - low
            scale[row, group], zero[row, group] = step, -low
    return QuantizedWeight(torch.from_numpy(codes), torch.from_numpy(scale).float(), torch.from_numpy(zero), size)


def _step(values: np.ndarray, levels: int) -> float:
    """The largest step of a grid through zero with at most `levels` levels that fits all values; 1 if all are zero."""
    found = np.unique(np.append(values, 0.0))
    span = found[-1] - found[0]
    if span == 0:
        return 1.0
    for intervals in range(1, levels):  # between the lowest and the highest value, zero included
        step = span / intervals
        if np.abs(found / step - np.rint(found / step)).max() < _TOLERANCE:
            return float(step)
    raise PeerError(f"A row with {len(found)} different values has no grid of {levels} levels: {found[:6].tolist()}.")
