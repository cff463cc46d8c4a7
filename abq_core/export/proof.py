"""The proof of an export: the runtime that it is for, in a process of its own, compared with the run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from abq_core.evaluation.block_pass import last_hidden_states
from abq_core.models.loading import LoadedModel
from abq_core.models.tokenizer import encode
from abq_core.text.segments import recorded_segments

SEGMENTS, SEQ_LEN = 2, 48
PROMPT_TOKENS, NEW_TOKENS = 8, 20
TEXT = "It's 12:30, and 4567 people said:\n\n  def open(path):\treturn {1: path}?! na\u00efve \u6587\u5b57 \U0001f600"
TIME_OUT_SECONDS = 1800
_MOST_ERROR_CHARACTERS = 300


@dataclass(frozen=True)
class Runtime:
    """A runtime of exports. packages: imported by its script, and how pip calls them.

    plugin: a module that the script imports before it loads the export.
    """

    name: str
    script: str
    packages: Mapping[str, str]
    extra: str
    plugin: str = ""

    def missing(self) -> list[str]:
        """The packages that are not installed, as pip calls them."""
        return [package for module, package in self.packages.items() if find_spec(module) is None]


TRANSFORMERS = Runtime(
    "transformers with compressed-tensors",
    "transformers_runtime.py",
    {"transformers": "transformers", "compressed_tensors": "compressed-tensors"},
    "exports",
)
PLUGIN = Runtime(
    "transformers with abq_core", "transformers_runtime.py", {"transformers": "transformers"}, "exports", "abq_core"
)
LLAMA_CPP = Runtime("llama.cpp", "llama_cpp_runtime.py", {"xllamacpp": "xllamacpp"}, "exports")


@dataclass(frozen=True)
class Proof:
    """How far a loaded export is from its run, on the same tokens.

    checked: False if the runtime could not be asked; `reason` says why, and the numbers are None.
    largest_logit_difference: over all tokens and logits, after the constant that softmax ignores is taken out of both.
    median_logit_difference: the median over tokens of each token's largest difference.
    logit_range: largest minus smallest logit of the run, the mean over tokens.
    kl: KL(run || export) in nats, the mean over tokens.
    same_top: share of tokens with the same most likely next token.
    greedy_tokens: how many of the first `new_tokens` greedy tokens of the export are those of the run.
    tokens_per_second: of a greedy continuation with a KV cache.
    """

    runtime: str
    checked: bool
    reason: str = ""
    tokens: int = 0
    largest_logit_difference: float | None = None
    median_logit_difference: float | None = None
    logit_range: float | None = None
    kl: float | None = None
    same_top: float | None = None
    greedy_tokens: int | None = None
    new_tokens: int = NEW_TOKENS
    tokens_per_second: float | None = None


def prove(
    runtime: Runtime, export: Path, run: LoadedModel, environment: Mapping[str, str], on_step: Callable[[], None]
) -> Proof:
    """Load the export in its runtime and compare it with the run.

    export: the folder or file that the runtime loads.  run: the simulated model, whose blocks are needed one by one.
    environment: of the process, without secrets.  on_step: called after the runtime and after each block; may raise to
    stop. A runtime that is missing or fails gives an answer too, not an error.
    """
    if missing := runtime.missing():
        return Proof(
            runtime.name,
            False,
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here. Install with: "
            f"pip install 'abq-explorer[{runtime.extra}]'.",
        )
    seq_len = min(SEQ_LEN, run.context)
    ids, _ = recorded_segments("builtin", run.tokenizer, SEGMENTS, seq_len, 0, "evaluation")
    prompt = ids[0, :PROMPT_TOKENS]
    with tempfile.TemporaryDirectory(prefix="abq-proof-") as name:
        try:
            answer = _ask(runtime, export, _request(run, ids, prompt), Path(name), environment)
        except _RuntimeFailedError as error:
            return Proof(runtime.name, False, str(error))
        on_step()
        return _compared(answer, ids, prompt, run, on_step)


class _RuntimeFailedError(Exception):
    """The process of the runtime ended with an error."""


def _request(run: LoadedModel, ids: Tensor, prompt: Tensor) -> dict[str, object]:
    """What the scripts of `runtimes` read."""
    return {
        "ids": ids.numpy(),
        "prompt": prompt.numpy(),
        "new_tokens": NEW_TOKENS,
        "vocabulary": run.vocabulary,
        "threads": torch.get_num_threads(),
        "text": TEXT,
        "plain": encode(run.tokenizer, ["a"], False)[0][-1],
        "text_ids": np.array(encode(run.tokenizer, [TEXT], True)[0]),
    }


def _ask(
    runtime: Runtime, export: Path, asked: Mapping[str, object], folder: Path, environment: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The answer of the runtime's script. Raises _RuntimeFailedError."""
    request, answer = folder / "request.npz", folder / "answer.npz"
    np.savez(request, **asked)  # type: ignore[arg-type]
    script = Path(__file__).parent / "runtimes" / runtime.script
    words = [sys.executable, "-P", str(script), str(export), str(request), str(answer)]
    offline = {**environment, "HF_HUB_OFFLINE": "1", "PYTHONPATH": _import_path()}
    try:
        done = subprocess.run(
            [*words, runtime.plugin] if runtime.plugin else words,
            env=offline,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIME_OUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _RuntimeFailedError(f"{runtime.name} did not answer within {TIME_OUT_SECONDS:,} s.") from None
    if done.returncode or not answer.is_file():
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["without a message"]
        said = lines[-1].replace(str(export), export.name)[:_MOST_ERROR_CHARACTERS]
        raise _RuntimeFailedError(f"{runtime.name} could not run it (exit code {done.returncode}): {said}")
    with np.load(answer) as found:
        return dict(found)


def _import_path() -> str:
    """The import path of a process that has to find this package."""
    return os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))


@torch.inference_mode()
def _compared(
    answer: Mapping[str, np.ndarray], ids: Tensor, prompt: Tensor, run: LoadedModel, on_step: Callable[[], None]
) -> Proof:
    generated = torch.from_numpy(answer["generated"])
    expected = torch.stack([_logits(run, row, on_step) for row in ids])
    after_prompt = _logits(run, torch.cat([prompt, generated]), on_step)[len(prompt) - 1 : -1].argmax(-1)
    equal = (after_prompt.cpu() == generated).tolist()
    spread = expected.amax(-1) - expected.amin(-1)
    wanted = expected.log_softmax(-1).double().cpu()
    found = torch.from_numpy(answer["log_probabilities"]).double()
    difference = (wanted - found).abs().amax(-1)
    kl = (wanted.exp() * (wanted - found)).sum(-1)
    return Proof(
        runtime=str(answer["runtime"]),
        checked=True,
        tokens=ids.numel(),
        largest_logit_difference=float(difference.max()),
        median_logit_difference=float(difference.median()),
        logit_range=float(spread.mean()),
        kl=float(kl.mean().clamp(min=0)),
        same_top=float((wanted.argmax(-1) == found.argmax(-1)).double().mean()),
        greedy_tokens=equal.index(False) if False in equal else len(equal),
        new_tokens=len(equal),
        tokens_per_second=len(equal) / float(answer["seconds"]),
    )


def _logits(run: LoadedModel, row: Tensor, on_step: Callable[[], None]) -> Tensor:
    """Logits, (tokens, vocabulary), of one row of ids, without others in a batch, as the runtimes compute them.

    The order of float sums depends on the batch, and a sum at a tie moves an activation by a whole level.
    """
    return run.logits(last_hidden_states(run, row[None], on_step)[0], run.float_head())
