"""The Python API: load, explore, calibrate, evaluate, generate.

`import abq_core as abq` exposes these functions.
"""

from collections.abc import Mapping

import pandas as pd

from abq_core.analysis.explore import explore as explore_weights
from abq_core.calibration.artifacts import CheckpointStore, MemoryStore
from abq_core.calibration.calibrate import calibrate as calibrate_blocks
from abq_core.calibration.quantized_block import Engine
from abq_core.calibration.rotation import starting_model
from abq_core.evaluation.perplexity import Scores
from abq_core.evaluation.perplexity import evaluate as score
from abq_core.events import OnEvent, ignore
from abq_core.inference.errors import PromptError
from abq_core.inference.generate import Token
from abq_core.inference.generate import generate as stream
from abq_core.inference.prompts import Prompt, conversation, is_chat_model
from abq_core.inference.runtime import quantized_model
from abq_core.methods import default_switches, read_switches
from abq_core.mix import ModelPrecision
from abq_core.models.loading import LoadedModel, load_model
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from abq_core.text.documents import Split
from abq_core.text.paper import PAPER_SEQ_LEN, paper_segments
from abq_core.text.records import Protocol
from abq_core.text.segments import recorded_segments
from abq_core.text.sources import is_name

__all__ = ["calibrate", "evaluate", "explore", "generate", "load"]


def load(model: str = "builtin", device: str = "cpu") -> LoadedModel:
    """Load a causal language model that computes in float32.

    model: "builtin", a folder that `save_pretrained` wrote, a .gguf file, or a hub id such as "org/name@revision".
    Weights are safetensors or GGUF, and no code of a repository runs. Raises ModelError and its subclasses.
    """
    return load_model(model, device)


def explore(model: LoadedModel, precision: str | ModelPrecision) -> dict[str, pd.DataFrame]:
    """Round every linear's weight to nearest and describe the result, without calibration.

    Returns the DataFrames "histograms", "levels", "linears" (signal-to-noise ratio in dB) and "outliers", whose columns
    `abq_core.analysis.explore.explore` documents. Raises PrecisionError.
    """
    return explore_weights(model, _parsed(precision))


def calibrate(
    model: LoadedModel,
    precision: str | ModelPrecision,
    method: str = "abq",
    *,
    switches: Mapping[str, object] | None = None,
    engine: Engine = "packed",
    store: CheckpointStore | None = None,
    on_event: OnEvent = ignore,
    **settings: object,
) -> LoadedModel:
    """Calibrate a model block by block (arXiv 2408.08554) and return the quantized model.

    `model` is not changed.
    method: "rtn", "smoothquant", "omniquant", "abq" or "abq+".  switches: components to change, such as
    `{"akl": False}`.  settings: other fields of `CalibrationSpec`: data, segments, seq_len, epochs,
    batch, end_to_end_segments, seed, device.  engine: "packed" runs on bit planes with integer arithmetic, "simulated"
    on dequantized weights in float32.  store: keeps finished blocks, so that a stopped calibration can continue; the
    default keeps them in memory.  on_event: receives progress events (`abq_core.events`).
    Raises SpecError, PrecisionError, DataError, CalibrationError.
    """
    changed = read_switches(switches or {}, default_switches(method))
    spec = CalibrationSpec(model.ref, _parsed(precision), method, changed, **settings)  # type: ignore[arg-type]
    blocks = MemoryStore() if store is None else store
    calibrate_blocks(model, spec, blocks, on_event)
    base, resolved = starting_model(model, spec)
    return quantized_model(base, resolved, blocks, engine)


def evaluate(
    model: LoadedModel,
    reference: LoadedModel | None = None,
    *,
    data: str = "builtin",
    segments: int | None = 32,
    seq_len: int | None = None,
    seed: int = 0,
    protocol: Protocol = "windows",
    whole: bool = False,
) -> Scores:
    """Measure perplexity on held-out text, and the KL divergence to `reference`.

    reference: the full-precision model; without it the KL values are 0 and same_top is 1.
    data: "builtin", "wikitext2", "c4", "pile", or a .txt or .jsonl file.  protocol: "windows" samples `segments`
    windows of `seq_len` tokens (256) by `seed`, or reads all for None; "paper" reads all windows of `seq_len` tokens
    (2,048, or the model's context) as GPTQ's script does.  whole: read the whole file, for a model that was not
    calibrated on it; otherwise its last tenth.
    Raises DataError, EvaluationError.
    """
    split: Split = "whole" if whole and not is_name(data) else "evaluation"
    if protocol == "paper":
        windows = seq_len or min(PAPER_SEQ_LEN, model.context)
        ids, record = paper_segments(data, model.tokenizer, windows, split)
    else:
        ids, record = recorded_segments(data, model.tokenizer, segments, seq_len or 256, seed, split)
    return score(model, reference, ids, unscored=record.unscored)


def generate(
    model: LoadedModel,
    prompt: Prompt,
    max_new_tokens: int = 64,
    *,
    system: str = "",
    chat: bool | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """Answer a message or continue a text. Returns the new text, without the prompt.

    prompt: a text, or messages such as `[{"role": "user", "content": "Hello"}]`.  chat: True if a text is
    a message, which is rendered with the model's chat template and answered up to the end of the turn; False if it is
    continued. By default a model with a chat template answers.  system: the system prompt before a message.
    temperature: 0 is greedy decoding.
    Raises PromptError, ChatTemplateError. `abq_core.inference.generate.generate` streams tokens, of several models side
    by side.
    """
    if isinstance(prompt, str):
        if is_chat_model(model) if chat is None else chat:
            prompt = conversation(prompt, system)
        elif system:
            raise PromptError("A system prompt was given, but the text is continued: use chat=True, or leave it out.")
    elif chat is False or system:
        raise PromptError("Messages are answered: leave out chat=False, and put the system prompt into the messages.")
    events = stream({"model": model}, None, prompt, max_new_tokens, temperature, seed)
    return "".join(event.text for event in events if isinstance(event, Token))


def _parsed(precision: str | ModelPrecision) -> ModelPrecision:
    return Precision.parse(precision) if isinstance(precision, str) else precision
