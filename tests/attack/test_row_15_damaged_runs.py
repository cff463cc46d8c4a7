"""Row 15: damage to any file of a run is found by verify, named in every command, and repaired from the spec."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from attack_cases import Command, Commands, FinishedRun, assert_sentence

pytestmark = pytest.mark.attack(row=15)


def files(run: FinishedRun) -> dict[str, str]:
    folder = run.data / "runs" / run.run
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def damage(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


def test_verify_finds_damage_to_every_file(
    abq_many: Commands, finished_run: FinishedRun, tried: Callable[[int], None]
) -> None:
    from app.runs.run_check import verify
    from app.services import open_services
    from app.settings import Settings

    services = open_services(Settings.from_environment({"ABQ_DATA_DIR": str(finished_run.data), "ABQ_THREADS": "1"}))
    run, runs_dir = services.runs.get(finished_run.run), services.settings.runs_dir
    folder = runs_dir / run.id
    names = [name for name in files(finished_run) if name != "spec.json"]
    assert len(names) > 8 and not verify(services.storage.runs, runs_dir, run)
    for name in [*names, "spec.json"]:
        kept = (folder / name).read_bytes()
        for change in (damage, Path.unlink):
            if name == "files.json" and change is Path.unlink:
                continue  # runs of older versions have none
            if name == "spec.json" and change is damage:
                (folder / name).write_text("{")
            else:
                change(folder / name)
            assert verify(services.storage.runs, runs_dir, run), f"{change.__name__} {name}"
            (folder / name).write_bytes(kept)
    tried(2 * len(names) + 1)


@pytest.mark.parametrize("broken", [b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b""])
def test_broken_files_are_named_in_sentences(
    broken: bytes, abq_many: Commands, finished_run: FinishedRun, tmp_path: Path
) -> None:
    folder = finished_run.data / "runs" / finished_run.run
    for path in [*folder.glob("*.json"), *folder.glob("diagnostics/*"), *folder.glob("blocks/*")]:
        path.write_bytes(broken)
    shown, reported, generated, verified = abq_many(
        ["runs", "show", finished_run.run],
        ["report", finished_run.run, "--out", str(tmp_path / "report.html")],
        ["generate", finished_run.run, "--prompt", "a"],
        ["runs", "verify", finished_run.run],
    )
    for done in (shown, reported, generated):
        assert_sentence(done, "abq runs repair")
    assert verified.returncode == 1 and "Traceback" not in verified.stderr


def test_repair_makes_the_same_files_again(abq: Command, abq_many: Commands, finished_run: FinishedRun) -> None:
    folder, before = finished_run.data / "runs" / finished_run.run, files(finished_run)
    damage(folder / "blocks" / "001.safetensors")
    (folder / "data.json").write_text("{")
    (folder / "diagnostics" / "blocks.parquet").write_bytes(b"no")
    (folder / "diagnostics" / "attention.parquet").unlink()
    done = abq("runs", "repair", finished_run.run, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["damaged"]) == 4 and answer["remaining"] == [] and answer["changed"] == []
    assert files(finished_run) == before


def test_a_lost_spec_is_made_again_without_its_blocks(abq_many: Commands, finished_run: FinishedRun) -> None:
    folder, before = finished_run.data / "runs" / finished_run.run, files(finished_run)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("blocks/*")}
    (folder / "spec.json").write_text("{")
    repaired, shown = abq_many(["runs", "repair", finished_run.run, "--json"], ["jobs", "show", finished_run.run])
    assert repaired.returncode == 0, repaired.stderr
    answer = json.loads(repaired.stdout)
    assert answer["damaged"] == ["Its spec.json cannot be read."] and answer["lost"] == answer["remaining"] == []
    assert files(finished_run) == before and "Repair" not in shown.stdout
    assert {path: path.stat().st_mtime_ns for path in folder.glob("blocks/*")} == written


def test_what_a_lost_spec_recorded_is_named_if_it_cannot_be_known(
    abq_many: Commands, finished_run: FinishedRun
) -> None:
    folder = finished_run.data / "runs" / finished_run.run
    hashes = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps({**hashes, "spec.json": "0" * 64}))
    (folder / "spec.json").unlink()
    block, before = folder / "blocks" / "000.safetensors", files(finished_run)
    kept = block.read_bytes()
    damage(block)
    (refused,) = abq_many(["runs", "repair", finished_run.run])
    assert_sentence(refused, "only its spec.json recorded", "block 0", "abq calibrate")
    assert "spec.json" not in files(finished_run)
    block.write_bytes(kept)
    repaired, verified, generated = abq_many(
        ["runs", "repair", finished_run.run],
        ["runs", "verify", finished_run.run],
        ["generate", finished_run.run, "--prompt", "a", "--max-new-tokens", "2"],
    )
    assert repaired.returncode == 0 and "Lost:\nOnly its spec.json recorded the model files" in repaired.stdout
    assert (verified.returncode, generated.returncode) == (0, 0)
    after = files(finished_run)
    assert [name for name in before if after[name] != before[name]] == ["files.json"]


def test_what_cannot_be_made_again_is_named(abq_many: Commands, finished_run: FinishedRun, tmp_path: Path) -> None:
    folder = finished_run.data / "runs" / finished_run.run
    damage(folder / "blocks" / "000.safetensors")
    spec = json.loads((folder / "spec.json").read_text())
    spec["versions"]["torch"] = "0.1"
    (folder / "spec.json").write_text(json.dumps(spec))
    state = files(finished_run)
    refused, shown = abq_many(["runs", "repair", finished_run.run], ["jobs", "show", finished_run.run, "--json"])
    assert_sentence(refused, "block 0", "torch was 0.1", "abq calibrate")
    assert json.loads(shown.stdout)["state"] == "succeeded" and files(finished_run) == state
