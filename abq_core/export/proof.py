"""The proofs of an export: each runtime that it is for, in a process of its own, compared with the run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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

    install: what pip installs for it.  plugin: a module that the script imports before it loads the export.
    """

    name: str
    script: str
    packages: Mapping[str, str]
    install: str = "'abq-explorer[exports]'"
    plugin: str = ""

    def missing(self) -> list[str]:
        """The packages that are not installed, as pip calls them."""
        return [package for module, package in self.packages.items() if find_spec(module) is None]


TRANSFORMERS = Runtime(
    "transformers with compressed-tensors",
    "transformers_runtime.py",
    {"transformers": "transformers", "compressed_tensors": "compressed-tensors"},
)
PLUGIN = Runtime(
    "transformers with abq_core", "transformers_runtime.py", {"transformers": "transformers"}, plugin="abq_core"
)
LLAMA_CPP = Runtime("llama.cpp", "llama_cpp_runtime.py", {"xllamacpp": "xllamacpp"})
VLLM = Runtime("vLLM", "vllm_runtime.py", {"vllm": "vllm"}, install="vllm")


@dataclass(frozen=True)
class Proof:
    """How far a loaded export is from its run, on the same tokens.

    checked: False if the runtime could not be asked; `reason` says why, and the numbers are None.
    largest_logit_difference: over all tokens and logits, after the constant that softmax ignores is taken out of both.
    median_logit_difference: the median over tokens of each token's largest difference.
    logit_range: largest minus smallest logit of the run, the mean over tokens.
    kl: KL(run || export) in nats, the mean over tokens.
    kl_of_float_noise: the same of the run and itself with every embedding value moved by one float32 rounding, 2^-23 of
    it, up or down. Rounded activations can amplify that, so no runtime with another order of sums is closer.
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
    kl_of_float_noise: float | None = None
    same_top: float | None = None
    greedy_tokens: int | None = None
    new_tokens: int = NEW_TOKENS
    tokens_per_second: float | None = None


def forward_passes(runtimes: int) -> int:
    """How often `prove` runs the model: the segments, again with noise, and a greedy continuation per runtime."""
    return 2 * SEGMENTS + runtimes


def prove(
    runtimes: Sequence[Runtime],
    export: Path,
    run: LoadedModel,
    environment: Mapping[str, str],
    on_step: Callable[[], None],
) -> list[Proof]:
    """Load the export in each runtime and compare it with the run.

    export: the folder or file that the runtimes load.  run: the simulated model, whose blocks are needed one by one.
    environment: of the processes, without secrets.  on_step: called after the runtimes and after each of
    `forward_passes` * blocks; may raise to stop. A runtime that is missing or fails gives an answer too, not an error.
    """
    seq_len = min(SEQ_LEN, run.context)
    ids, _ = recorded_segments("builtin", run.tokenizer, SEGMENTS, seq_len, 0, "evaluation")
    prompt = ids[0, :PROMPT_TOKENS]
    request = _request(run, ids, prompt)
    answers = [_answer(runtime, export, request, environment) for runtime in runtimes]
    on_step()
    if not any(isinstance(answer, dict) for answer in answers):
        return [answer for answer in answers if isinstance(answer, Proof)]
    expected = _Expected.of(run, ids, on_step)
    return [
        answer if isinstance(answer, Proof) else _compared(answer, expected, prompt, run, on_step) for answer in answers
    ]


def _answer(
    runtime: Runtime, export: Path, request: Mapping[str, object], environment: Mapping[str, str]
) -> dict[str, np.ndarray] | Proof:
    """What the runtime computed, or a proof that says why it could not be asked."""
    if missing := runtime.missing():
        return Proof(
            runtime.name,
            False,
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here. Install with: "
            f"pip install {runtime.install}.",
        )
    with tempfile.TemporaryDirectory(prefix="abq-proof-") as name:
        try:
            return _ask(runtime, export, request, Path(name), environment)
        except _RuntimeFailedError as error:
            return Proof(runtime.name, False, str(error))


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


@dataclass(frozen=True)
class _Expected:
    """What the run computes. log_probabilities: (segments, tokens, vocabulary) float64.

    logit_range: largest minus smallest logit, the mean over tokens.  kl_of_float_noise: of Proof.
    """

    log_probabilities: Tensor
    logit_range: float
    kl_of_float_noise: float

    @classmethod
    @torch.inference_mode()
    def of(cls, run: LoadedModel, ids: Tensor, on_step: Callable[[], None]) -> "_Expected":
        """From two passes over the segments `ids` (segments, tokens)."""
        logits = torch.stack([_logits(run, row, on_step) for row in ids])
        wanted = logits.log_softmax(-1).double().cpu()
        with _float_noise(run.model.get_input_embeddings()):
            noisy = torch.stack([_logits(run, row, on_step) for row in ids]).log_softmax(-1).double().cpu()
        return cls(wanted, float((logits.amax(-1) - logits.amin(-1)).mean()), _mean_kl(wanted, noisy))


@torch.inference_mode()
def _compared(
    answer: Mapping[str, np.ndarray],
    expected: _Expected,
    prompt: Tensor,
    run: LoadedModel,
    on_step: Callable[[], None],
) -> Proof:
    generated = torch.from_numpy(answer["generated"])
    after_prompt = _logits(run, torch.cat([prompt, generated]), on_step)[len(prompt) - 1 : -1].argmax(-1)
    equal = (after_prompt.cpu() == generated).tolist()
    wanted = expected.log_probabilities
    found = torch.from_numpy(answer["log_probabilities"]).double()
    difference = (wanted - found).abs().amax(-1)
    return Proof(
        runtime=str(answer["runtime"]),
        checked=True,
        tokens=difference.numel(),
        largest_logit_difference=float(difference.max()),
        median_logit_difference=float(difference.median()),
        logit_range=expected.logit_range,
        kl=_mean_kl(wanted, found),
        kl_of_float_noise=expected.kl_of_float_noise,
        same_top=float((wanted.argmax(-1) == found.argmax(-1)).double().mean()),
        greedy_tokens=equal.index(False) if False in equal else len(equal),
        new_tokens=len(equal),
        tokens_per_second=len(equal) / float(answer["seconds"]),
    )


def _mean_kl(wanted: Tensor, found: Tensor) -> float:
    """KL(wanted || found) in nats of log-probabilities (..., vocabulary) float64, the mean over tokens."""
    return float((wanted.exp() * (wanted - found)).sum(-1).mean().clamp(min=0))


@contextmanager
def _float_noise(embedding: nn.Module) -> Iterator[None]:
    """Move every value of an embedding's output by one float32 rounding, up or down by chance."""
    generator = torch.Generator().manual_seed(0)

    def move(_module: nn.Module, _arguments: object, output: Tensor) -> Tensor:
        up = torch.randint(0, 2, output.shape, generator=generator).to(output.device)
        return output * (1 + torch.finfo(torch.float32).eps * (2 * up - 1))

    handle = embedding.register_forward_hook(move)
    try:
        yield
    finally:
        handle.remove()


def _logits(run: LoadedModel, row: Tensor, on_step: Callable[[], None]) -> Tensor:
    """Logits, (tokens, vocabulary), of one row of ids, without others in a batch, as the runtimes compute them.

    The order of float sums depends on the batch, and a sum at a tie moves an activation by a whole level.
    """
    return run.logits(last_hidden_states(run, row[None], on_step)[0], run.float_head())
