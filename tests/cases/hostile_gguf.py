"""GGUF files byte by byte, valid and hostile. Needs no package but the standard library."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
_CODES = {U8: "<B", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}
HIDDEN, VOCABULARY = 32, 8


class Hostile(NamedTuple):
    """A file. message: a pattern of the error.  size: bytes to which zeros extend it, if more."""

    content: bytes
    message: str
    size: int = 0


def text(value: bytes | str, length: int | None = None) -> bytes:
    """A string; `length` may lie."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value(kind: int, content: Any) -> bytes:
    """A typed value without its name."""
    return struct.pack("<I", kind) + (text(content) if kind == STRING else struct.pack(_CODES[kind], content))


def array(kind: int, items: Sequence[Any], count: int | None = None) -> bytes:
    """An array; `count` may lie."""
    body = b"".join(text(item) if kind == STRING else struct.pack(_CODES[kind], item) for item in items)
    return struct.pack("<IIQ", ARRAY, kind, len(items) if count is None else count) + body


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0, dimensions: int | None = None) -> bytes:
    """The description of a tensor; shape in the order of the file, columns first."""
    extents = b"".join(struct.pack("<Q", extent) for extent in shape)
    count = len(shape) if dimensions is None else dimensions
    return text(name) + struct.pack("<I", count) + extents + struct.pack("<IQ", kind, offset)


def file(
    fields: Mapping[str, bytes] | Sequence[tuple[str, bytes]],
    tensors: Sequence[bytes] = (),
    data: int = 0,
    version: int = 3,
    tensor_count: int | None = None,
    field_count: int | None = None,
) -> bytes:
    """A file with zeros as data; the counts may lie."""
    pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
    header = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(pairs) if field_count is None else field_count,
    )
    header += b"".join(text(name) + content for name, content in pairs) + b"".join(tensors)
    return header + b"\0" * (-len(header) % 32) + b"\0" * data


def valid_fields() -> dict[str, bytes]:
    """The fields of a LLaMA with one block, 32 channels and 8 tokens."""
    tokens = ["<unk>", "<s>", "</s>", "\u2581", "a", "b", "ab", "\u2581a"]
    return {
        "general.architecture": value(STRING, "llama"),
        "llama.block_count": value(U32, 1),
        "llama.context_length": value(U32, 64),
        "llama.embedding_length": value(U32, HIDDEN),
        "llama.feed_forward_length": value(U32, HIDDEN),
        "llama.attention.head_count": value(U32, 2),
        "llama.attention.head_count_kv": value(U32, 1),
        "llama.attention.layer_norm_rms_epsilon": value(F32, 1e-5),
        "tokenizer.ggml.model": value(STRING, "llama"),
        "tokenizer.ggml.tokens": array(STRING, tokens),
        "tokenizer.ggml.scores": array(F32, [-float(number) for number in range(VOCABULARY)]),
        "tokenizer.ggml.token_type": array(I32, [2, 3, 3, 1, 1, 1, 1, 1]),
        "tokenizer.ggml.bos_token_id": value(U32, 1),
        "tokenizer.ggml.eos_token_id": value(U32, 2),
    }


_BLOCK = {
    "attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN // 2),
    "attn_v": (HIDDEN, HIDDEN // 2), "attn_output": (HIDDEN, HIDDEN),
    "ffn_norm": (HIDDEN,), "ffn_gate": (HIDDEN, HIDDEN), "ffn_up": (HIDDEN, HIDDEN),
    "ffn_down": (HIDDEN, HIDDEN),
}  # fmt: skip
SHAPES = {
    "token_embd.weight": (HIDDEN, VOCABULARY),
    "output_norm.weight": (HIDDEN,),
    **{f"blk.0.{name}.weight": shape for name, shape in _BLOCK.items()},
}


def valid(
    fields: Mapping[str, bytes] | None = None, without: Sequence[str] = (), shapes: Mapping[str, Sequence[int]] = SHAPES
) -> bytes:
    """A file that loads, with other fields, or with other tensors."""
    found = {name: content for name, content in {**valid_fields(), **(fields or {})}.items() if name not in without}
    described, offset = [], 0
    for name, shape in shapes.items():
        described.append(tensor(name, shape, 0, offset))
        size = 4
        for extent in shape:
            size *= extent
        offset += -(-size // 32) * 32
    return file(found, described, offset)


def _with(name: str, content: bytes, message: str, size: int = 0) -> Hostile:
    return Hostile(valid({name: content}), message, size)


def _one(described: bytes, message: str, data: int = 64) -> Hostile:
    return Hostile(file(valid_fields(), [described], data), message)


_ROW = "x.weight"
_MANY = 1 << 20
HOSTILE: dict[str, Hostile] = {
    # the start
    "empty": Hostile(b"", "has 0 bytes"),
    "only the magic": Hostile(b"GGUF", "has 4 bytes"),
    "another format": Hostile(b"PK\3\4" + b"\0" * 60, "not a GGUF file"),
    "a Git LFS pointer": Hostile(b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 60, "git lfs pull"),
    "version 1": Hostile(file({}, version=1), "version 1 of GGUF"),
    "big-endian": Hostile(file({}, version=3 << 24), "little-endian"),
    # counts and lengths that lie
    "2^40 tensors": Hostile(file(valid_fields(), tensor_count=1 << 40), "1,099,511,627,776 tensors"),
    "2^63 fields": Hostile(file({}, field_count=1 << 63), "metadata fields"),
    "one field more than there is": Hostile(file(valid_fields(), field_count=15), "damaged"),
    "one tensor more than there is": Hostile(file(valid_fields(), tensor_count=1), "damaged"),
    "a field name of 2^60 bytes": Hostile(file({}, field_count=1)[:24] + struct.pack("<Q", 1 << 60), "field name"),
    "a string of 2^60 bytes": _with("general.name", struct.pack("<IQ", STRING, 1 << 60), "general.name of"),
    "a string beyond the end": _with("general.name", struct.pack("<IQ", STRING, 1 << 19), "damaged"),
    "an array of 2^60 numbers": _with("a.b", array(U8, [], 1 << 60), "numbers; the limit"),
    "an array of 2^60 strings": _with("a.b", array(STRING, [], 1 << 60), "strings; the limit"),
    "a million strings in a sparse file": Hostile(
        file({"a.b": array(STRING, [], _MANY)}, data=0), "ends in the header|lacks the field", 24 + _MANY * 8
    ),
    "all strings and numbers that are allowed": Hostile(
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + text("a") + array(U64, [], _MANY) + b"\xff" * _MANY * 8
        + text("b") + array(STRING, [], _MANY) + text("ab") * _MANY + b"\0" * 64,
        "lacks the field general.architecture",
    ),
    "four thousand arrays": Hostile(
        file([(f"a.{number}", array(U64, [], 1 << 20)) for number in range(4000)]), "damaged", 1 << 30
    ),
    "a header of a gibibyte": Hostile(
        file([(f"a.{number}", value(STRING, "x" * 900_000)) for number in range(60)]), "more than 48 MiB"
    ),
    # metadata of the wrong kind
    "an array in an array": _with("a.b", array(ARRAY, [], 1), "array of type 9"),
    "an array of an unknown type": _with("a.b", array(99, [], 1), "array of type 99"),
    "a value of an unknown type": _with("a.b", struct.pack("<I", 77), "unknown type 77"),
    "a field twice": Hostile(file([*valid_fields().items(), ("llama.block_count", value(U32, 2))]), "twice"),
    "a field named as a path": _with("../../x", value(U32, 2), "malformed"),
    "text that is not UTF-8": _with("general.name", struct.pack("<I", STRING) + text(b"\xff\xfe"), "not UTF-8"),
    "an architecture that is a number": _with("general.architecture", value(U32, 7), "must be text"),
    "an unknown architecture": _with("general.architecture", value(STRING, "mamba"), "'mamba', which is not supported"),
    "no architecture": Hostile(valid(without=["general.architecture"]), "lacks the field general.architecture"),
    "a width that is text": _with("llama.embedding_length", value(STRING, "32"), "must be an integer"),
    "no heads": _with("llama.attention.head_count", value(U32, 0), "blocks of 0 heads"),
    "heads by block": _with("llama.attention.head_count", array(U32, [2]), "must be an integer"),
    "4 billion blocks": _with("llama.block_count", value(U32, (1 << 32) - 1), "describes 4294967295 blocks"),
    "fewer than no blocks": _with("llama.block_count", value(I32, -1), "describes -1 blocks"),
    "an epsilon that is not a number": _with(
        "llama.attention.layer_norm_rms_epsilon", value(F32, float("nan")), "not a finite number"
    ),
    "an infinite base of RoPE": _with("llama.rope.freq_base", value(F32, float("inf")), "not a finite number"),
    "a scaling of RoPE that is unknown": _with("llama.rope.scaling.type", value(STRING, "ntk"), "scales RoPE by 'ntk'"),
    "experts": _with("llama.expert_count", value(U32, 8), "llama.expert_count, which is not supported"),
    "one part of three": _with("split.count", value(U32, 3), "one of 3 parts"),
    "alignment 0": _with("general.alignment", value(U32, 0), "general.alignment is 0"),
    "alignment 2^31": _with("general.alignment", value(U32, 1 << 31), "general.alignment is 2147483648"),
    "alignment that is text": _with("general.alignment", value(STRING, "32"), "general.alignment is 32"),
    # tensors
    "a tensor named as a path": _one(tensor("../../etc/passwd", (8,)), "malformed name"),
    "a tensor named with a null byte": _one(tensor("a\0b", (8,)), "malformed name"),
    "a tensor with a name of 2^60 bytes": _one(struct.pack("<Q", 1 << 60), "tensor name of"),
    "a tensor without dimensions": _one(tensor(_ROW, ()), "has 0 dimensions"),
    "a tensor with 2^31 dimensions": _one(tensor(_ROW, (8,), dimensions=1 << 31), "2,147,483,648 dimensions"),
    "a tensor with an empty dimension": _one(tensor(_ROW, (8, 0)), "impossible shape"),
    "dimensions whose product overflows": _one(tensor(_ROW, (1 << 31, 1 << 31, 4)), "do not lie in"),
    "a dimension of 2^63": _one(tensor(_ROW, (1 << 63,)), "impossible shape"),
    "an offset beyond the end": _one(tensor(_ROW, (8,), offset=1 << 20), "do not lie in"),
    "an offset that overflows": _one(tensor(_ROW, (8,), offset=(1 << 64) - 32), "do not lie in"),
    "an offset that is not aligned": _one(tensor(_ROW, (8,), offset=4), "multiple of 32"),
    "data that is cut off": Hostile(valid()[:-1], "do not lie in"),
    "a tensor twice": Hostile(file(valid_fields(), [tensor(_ROW, (8,))] * 2, 64), "'x.weight' twice"),
    "a tensor over another": Hostile(
        file(valid_fields(), [tensor(_ROW, (8, 2)), tensor("y.weight", (8,), offset=32)], 64), "lies over another"
    ),
    "an unknown storage type": _one(tensor(_ROW, (8,), kind=4000), "type 4000 of ggml"),
    "a row that is not whole blocks": _one(tensor(_ROW, (33,), kind=2), "not whole blocks of Q4_0"),
    "no embeddings": Hostile(file(valid_fields(), [tensor(_ROW, (8,))], 64), "lacks the weights of token_embd"),
    # the tokenizer
    "one token too many": _with("tokenizer.ggml.tokens", array(STRING, [""] * ((1 << 19) + 1)), "tokens and"),
    "no tokens": _with("tokenizer.ggml.tokens", array(STRING, []), "0 tokens"),
    "tokens that are numbers": _with("tokenizer.ggml.tokens", array(U32, range(8)), "not an array of str"),
    "kinds for other tokens": _with("tokenizer.ggml.token_type", array(I32, [1]), "8 tokens and 1 kinds"),
    "scores for other tokens": _with("tokenizer.ggml.scores", array(F32, [1.0]), "1 scores for 8 tokens"),
    "no scores": Hostile(valid(without=["tokenizer.ggml.scores"]), "lacks the field tokenizer.ggml.scores"),
    "the same token twice": _with("tokenizer.ggml.tokens", array(STRING, ["a"] * 8), "same token twice"),
    "a BOS beyond the tokens": _with("tokenizer.ggml.bos_token_id", value(U32, 1 << 31), "but 8 tokens"),
    "a chat template of 2 MiB": _with("tokenizer.chat_template", value(STRING, "x" * (2 << 20)), "chat_template of"),
    "a chat template that is a number": _with("tokenizer.chat_template", value(U32, 1), "must be text"),
    "a flag that is a number": _with("tokenizer.ggml.add_bos_token", value(U32, 1), "must be true or false"),
    "a merge of one token": Hostile(
        valid({
            "tokenizer.ggml.model": value(STRING, "gpt2"), "tokenizer.ggml.pre": value(STRING, "gpt-2"),
            "tokenizer.ggml.merges": array(STRING, ["ab"]),
        }),
        "not two tokens",
    ),
}  # fmt: skip
