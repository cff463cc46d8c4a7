"""Train the built-in model: `python -m abq_core.builtin.train`.

Writes tokenizer, weights and model card.

A LLaMA with 5.8 M parameters (with `--family qwen2` a Qwen2 with 3.1 M, a second model for benchmarks), trained on the
standard library of the running Python (`corpus.py`). Muon trains the hidden matrices, AdamW everything else; both
learning rates decay linearly to zero. The first run saves the weights with the lowest held-out loss. A second run
(`--start`) continues from them at a small rate with more help topics, so that generated text reads like documentation,
and saves its last weights. The weights in `model/` come from this script; the rest of the project does not need it.
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from abq_core.builtin.corpus import Split, documents
from abq_core.models.autocast import bfloat16_products
from abq_core.models.reference import BUILTIN_FOLDER

VOCABULARY = 4096
CONTEXT = 1024
END_OF_TEXT = "<|endoftext|>"
FAMILIES = {  # name, title of the card, purpose
    "llama": ("LLaMA", "The built-in model", "so that ABQ Explorer works offline on a CPU"),
    "qwen2": ("Qwen2", "A second model for benchmarks", "so that methods are compared on more than one model"),
}


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with 4,096 tokens on the training split."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((d.text for d in documents("train")), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(family: str, end_of_text: int) -> PreTrainedModel:
    """Build a randomly initialized model with tied embeddings.

    llama: 6 blocks, hidden 256, 8 heads, 4 kv heads.  qwen2: 5 blocks, hidden 192, 6 heads, 2 kv heads, and biases on
    the query, key and value projections.
    """
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "attention_dropout": 0.0,
        "initializer_range": 0.03,
    }
    if family == "qwen2":
        return Qwen2ForCausalLM(
            Qwen2Config(
                hidden_size=192,
                intermediate_size=640,
                num_hidden_layers=5,
                num_attention_heads=6,
                num_key_value_heads=2,
                **common,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=6,
            num_attention_heads=8,
            num_key_value_heads=4,
            **common,
        )
    )


def token_stream(
    tokenizer: PreTrainedTokenizerFast, split: Split, rng: random.Random | None = None, topic_repeats: int = 1
) -> torch.Tensor:
    """All tokens of a split, (tokens,) int64, shuffled by document if `rng` is given.

    topic_repeats: copies of each help topic; topics are the most readable prose, but only a twentieth of the corpus.
    """
    chosen = list(documents(split))
    chosen += [d for d in chosen if d.name.startswith("topic:")] * (topic_repeats - 1)
    if rng is not None:
        rng.shuffle(chosen)
    ids: list[int] = []
    for encoded in tokenizer([d.text for d in chosen], verbose=False)["input_ids"]:
        ids.append(tokenizer.eos_token_id)
        ids.extend(encoded)
    return torch.tensor(ids)


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, stream: torch.Tensor, segments: int) -> float:
    """Mean loss in nats per token over the first `segments` windows of CONTEXT tokens."""
    model.eval()
    losses = []
    for ids in stream[: segments * CONTEXT].view(-1, CONTEXT).split(8):
        with bfloat16_products(ids.device):
            losses.append(model(ids, labels=ids).loss.float() * len(ids))
    model.train()
    return float(sum(losses)) / segments


def optimizers(
    model: PreTrainedModel, muon_rate: float, adam_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    embeddings = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." not in n]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": embeddings, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=muon_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, lr=adam_rate, betas=(0.9, 0.95)),
    ]


def train(arguments: argparse.Namespace) -> None:
    """Train a model, and write model, tokenizer and card to `arguments.out`."""
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    if arguments.start is None:
        tokenizer = train_tokenizer()
        model = build_model(arguments.family, tokenizer.eos_token_id)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(arguments.start)
        model = AutoModelForCausalLM.from_pretrained(arguments.start, dtype=torch.float32).train()
    held_out = token_stream(tokenizer, "calibration")
    epoch_tokens = len(token_stream(tokenizer, "train", rng, arguments.topic_repeats))
    steps = math.ceil(arguments.epochs * epoch_tokens / (arguments.batch * CONTEXT))
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {epoch_tokens:,} tokens per epoch, {steps:,} steps"
    )
    started = time.perf_counter()
    _train_steps(arguments, model, tokenizer, held_out, steps, rng)
    trained = AutoModelForCausalLM.from_pretrained(arguments.out, dtype=torch.float32)
    evaluation = token_stream(tokenizer, "evaluation")
    final = held_out_loss(trained, evaluation, segments=len(evaluation) // CONTEXT)
    write_card(arguments, trained, epoch_tokens, steps, time.perf_counter() - started, final)


def _train_steps(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    held_out: torch.Tensor,
    steps: int,
    rng: random.Random,
) -> None:
    """Run the optimizer steps and save weights.

    Saves the weights with the lowest held-out loss, or with `--start` the last ones.
    """
    parts = optimizers(model, arguments.muon_rate, arguments.adam_rate, arguments.weight_decay)
    peaks = [[group["lr"] for group in part.param_groups] for part in parts]
    forward = torch.compile(model) if arguments.compile else model
    batches = _batches(arguments, tokenizer, rng)
    best = math.inf
    started = time.perf_counter()
    for step in range(steps):
        ids = next(batches)
        factor = min((step + 1) / arguments.warmup, 1.0) * (1 - step / steps)
        for part, rates in zip(parts, peaks, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        with bfloat16_products(ids.device):
            loss = forward(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
            part.zero_grad(set_to_none=True)
        if (step + 1) % arguments.check_every == 0 or step + 1 == steps:
            current = held_out_loss(model, held_out, segments=64)
            seconds = time.perf_counter() - started
            print(
                f"step {step + 1}/{steps}  train {loss.item():.3f}  held out {current:.3f}  {seconds:.0f} s",
                flush=True,
            )
            if current < best or arguments.start is not None:
                best = current
                save(model, tokenizer, arguments.out)


def _batches(
    arguments: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[torch.Tensor]:
    """Endless (batch, CONTEXT) int64 batches.

    Every epoch shuffles the documents and shifts the windows.
    """
    windows: list[torch.Tensor] = []
    while True:
        if len(windows) < arguments.batch:
            stream = token_stream(tokenizer, "train", rng, arguments.topic_repeats)
            stream = stream[rng.randrange(CONTEXT) :]
            windows = list(stream[: len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT))
            rng.shuffle(windows)
        yield torch.stack([windows.pop() for _ in range(arguments.batch)])


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write fp16 safetensors, config and tokenizer to `folder`."""
    half = type(model)(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def write_card(
    arguments: argparse.Namespace, model: PreTrainedModel, epoch_tokens: int, steps: int, seconds: float, loss: float
) -> None:
    """Write the model card: architecture, training data, quality and command."""
    config = model.config
    options = {k: v for k, v in vars(arguments).items() if k not in ("out", "compile") and v is not None}
    command = "python -m abq_core.builtin.train " + " ".join(f"--{k.replace('_', '-')} {v}" for k, v in options.items())
    trained_on = f"{epoch_tokens:,} tokens per epoch, {steps:,} steps of {arguments.batch * CONTEXT:,} tokens"
    facts = {"python": platform.python_version(), "torch": torch.__version__, "seconds": round(seconds)}
    name, title, purpose = FAMILIES[arguments.family]
    (arguments.out / "README.md").write_text(
        f"""# {title}

A {name} of {model.num_parameters() / 1e6:.1f} M parameters ({config.num_hidden_layers} blocks, hidden \
{config.hidden_size}, {config.num_attention_heads} heads, {config.num_key_value_heads} kv heads, context {CONTEXT:,},
byte-level BPE of {VOCABULARY:,} tokens, tied embeddings), trained on the documentation and source of Python's standard
library, {purpose}. It writes text that looks like Python documentation
and code; it has no other use.

- On held-out modules and topics: **{loss:.3f} nats per token, perplexity {math.exp(loss):.2f}**
- Training: {trained_on}, {seconds / 60:.0f} minutes, CPU threads: {torch.get_num_threads()}
- Command: `{command}`
- Versions: {json.dumps(facts)}

The text is read from the running Python and is not stored here; its license is the PSF License.
"""
    )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=list(FAMILIES), default="llama")
    parser.add_argument("--epochs", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=4, help=f"windows of {CONTEXT} tokens per step")
    parser.add_argument("--topic-repeats", type=int, default=3, help="copies of each help topic per epoch")
    parser.add_argument("--start", type=Path, help="folder with weights to continue from; saves the last weights")
    parser.add_argument("--muon-rate", type=float, default=0.006)
    parser.add_argument("--adam-rate", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--check-every", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="about 15 %% faster; needs a C++ compiler")
    parser.add_argument("--out", type=Path, default=BUILTIN_FOLDER)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    train(arguments)


if __name__ == "__main__":
    main()
