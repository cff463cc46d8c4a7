"""Tiny GGUF files of every family and storage type, written with gguf-py, and the folders they are compared with.

The names and the order of rows are those of llama.cpp's converter; they are written down here again, apart from
`abq_core.models.gguf`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from family_cases import family_model
from gguf import GGMLQuantizationType, GGUFWriter
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
}
PLAIN = ("F32", "F16", "BF16")
QUANTIZED = (
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ1_S",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ3_XXS",
    "IQ3_S",
    "IQ4_NL",
    "IQ4_XS",
    "TQ1_0",
    "TQ2_0",
    "MXFP4",
)
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
CHAT_TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
_PERMUTED = ("attn_q.", "attn_k.")
_SCALES: dict[str, tuple[int, ...]] = {
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    **dict.fromkeys(("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"), (0,)),
}  # fmt: skip


def wide_llama() -> PreTrainedModel:
    """A LLaMA whose rows hold whole blocks of every storage type."""
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=256,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval().requires_grad_(False)


def write_tokenizer(writer: GGUFWriter, tokenizer_json: Path, pre: str = "gpt-2") -> None:
    """The byte-level BPE of a tokenizer.json, as llama.cpp's converter writes it. pre: how texts are cut."""
    content = json.loads(tokenizer_json.read_text("utf-8"))
    added = {token["id"]: token["content"] for token in content["added_tokens"]}
    vocabulary = {number: token for token, number in content["model"]["vocab"].items()} | added
    tokens = [vocabulary[number] for number in range(len(vocabulary))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in content["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if number in added else NORMAL for number in range(len(tokens))])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_config(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """The metadata of a model, as llama.cpp's converter writes it."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type in ("qwen3", "gemma3_text", "llama"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    rope = config.rope_parameters
    if config.model_type == "gemma3_text":
        rope = rope["full_attention"]
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    writer.add_rope_freq_base(rope["rope_theta"])
    if config.model_type == "phi3":
        writer.add_rope_dimension_count(int(head_dim * (rope.get("partial_rotary_factor") or 1.0)))
        writer.add_sliding_window(config.sliding_window or 0)
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def stored_tensors(model: PreTrainedModel) -> dict[str, tuple[str, np.ndarray]]:
    """The tensors of a GGUF file: name in the file -> name in transformers, and values as they are stored."""
    config, family = model.config, model.config.model_type
    architecture = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == ARCHITECTURES[family])
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    found = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        values = value.float().numpy()
        if ARCHITECTURES[family] == "llama" and any(part in stored for part in _PERMUTED):
            values = _pairs(values, config.num_attention_heads if "attn_q." in stored else config.num_key_value_heads)
        if family == "gemma3_text" and stored.endswith("norm.weight"):
            values = values + 1
        found[stored] = name, values
    return found


def _pairs(values: np.ndarray, heads: int) -> np.ndarray:
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def _halves(values: np.ndarray, heads: int) -> np.ndarray:
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def encoded(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Values in a storage type, and what they decode to. Types that gguf-py cannot make get random blocks."""
    number = GGMLQuantizationType[kind]
    if kind in _SCALES:
        block, size = gguf.GGML_QUANT_SIZES[number]
        rng = np.random.default_rng(values.size)
        raw = rng.integers(0, 256, (values.shape[0], values.shape[1] // block, size), np.uint8)
        for at in _SCALES[kind]:
            scales = (rng.random(raw.shape[:2]) * 1e-3).astype(np.float16)
            raw[..., at : at + 2] = scales[..., None].view(np.uint8)
        raw = raw.reshape(values.shape[0], -1)
    elif kind in ("F32", "F16"):
        raw = values.astype(np.float32 if kind == "F32" else np.float16)
    else:
        raw = gguf.quantize(values.astype(np.float32), number)
    return raw, np.asarray(gguf.dequantize(raw, number), np.float32).reshape(values.shape)


def write_gguf(
    model: PreTrainedModel,
    tokenizer_json: Path,
    file: Path,
    kind: str = "F32",
    more: Callable[[GGUFWriter], object] = lambda writer: None,
    extra: Mapping[str, np.ndarray] | None = None,
    tokenizer: Callable[[GGUFWriter], object] | None = None,
) -> dict[str, torch.Tensor]:
    """Write a model as a GGUF file whose matrices have the storage type `kind`.

    more: adds fields.  extra: tensors.  tokenizer: writes another tokenizer. Returns the parameters that the file
    encodes, under transformers' names and in its order of rows.
    """
    family = model.config.model_type
    writer = GGUFWriter(file, ARCHITECTURES[family])
    write_config(writer, model.config)
    if tokenizer is None:
        write_tokenizer(writer, tokenizer_json)
    else:
        tokenizer(writer)
    more(writer)
    parameters = {}
    for stored, (name, values) in stored_tensors(model).items():
        one = kind if values.ndim == 2 else "F32"
        raw, decoded = encoded(values, one)
        writer.add_tensor(stored, raw, raw_dtype=GGMLQuantizationType[one])
        if ARCHITECTURES[family] == "llama" and any(part in stored for part in _PERMUTED):
            heads = model.config.num_attention_heads if "attn_q." in stored else model.config.num_key_value_heads
            decoded = _halves(decoded, heads)
        if family == "gemma3_text" and stored.endswith("norm.weight"):
            decoded = decoded - np.float32(1)
        parameters[name] = torch.from_numpy(np.ascontiguousarray(decoded))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return parameters


def gguf_and_folder(
    model: PreTrainedModel, tokenizer_json: Path, parent: Path, kind: str = "F32", **options: Any
) -> tuple[Path, Path]:
    """A GGUF file of a model, and a folder in transformers' format with the values that the file encodes."""
    parent.mkdir(parents=True, exist_ok=True)
    file, folder = parent / f"tiny.{kind}.gguf", parent / "folder"
    parameters = write_gguf(model, tokenizer_json, file, kind, **options)
    copied = type(model)(model.config)
    copied.load_state_dict(parameters, strict=False)
    copied.tie_weights()
    logging.disable_progress_bar()
    copied.save_pretrained(folder)
    for source in tokenizer_json.parent.glob("tokenizer*"):
        (folder / source.name).write_bytes(source.read_bytes())
    return file, folder


def sentencepiece_tokens() -> tuple[list[str], list[float], list[int]]:
    """300 tokens of a SentencePiece BPE with all bytes: tokens, scores, kinds."""
    pieces = [
        SPACE,
        *"etaoinsrhldcumfpgwybv.",
        *(f"{SPACE}t", "th", "he", f"{SPACE}the", "in", f"{SPACE}a", "er", "re"),
    ]
    pieces += ["on", "the", f"{SPACE}f", "ile", "le", "il"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(pieces)]
    tokens += [f"<|user {number}|>" for number in range(300 - len(tokens))]
    kinds += [CONTROL, USER_DEFINED, *[UNUSED] * 300][: 300 - len(kinds)]
    scores = [0.0] * 259 + [-float(number) for number in range(300 - 259)]
    return tokens, scores, kinds


def write_sentencepiece(writer: GGUFWriter, prefix: bool = True) -> None:
    """The tokenizer of `sentencepiece_tokens`, as llama.cpp's converter writes it."""
    tokens, scores, kinds = sentencepiece_tokens()
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_space_prefix(prefix)


def family_gguf(case: str, tokenizer_json: Path, parent: Path, kind: str = "F32", **options: Any) -> tuple[Path, Path]:
    """`gguf_and_folder` of a tiny model of `family_cases`."""
    return gguf_and_folder(family_model(case), tokenizer_json, parent, kind, **options)
