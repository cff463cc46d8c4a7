"""Hostile GGUF files: each is a named error within two seconds and 200 MB, before a library opens the file."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hostile_gguf import BOOL, F32, HIDDEN, HOSTILE, I32, SHAPES, STRING, Hostile, array, valid, valid_fields, value

from abq_core.models import errors
from abq_core.models.errors import ModelError, ModelNotFoundError, UnsafeModelError
from abq_core.models.files import check_config
from abq_core.models.gguf.folder import converted_folder
from abq_core.models.loading import load_model
from abq_core.models.shape import model_shape
from abq_core.planning.preflight import check_model

ROOT = Path(__file__).parents[4]
SECONDS, MEGABYTES = 20.0, 200  # 2 on an idle machine
# One process reads every file, so that the memory of torch and of the tests does not count.
_READ = """
import json, re, sys, time
from pathlib import Path
from abq_core.models.errors import ModelError
from abq_core.models.gguf.folder import converted_folder
assert "torch" not in sys.modules and "transformers" not in sys.modules and "gguf" not in sys.modules
for name in sys.stdin.read().splitlines():
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    started = time.process_time()
    try:
        converted_folder(Path(name))
        error = "no error"
    except Exception as found:
        error = f"{type(found).__name__}: {found}"
    peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps([error, time.process_time() - started, peak]), flush=True)
"""


def write(hostile: Hostile, file: Path) -> Path:
    file.write_bytes(hostile.content)
    if hostile.size > len(hostile.content):
        os.truncate(file, hostile.size)  # sparse
    return file


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, float]]:
    """The error, seconds and peak memory in MB of every hostile file."""
    folder = tmp_path_factory.mktemp("hostile")
    files = [write(hostile, folder / f"{number}.gguf") for number, hostile in enumerate(HOSTILE.values())]
    done = subprocess.run(
        [sys.executable, "-c", _READ],
        input="\n".join(map(str, files)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(HOSTILE, map(tuple, lines), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_named_error(answers: dict[str, tuple[str, float, float]], name: str) -> None:
    error, seconds, peak = answers[name]
    kind, _, message = error.partition(": ")
    assert issubclass(getattr(errors, kind, type(None)), ModelError), error
    assert pytest.approx(0, abs=SECONDS) == seconds
    assert peak < MEGABYTES
    found = ModelError(message)
    with pytest.raises(ModelError, match=HOSTILE[name].message):
        raise found
    assert ".gguf" in message and len(message) < 1000


def test_the_file_that_the_hostile_ones_change_loads(tmp_path: Path) -> None:
    file = tmp_path / "good.gguf"
    file.write_bytes(valid())
    assert load_model(str(file)).model.config.hidden_size == HIDDEN


def test_a_header_cut_at_any_byte_is_an_error(tmp_path: Path) -> None:
    content = valid()
    file = tmp_path / "cut.gguf"
    for end in range(0, len(content) - 1, 7):
        file.write_bytes(content[:end])
        with pytest.raises(ModelError):
            converted_folder(file)


def test_changed_bytes_are_a_model_or_a_named_error(tmp_path: Path) -> None:
    content = valid()
    header = len(content) - 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())
    rng = random.Random(0)
    read = 0
    for number in range(400):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(header)] = rng.randrange(256)
        file = tmp_path / f"{number}.gguf"
        file.write_bytes(changed)
        try:
            converted_folder(file)
            read += 1
        except ModelError:
            pass
        file.unlink()
    assert 0 < read < 400


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("llama.embedding_length", value(4, 1 << 19), "lacks weights|must be between"),
        ("llama.context_length", value(4, (1 << 32) - 1), "max_position_embeddings"),
        ("llama.feed_forward_length", value(4, 64), "lacks weights"),
        ("llama.attention.head_count_kv", value(4, 2), "lacks weights"),
        ("llama.attention.head_count_kv", value(4, 0), "lacks weights|cannot be loaded"),
        ("llama.attention.head_count", value(4, 7), "cannot be loaded|lacks weights"),
    ],
)
def test_metadata_that_does_not_fit_the_tensors_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.gguf"
    file.write_bytes(valid({name: content}))
    with pytest.raises(ModelError, match=message):
        load_model(str(file))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({name: shape for name, shape in SHAPES.items() if name != "blk.0.attn_q.weight"}, "lacks weights"),
        (SHAPES | {"blk.0.attn_rot_embd.weight": (HIDDEN,)}, "'blk.0.attn_rot_embd.weight'"),
        (SHAPES | {"blk.7.attn_q.weight": (HIDDEN, HIDDEN)}, "'blk.7.attn_q.weight'"),
        (SHAPES | {"blk.0.ffn_up.weight": (HIDDEN * 2, HIDDEN)}, r"shape \(32, 64\)"),
        (SHAPES | {"token_embd.weight": (HIDDEN, 4)}, "8 tokens but 4 embeddings"),
    ],
)
def test_other_tensors_are_named(shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.gguf"
    file.write_bytes(valid(shapes=shapes))
    with pytest.raises(ModelError, match=message):
        load_model(str(file))


@pytest.mark.parametrize("raw", [b"\0\0\xc0\x7f", b"\0\0\x80\xff"])
def test_values_that_are_not_finite_are_named(raw: bytes, tmp_path: Path) -> None:
    file = tmp_path / "nan.gguf"
    file.write_bytes(valid()[:-4] + raw)
    with pytest.raises(ModelError, match=r"'blk\.0\.ffn_down\.weight' holds values that are not finite"):
        check_model(model_shape(str(file)))


def test_many_added_tokens_are_refused_by_the_trial(tmp_path: Path) -> None:
    tokens = [f"t{number}" for number in range(20_000)]
    fields = {
        "tokenizer.ggml.tokens": array(STRING, tokens),
        "tokenizer.ggml.scores": array(F32, [0.0] * len(tokens)),
        "tokenizer.ggml.token_type": array(I32, [3] * len(tokens)),
    }
    file = tmp_path / "many.gguf"
    file.write_bytes(valid(fields))
    with pytest.raises(ModelError, match=r"many\.gguf.* adds 20,000 tokens"):
        check_config(converted_folder(file))


def test_long_tokens_take_no_time(tmp_path: Path) -> None:
    tokens = ["a" * length for length in (1, *range(2, 60), 500_000, 500_001)]
    fields = {
        "tokenizer.ggml.tokens": array(STRING, tokens),
        "tokenizer.ggml.scores": array(F32, [0.0] * len(tokens)),
        "tokenizer.ggml.token_type": array(I32, [1] * len(tokens)),
    }
    file = tmp_path / "long.gguf"
    file.write_bytes(valid(fields))
    merges = json.loads((converted_folder(file) / "tokenizer.json").read_text())["model"]["merges"]
    assert len(merges) == sum(range(1, 59))


def test_a_chat_template_is_not_rendered_when_the_model_is_loaded(tmp_path: Path) -> None:
    endless = "{% for a in range(10**9) %}{% for b in range(10**9) %}{% endfor %}{% endfor %}"
    file = tmp_path / "endless.gguf"
    file.write_bytes(valid({"tokenizer.chat_template": value(STRING, endless)}))
    assert load_model(str(file)).tokenizer.chat_template == endless


def test_paths_that_are_no_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "loop.gguf").symlink_to(tmp_path / "loop.gguf")
    for name in ("fifo", "folder", "loop", "missing"):
        with pytest.raises(ModelNotFoundError):
            load_model(str(tmp_path / f"{name}.gguf"))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "shrinks.gguf"
    file.write_bytes(valid())
    folder = converted_folder(file)
    stat = file.stat()
    with file.open("r+b") as stream:
        stream.truncate(stat.st_size - 1024)
    with pytest.raises(ModelError, match=r"damaged|shorter"):
        check_config(folder), load_model(str(file))


def test_flags_and_defaults_are_read(tmp_path: Path) -> None:
    file = tmp_path / "flags.gguf"
    file.write_bytes(valid({"tokenizer.ggml.add_bos_token": value(BOOL, False)}))
    assert load_model(str(file)).tokenizer("a")["input_ids"] == [7]
    assert "general.architecture" in valid_fields() and issubclass(UnsafeModelError, ModelError)
