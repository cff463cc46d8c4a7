"""Sizes in a model's JSON files: refused in 2 s of processor time with less than 200 MB, or harmless."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attack_cases import ROOT
from family_cases import family_folder
from model_folder_cases import edit_json
from tokenizer_cases import chain, replace_step, special_token, with_tokenizer

pytestmark = pytest.mark.attack(row=4)

SECONDS, MEGABYTES = 20.0, 200  # 2 s on an idle machine
_IN_A_PROCESS = """
import json, resource, sys, threading, time
import psutil
from abq_core.models.shape import model_shape
from abq_core.models.loading import load_model
load_model("builtin")
peak, done = [0], threading.Event()
me = psutil.Process()
mine = me.cmdline()
def used():
    total = me.memory_info().rss
    for child in me.children(recursive=True):
        try:
            if child.cmdline() != mine:  # until a new process runs its program, its memory is this one's
                total += child.memory_info().rss
        except psutil.Error:
            pass
    return total
before = used()
def watch():
    while not done.wait(0.01):
        peak[0] = max(peak[0], used() - before)
threading.Thread(target=watch, daemon=True).start()
rows = []
for folder in sys.argv[2:]:
    peak[0] = 0
    times = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    try:
        for read in ({"shape": model_shape, "load": load_model}[sys.argv[1]],):
            read(folder)
        answer = "opened"
    except ValueError as error:
        answer = str(error)
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    spent = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(times, after))
    rows.append([folder, answer, spent, peak[0] / 1e6])
done.set()
print(json.dumps(rows))
"""


def refusals(folders: list[Path], read: str = "shape") -> list[tuple[str, str, float, float]]:
    """Open each folder in a process: its name, the message of the refusal, seconds, and megabytes at the peak."""
    command = [sys.executable, "-c", _IN_A_PROCESS, read, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=True)
    return [(Path(row[0]).name, *row[1:]) for row in json.loads(done.stdout.splitlines()[-1])]


def check(rows: list[tuple[str, str, float, float]], words: dict[str, str]) -> None:
    """Assert that every folder was refused with its words, quickly and with little memory."""
    assert len(rows) == len(words)
    for name, message, seconds, megabytes in rows:
        assert words[name] in message, f"{name}: {message}"
        assert seconds < SECONDS and megabytes < MEGABYTES, f"{name}: {seconds:.1f} s, {megabytes:.0f} MB"


LLAMA: dict[str, tuple[dict[str, Any], str]] = {
    "labels": ({"num_labels": 10**6}, "num_labels 1000000"),
    "named labels": ({"id2label": {str(i): "x" for i in range(100_000)}}, "id2label"),
    "end tokens": ({"eos_token_id": list(range(10**6))}, "eos_token_id"),
    "width": ({"hidden_size": 1 << 23}, "hidden_size"),
    "head": ({"head_dim": 1 << 23}, "head_dim"),
    "blocks": ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    "rotary": ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1e9}}, "1000"),
    "factors": ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0] * 10**6}}, "short_factor"),
    "not a number": ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
    "long text": ({"hidden_act": "x" * 10**6}, "hidden_act"),
    "nested": ({"rope_parameters": {"a": {"b": {"c": 1}}}}, "nested too deeply"),
    "block types": ({"layer_types": ["full_attention"] * 10**5}, "layer_types"),
}


def test_sizes_in_a_config_are_refused(tiny_llama: Path, tmp_path: Path, tried: Callable[[int], None]) -> None:
    tried(len(LLAMA))
    for name, (change, _) in LLAMA.items():
        shutil.copytree(tiny_llama, tmp_path / name)
        edit_json(tmp_path / name / "config.json", lambda config, change=change: config.update(change))
    check(refusals([tmp_path / name for name in LLAMA]), {name: words for name, (_, words) in LLAMA.items()})


FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "neox rotary": ("gpt_neox", {"rotary_pct": 1e9, "rope_parameters": None}, "rotary_pct"),
    "mixtral experts": ("mixtral", {"num_local_experts": 1024, "num_hidden_layers": 64}, "65,536 experts"),
    "qwen experts": ("qwen3_moe", {"num_experts": 1024, "num_hidden_layers": 64}, "65,536 experts"),
    "falcon heads": ("falcon", {"num_attention_heads": 1 << 23}, "num_attention_heads"),
    "opt projection": ("opt", {"word_embed_proj_dim": 1 << 23}, "word_embed_proj_dim"),
    "phi rotary": ("phi", {"partial_rotary_factor": 1e9}, "partial_rotary_factor"),
}


def test_sizes_of_every_kind_of_family_are_refused(
    tiny_llama: Path, tmp_path: Path, tried: Callable[[int], None]
) -> None:
    tried(len(FAMILIES))
    for name, (family, change, _) in FAMILIES.items():
        family_folder(family, tmp_path / name, tiny_llama)
        edit_json(tmp_path / name / "config.json", lambda config, change=change: config.update(change))
    check(refusals([tmp_path / name for name in FAMILIES]), {name: words for name, (*_, words) in FAMILIES.items()})


def many_tokens(content: dict[str, Any]) -> None:
    content["added_tokens"] += [special_token(300 + i) for i in range(200_000)]


def long_chain(content: dict[str, Any]) -> None:
    content["normalizer"] = chain(*[replace_step({"String": "a"}, "a" * 10)] * 8)


def growing_regex(content: dict[str, Any]) -> None:
    content["normalizer"] = chain(*[replace_step({"Regex": "[^b]"}, "aaaa")] * 10)


def many_steps(content: dict[str, Any]) -> None:
    content["normalizer"] = chain(*[replace_step({"String": "a"}, "b")] * 10_000)


def long_frame(content: dict[str, Any]) -> None:
    token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*[token] * 100_000, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
    }


TOKENIZERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "many tokens": (many_tokens, "tokens; the limit is"),
    "long chain": (long_chain, "times as long"),
    "growing regex": (growing_regex, "times as long"),
    "many steps": (many_steps, "steps"),
    "long frame": (long_frame, "post_processor"),
}


def test_hostile_tokenizers_are_refused(tiny_llama: Path, tmp_path: Path, tried: Callable[[int], None]) -> None:
    tried(len(TOKENIZERS) + 2)
    folders = [with_tokenizer(tiny_llama, tmp_path / name, change) for name, (change, _) in TOKENIZERS.items()]
    settings = shutil.copytree(tiny_llama, tmp_path / "settings")
    names = [f"<|extra {i}|>" for i in range(200_000)]
    edit_json(settings / "tokenizer_config.json", lambda c: c.update(additional_special_tokens=names))
    generation = shutil.copytree(tiny_llama, tmp_path / "generation")
    edit_json(generation / "generation_config.json", lambda c: c.update(eos_token_id=list(range(10**6))))
    words = {name: words for name, (_, words) in TOKENIZERS.items()}
    words |= {"settings": "additional_special_tokens", "generation": "eos_token_id"}
    check(refusals([*folders, Path(settings), Path(generation)], read="load"), words)


def test_a_tokenizer_that_runs_out_of_time_or_memory_is_stopped(tiny_llama: Path, tmp_path: Path) -> None:
    from abq_core.models.checks import tokenizer_trial

    file = tiny_llama / "tokenizer.json"
    command = [sys.executable, "-P", tokenizer_trial.__file__, str(file)]
    slow = subprocess.run([*command, "0.001", str(1 << 30)], capture_output=True, check=False)
    assert slow.returncode == -signal.SIGPROF
    small = subprocess.run([*command, "10", str(6 << 20)], capture_output=True, check=False)
    assert b"largest_id" not in small.stdout
    fine = subprocess.run([*command, "10", str(1 << 30)], capture_output=True, check=True)
    assert json.loads(fine.stdout) == {"largest_id": 299}
