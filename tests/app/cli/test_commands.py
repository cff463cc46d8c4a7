"""Commands.

Only answers on stdout, one line and exit code 2 for user errors, JSON with fixed names.
"""

import io
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from app_cases import SpecMaker
from tiny_tokenizers import chat_folder

from abq_core.planning.estimate import Available
from app.cli.main import app, main
from app.jobs.executors.local import PROJECT_ROOT
from app.services import Services
from storage.jobs import Job

EVALUATION = {
    "precision", "method", "perplexity", "perplexity_stderr", "kl_mean", "same_top", "stored_bits", "weight_bytes",
}  # fmt: skip
KERNEL = {"precision", "n", "k", "m", "engine", "path", "median_us", "iqr_us", "exact", "speedup"}
Ask = Callable[..., dict[str, object]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run a command with --json and parse its answer."""

    def run(*words: str) -> dict[str, object]:
        code = main([*words, "--json"])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def in_finished(folder: Path, finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch) -> tuple[Services, Job]:
    """Services with a finished run; commands of the test use its data folder."""
    monkeypatch.setenv("ABQ_DATA_DIR", str(finished[0].settings.data_dir))
    return finished


def test_start_up_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'gradio', 'pandas', 'plotly', 'sqlalchemy', 'numba'}"
    code = f"import sys, app.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    assert done.stdout.strip() == "[]"


def commands(group: Any, before: str = "") -> Iterator[str]:
    """The commands below a typer or click group, with those of its subgroups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


@pytest.mark.parametrize("command", [*commands(typer.main.get_command(app))])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"abq {command}" in " ".join(capsys.readouterr().out.split())


def test_calibrate_and_wait_prints_only_json_on_stdout(folder: Path, tiny_spec: SpecMaker) -> None:
    spec = tiny_spec()
    words = ["calibrate", spec.model, "--precision", "W2*A8", "--method", "abq", "--data", spec.data]
    amounts = ["--segments", "2", "--seq-len", "32", "--epochs", "1", "--seed", "3", "--switch", "akl=false"]
    command = [sys.executable, "-m", "app.cli", *words, *amounts, "--wait", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT_ROOT, check=True)
    answer = json.loads(done.stdout)
    assert answer.keys() >= EVALUATION | {"run", "job", "state"}
    assert (answer["state"], answer["precision"], answer["method"]) == ("succeeded", "W2*A8", "abq")
    assert answer["stored_bits"] == 3 and answer["perplexity"] > 1 and answer["perplexity_stderr"] > 0
    assert "W2*A8 abq" in done.stderr


def test_calibrate_without_wait_queues_the_job_for_a_worker(folder: Path, ask: Ask, tiny_spec: SpecMaker) -> None:
    spec = tiny_spec()
    words = ["calibrate", spec.model, "--precision", "W4A4", "--method", "rtn", "--data", spec.data]
    queued = ask(*words, "--segments", "2", "--seq-len", "32")
    assert queued.keys() == {"run", "job", "state"} and queued["state"] == "queued"
    deadline = time.monotonic() + 900
    while (job := ask("jobs", "show", str(queued["job"])))["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
    assert job["state"] == "succeeded", job["log"]


def test_calibrate_dry_run_shows_the_cost_and_queues_nothing(
    folder: Path, ask: Ask, tiny_spec: SpecMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tiny_spec()
    words = ["calibrate", spec.model, "--precision", "W4A4", "--data", spec.data, "--segments", "2", "--seq-len", "32"]
    cost = ask(*words, "--dry-run")
    assert (cost["method"], cost["state"], cost["run"], cost["device_memory_bytes"]) == ("abq", "new", None, 0)
    assert 0 < cost["quantized_bytes"] and 0 < cost["peak_memory_bytes"] and 0 < cost["run_bytes"]
    assert main([*words, "--dry-run"]) == 0
    assert "It would be queued: " in capsys.readouterr().out
    too_much = [*words, "--dry-run", "--segments", "4096", "--seq-len", "2048"]
    assert main(too_much) == 2 and "tokens" in capsys.readouterr().err  # refused as it would be without --dry-run
    assert ask("jobs", "list")["jobs"] == [] and ask("runs", "list")["runs"] == []


def test_calibrate_dry_run_is_about_a_new_run_and_shows_the_cost_of_a_refused_one(
    in_finished: tuple[Services, Job], ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, job = in_finished
    words = shlex.split(str(ask("runs", "show", job.run_id)["command"]))[1:]
    words = [word for word in words if word != "--wait"]
    assert ask(*words, "--dry-run")["run"] is None  # calibrating again makes a second run
    monkeypatch.setattr("app.services.free_resources.available", lambda *_: Available(1 << 20, 1 << 40))
    assert main([*words, "--dry-run"]) == 2
    shown = capsys.readouterr().out
    assert "It would be refused." in shown and "W4A4" in shown


def test_a_run_is_listed_evaluated_generated_from_and_exported(
    in_finished: tuple[Services, Job], ask: Ask, text_file: Path, tmp_path: Path
) -> None:
    _, job = in_finished
    assert job.run_id in [row["run"] for row in ask("runs", "list")["runs"]]
    assert ask("jobs", "list")["jobs"][0]["state"] == "succeeded"
    shown = ask("runs", "show", job.run_id)
    assert sum(bucket["share"] for bucket in shown["kl_buckets"]) == pytest.approx(1)
    assert shown.keys() >= EVALUATION and len(shown["blocks"]) == 2 and "--precision W4A4" in shown["command"]
    amount = ("--data", str(text_file), "--segments", "4", "--seq-len", "32")
    assert ask("eval", job.run_id, *amount).keys() >= EVALUATION
    full = ask("eval", str(job.spec["model"]), *amount)
    assert (full["precision"], full["method"], full["kl_mean"], full["same_top"]) == ("FP16", "none", 0, 1)
    written = ask("generate", job.run_id, "--prompt", "The module", "--max-new-tokens", "4", "--temperature", "0.8")
    assert len(written["tokens"]) <= 4 and written["text"] == "".join(token["text"] for token in written["tokens"])
    assert all(token["kl"] is None for token in written["tokens"]), "full precision is not asked for"
    measured = ask("generate", job.run_id, "--prompt", "The module", "--max-new-tokens", "4", "--kl")
    assert all(token["kl"] > 0 for token in measured["tokens"])
    exported = ask("runs", "export", job.run_id, "--to", str(tmp_path))
    assert (Path(exported["path"]) / "spec.json").is_file()
    report = ask("report", job.run_id, "--out", str(tmp_path / "report.html"))
    assert Path(report["path"]).read_text("utf-8").startswith("<!doctype html>")


def test_eval_follows_a_protocol_and_says_what_it_read(
    in_finished: tuple[Services, Job], ask: Ask, text_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, job = in_finished
    model, other = str(job.spec["model"]), tmp_path / "other.txt"
    other.write_text("A text of its own, line by line.\n" * 60)
    paper = ask("eval", job.run_id, "--data", str(other), "--protocol", "paper", "--seq-len", "64")
    assert (paper["protocol"], paper["text"]["protocol"], paper["text"]["split"]) == ("paper", "paper", "whole")
    assert paper["text"]["windows"] == list(range(paper["segments"])) and paper["tokens"] == 64 * paper["segments"]
    assert paper["kl_floor"] > 0 and [bucket["low"] for bucket in paper["kl_buckets"]] == [0, 0.5, 0.9, 0.99]
    default = ask("eval", model, "--data", str(other), "--protocol", "paper")
    assert default["seq_len"] == 128, "2,048 tokens, but no more than the model's context"
    every = ask("eval", model, "--data", str(text_file), "--segments", "all", "--seq-len", "32")
    assert (every["protocol"], every["segments"]) == ("windows", every["text"]["tokens"] // 32)

    assert main(["eval", job.run_id, "--data", str(text_file), "--segments", "4", "--seq-len", "32"]) == 0
    out, err = capsys.readouterr()
    assert "floor" in out and "Confidence of full precision" in out and "below 50 %" in out and "Read 4 windows" in out
    assert "only the last tenth of the file, because the run was calibrated on it" in err
    assert main(["eval", model, "--data", str(other), "--seq-len", "64"]) == 0
    assert "Read the whole file." in capsys.readouterr().err
    assert main(["eval", model, "--data", str(text_file), "--held-out", "--segments", "4", "--seq-len", "32"]) == 0
    assert "Read 4 segments of only the last tenth of the file." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "papers"], "--protocol papers: use windows or paper."),
        (["--segments", "1"], "--segments 1: use a number from 2 on, or all."),
        (["--segments", "many"], "--segments many: use a number from 2 on, or all."),
        (["--protocol", "paper", "--segments", "8"], "reads every window. Leave --segments out."),
        (["--tasks", "piqa", "--data", "wikitext2"], "--tasks bring their own text: leave --data"),
        (["--limit", "5"], "--limit and --engine belong to --tasks."),
        (["--engine", "packed"], "--limit and --engine belong to --tasks."),
    ],
)
def test_wrong_protocols_and_amounts_are_named(
    in_finished: tuple[Services, Job], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", in_finished[1].run_id, *words]) == 2
    assert message in capsys.readouterr().err


def test_answers_without_json_are_tables(in_finished: tuple[Services, Job], capsys: pytest.CaptureFixture[str]) -> None:
    _, job = in_finished
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert job.run_id in out and re.search(r"\d+\.\d\d ± \d+\.\d\d", out) and "MiB" in out
    assert main(["generate", job.run_id, "--prompt", "The module", "--max-new-tokens", "3"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("The module") and "tokens/s" in err and "tokens/s" not in out and "KL" not in err
    assert main(["generate", job.run_id, "--prompt", "The module", "--max-new-tokens", "3", "--kl"]) == 0
    assert "mean KL to full precision 0." in capsys.readouterr().err


def test_a_chat_model_answers_one_message_or_the_lines_of_stdin(
    folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(chat_folder("qwen3", folder / "chat"))
    amount = ("--max-new-tokens", "4")
    one = ask("generate", model, "--chat", "Hello", "--system", "Be brief.", *amount)
    assert [message["role"] for message in one["messages"]] == ["system", "user", "assistant"]
    assert one["mode"] == "chat" and one["messages"][-1]["content"] == one["text"] and "complete" in one
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nAnd now?\n"))
    two = ask("generate", model, "--chat", "-", *amount)
    assert [message["content"] for message in two["messages"][::2]] == ["Hello", "And now?"]
    assert two["messages"][3]["content"] == two["text"]
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd now?\n"))
    assert main(["generate", model, "--chat", "-", *amount]) == 0
    out, err = capsys.readouterr()
    assert out == f"{two['messages'][1]['content']}\n{two['text']}\n" and err.count("tokens/s") == 2
    continued = ask("generate", model, "--prompt", "Hello", *amount)
    assert continued["mode"] == "continuation" and continued["prompt"] == "Hello"


def test_kernels_are_timed_and_checked(in_finished: tuple[Services, Job], ask: Ask) -> None:
    words = ("--precisions", "W2A8", "--shapes", "128x192", "--m", "1", "--threads", "1")
    measured = ask("bench", "kernels", *words)["measurements"]
    engine = next(row for row in measured if row["engine"] == "abq")
    assert engine.keys() >= KERNEL and engine["exact"] and engine["speedup"].keys() >= {"torch-fp32", "torch-int8"}


def test_the_engine_is_compiled_ahead_and_once(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    first = ask("warmup", "--precisions", "W2A8,W4A16")
    assert "dequantized-fp32" in first["paths"] and first["seconds"] > 0
    assert ask("warmup", "--precisions", "W2A8,W4A16")["compiled"] == 0
    assert main(["warmup", "--precisions", "W2A8"]) == 0
    assert capsys.readouterr().out.startswith("All functions were already compiled in ")
    assert main(["warmup", "--precisions", "W2X8"]) == 2


def test_jobs_are_cancelled_and_resumed(folder: Path, ask: Ask, services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec("W4A4", "rtn"))
    assert ask("jobs", "cancel", job.id)["state"] == "cancelled"
    services.jobs.resume(job.run_id)
    assert ask("jobs", "show", job.run_id)["state"] == "queued"
    assert ask("runs", "delete", job.run_id, "--yes") == {"deleted": job.run_id}


def test_quickstart_evaluates_all_runs_and_writes_a_report(folder: Path, ask: Ask, tiny_llama: Path) -> None:
    amount = ["--segments", "2", "--seq-len", "32", "--epochs", "1", "--eval-segments", "2", "--eval-seq-len", "64"]
    answer = ask("quickstart", "--model", str(tiny_llama), *amount)
    names = [(row["precision"], row["method"]) for row in answer["rows"]]
    assert names == [("FP16", "none"), ("W4A4", "rtn"), ("W4A4", "abq"), ("W2*A8", "rtn"), ("W2*A8", "abq")]
    assert all(row.keys() >= EVALUATION for row in answer["rows"])
    for row, better in ((1, 2), (2, 0), (3, 4), (4, 0)):
        low, high = answer["rows"][better], answer["rows"][row]
        assert high["gap"] == pytest.approx(high["perplexity"] - low["perplexity"]) and high["gap_stderr"] > 0
        assert high["above"] == low["method"]
    assert Path(str(answer["report"])).is_file() and answer["seconds"] > 0


def mistakes(tmp_path: Path, tiny: str) -> dict[str, tuple[list[str], str]]:
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny, pickled, ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")
    empty = tmp_path / "empty"
    empty.mkdir()
    long = tmp_path / "long"
    shutil.copytree(tiny, long)
    for file, field in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
        (long / file).write_text(json.dumps(json.loads((long / file).read_text()) | {field: 131072}))
    calibrate = ["calibrate", tiny, "--precision"]
    large = ["--segments", "4096", "--seq-len", "131072"]
    return {
        "precision": ([*calibrate, "W9A9"], "9 weight bits"),
        "method": ([*calibrate, "W4A4", "--method", "magic"], "magic"),
        "switch": ([*calibrate, "W4A4", "--switch", "akl"], "--switch"),
        "data": ([*calibrate, "W4A4", "--data", "missing.txt"], "missing.txt"),
        "empty folder": (["calibrate", str(empty), "--precision", "W4A4"], "empty"),
        "pickle": (["calibrate", str(pickled), "--precision", "W4A4"], "safetensors"),
        "context": ([*calibrate, "W4A4", *large], "longer than the context"),
        "memory": (["calibrate", str(long), "--precision", "W4A4", *large], "memory"),
        "prompt": (["generate", tiny, "--prompt", "word " * 400], "context"),
        "prompt and chat": (["generate", tiny, "--prompt", "a", "--chat", "b"], "either --prompt"),
        "neither": (["generate", tiny], "either --prompt"),
        "system": (["generate", tiny, "--prompt", "a", "--system", "b"], "--system belongs to --chat"),
        "no template": (["generate", tiny, "--chat", "Hello"], "no chat template"),
        "empty prompt": (["generate", tiny, "--prompt", " "], "empty"),
        "run": (["eval", "r-0123456789"], "r-0123456789"),
        "job": (["jobs", "show", "j-0123456789"], "j-0123456789"),
        "report": (["report"], "no finished runs"),
        "shapes": (["bench", "kernels", "--shapes", "4096"], "4096"),
        "bench precision": (["bench", "kernels", "--precisions", "W9A1", "--shapes", "64x64"], "W9A1"),
        "device": (["bench", "kernels", "--device", "tpu"], "cpu or cuda"),
        "profile device": (["bench", "decode", "--profile", "--device", "cuda"], "--device cpu"),
        "decode device": (["bench", "decode", "--device", "tpu"], "cpu or cuda"),
        "host": (["app", "--host", "0.0.0.0"], "--auth"),
        "missing option": (["calibrate", tiny], "--precision"),
        "command": (["nonsense"], "nonsense"),
        "number": ([*calibrate, "W4A4", "--segments", "many"], "--segments"),
    }


def test_mistakes_get_one_line_and_exit_code_2(
    folder: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, (words, said) in mistakes(folder, str(tiny_llama)).items():
        code = main(words)
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), f"{name}: {code} {out} {err}"
        assert err.startswith("abq: ") and err.count("\n") == 1 and said in err, f"{name}: {err}"
    assert main(["jobs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"jobs": []}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("kernels", "decode"):
        assert main(["bench", what, "--device", "cuda"]) == 2
        assert "no CUDA device" in capsys.readouterr().err


def test_a_port_in_use_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["app", "--port", port]) == 2
    err = capsys.readouterr().err
    assert port in err and "--port" in err and "Traceback" not in err


def test_an_invalid_address_of_a_proxy_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert main(["app", "--behind-proxy"]) == 2
    err = capsys.readouterr().err
    assert "FORWARDED_ALLOW_IPS" in err and "'*'" in err and "10.0.0.2" in err and err.count("\n") == 1


@pytest.mark.parametrize("bad", ["ABQ_DATA_DIR", "ABQ_DATABASE_URL", "ABQ_THREADS"])
def test_invalid_settings_are_reported(
    bad: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("not a database, and longer than the header of one, so that it is looked at")
    monkeypatch.setenv(bad, f"sqlite:///{folder / 'file'}" if bad == "ABQ_DATABASE_URL" else str(folder / "file"))
    assert main(["runs", "list"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and str(folder / "file") in err and err.count("\n") == 1


def test_an_unexpected_error_is_reported_as_a_bug_with_a_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr("app.services.runs.RunService.frame", broken)
    assert main(["runs", "list"]) == 1
    err = capsys.readouterr().err
    assert "internal error, KeyError" in err and err.count("\n") == 1
    assert "Traceback" in (folder / "data" / "logs" / "errors.log").read_text("utf-8")


def test_a_full_disk_is_reported(
    folder: Path, in_finished: tuple[Services, Job], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("app.files.os.fsync", full)
    assert main(["report", "--out", str(folder / "report.html")]) == 2
    assert "disk is full" in capsys.readouterr().err and not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quick", "--threads", "8"], "--quick sets --precisions, --shapes, --m and --threads"),
        (["--compile-only", "--shapes", "8x8"], "--compile-only times nothing"),
        (["--compile-only", "--quick"], "--compile-only times nothing"),
        (["--arch", "90a"], "--arch 90a needs --compile-only."),
    ],
)
def test_kernel_options_that_would_be_ignored_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "kernels", *words]) == 2
    assert message in capsys.readouterr().err
