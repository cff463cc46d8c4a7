"""A run reuses leading blocks of another run, bit for bit as it would compute them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from app_cases import SpecMaker, settings_in, work_on

from abq_core.mix import MixedLinear, PrecisionMix
from abq_core.planning.sweep import SweepError, read_sweep
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.cli.main import main
from app.runs.run_folder import RunFolder
from app.services import Services, open_services
from storage.jobs import Job

MixMaker = Callable[..., PrecisionMix]


@pytest.fixture(scope="module")
def mix(tiny_spec: SpecMaker, tmp_path_factory: pytest.TempPathFactory) -> MixMaker:
    """Makes a mix with one precision per block for the tiny model's two blocks."""
    shape = open_services(settings_in(tmp_path_factory.mktemp("shape"))).models.shape(tiny_spec().model)

    def make(*blocks: str) -> PrecisionMix:
        return PrecisionMix(
            tuple(
                MixedLinear(block, name, Precision.parse(precision), rows * columns)
                for block, precision in enumerate(blocks)
                for name, (rows, columns) in shape.linears.items()
            )
        )

    return make


def finish(services: Services, spec: CalibrationSpec) -> Job:
    job = work_on(services, services.jobs.submit(spec))
    assert job.state == "succeeded", job.error
    return job


def hashes(services: Services, job: Job) -> list[str]:
    return [record.sha256 for record in services.storage.runs.blocks(job.run_id)]


def taken_over(services: Services, job: Job) -> list[int]:
    """The blocks that the run did not compute itself: they took no time."""
    return [record.block for record in services.storage.runs.blocks(job.run_id) if record.seconds == 0]


@pytest.fixture
def first(services: Services, tiny_spec: SpecMaker, mix: MixMaker) -> Job:
    """A finished run: its first block at W4A8, its second at W2A8."""
    return finish(services, replace(tiny_spec(), precision=mix("W4A8", "W2A8")))


@pytest.mark.parametrize("uniform", [False, True])
def test_a_reused_block_equals_a_computed_one(
    uniform: bool, services: Services, first: Job, tiny_spec: SpecMaker, mix: MixMaker, tmp_path: Path
) -> None:
    spec = tiny_spec("W4A8") if uniform else replace(tiny_spec(), precision=mix("W4A8", "W3A8"))
    alone = open_services(settings_in(tmp_path / "alone"))
    job, untouched = finish(services, spec), finish(alone, spec)
    assert taken_over(services, job) == [0] and not taken_over(alone, untouched)
    assert hashes(services, job) == hashes(alone, untouched)
    assert hashes(services, job)[0] == hashes(services, first)[0] and len(set(hashes(services, job))) == 2
    losses, made = services.storage.jobs.losses(job.id), alone.storage.jobs.losses(untouched.id)
    assert [(one.block, one.step, one.terms) for one in losses] == [(one.block, one.step, one.terms) for one in made]
    frames = (
        services.runs.diagnostics(job.run_id, "blocks"),
        alone.runs.diagnostics(untouched.run_id, "blocks"),
    )
    assert frames[0].equals(frames[1])
    log = " ".join(line.text for line in services.storage.jobs.logs(job.id))
    assert f"adopted from run {first.run_id}, which made them from the same inputs: 1." in log


@pytest.mark.parametrize("method", ["omniquant", "abq+"])
def test_a_run_with_another_lm_head_reuses_all_blocks(
    method: str, services: Services, tiny_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"end_to_end_segments": 2} if method == "abq+" else {}
    before = finish(services, tiny_spec("W4A8", method, **settings))
    job = finish(services, tiny_spec("W4A8h4", method, **settings))
    assert taken_over(services, job) == [0, 1] and hashes(services, job) == hashes(services, before)
    embedding = finish(services, tiny_spec("W4A8h4e4", method, **settings))
    assert not taken_over(services, embedding) and hashes(services, embedding) != hashes(services, before)
    scores = services.runs.frame().set_index("run")["perplexity"]
    assert len({scores[one.run_id] for one in (before, job, embedding)}) == 3


def test_the_same_calibration_is_computed_again(services: Services, first: Job) -> None:
    again = finish(services, CalibrationSpec.from_dict(first.spec))
    assert not taken_over(services, again)
    assert hashes(services, again) == hashes(services, first)


def damage_block(folder: RunFolder) -> None:
    data = bytearray(folder.block_path(0).read_bytes())
    data[-1] ^= 1
    folder.block_path(0).write_bytes(data)


def other_version(folder: RunFolder) -> None:
    content = folder.read_spec() or {}
    folder.write_spec(content | {"versions": {**content["versions"], "torch": "1.0"}})  # type: ignore[dict-item]


def other_model(folder: RunFolder) -> None:
    folder.write_spec((folder.read_spec() or {}) | {"fingerprint": "0" * 64})


def other_text(folder: RunFolder) -> None:
    (name, record), *_ = folder.read_texts().items()
    folder.write_texts({name: replace(record, sha256="0" * 64)})


def no_record(folder: RunFolder) -> None:
    (folder.path / "data.json").write_text("[")


@pytest.mark.parametrize("change", [damage_block, other_version, other_model, other_text, no_record])
def test_blocks_from_other_inputs_are_not_reused(
    change: Callable[[RunFolder], None], services: Services, first: Job, tiny_spec: SpecMaker
) -> None:
    before = hashes(services, first)
    change(services.runs.folder(first.run_id))
    job = finish(services, tiny_spec("W4A8"))
    assert not taken_over(services, job)
    assert hashes(services, job)[0] == before[0], "computed here, with the same result"


def test_a_sweep_over_mixes_computes_shared_blocks_once(
    folder: Path, tiny_spec: SpecMaker, mix: MixMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, second in {"two": "W2A8", "three": "W3A8"}.items():
        precision = mix("W4A8", second)
        content = {"precision": str(precision), "mix": precision.to_dict()}
        (folder / f"{name}.json").write_text(json.dumps(content))
    spec = tiny_spec()
    grid = {"models": [spec.model], "precisions": ["two.json", "W4A8", "three.json"], "methods": ["omniquant"]}
    settings = {"data": spec.data, "segments": 2, "seq_len": 32, "epochs": 1}
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(grid | settings))
    assert main(["sweep", str(path), "--wait", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["sweep"]
    services = open_services(settings_in(folder / "data"))
    jobs = [services.jobs.get(row["run"]) for row in rows]
    assert [taken_over(services, job) for job in jobs] == [[], [0], [0]]
    assert str(mix("W4A8", "W3A8")) == jobs[2].spec["precision"]


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"precision": "W2A8", "mix": [1]}'])
def test_a_sweep_names_the_mix_that_cannot_be_read(content: str | None, folder: Path) -> None:
    if content is not None:
        (folder / "mix.json").write_text(content)
    path = folder / "grid.yaml"
    path.write_text("models: [builtin]\nprecisions: [mix.json]\n")
    with pytest.raises((SweepError, ValueError), match=r"mix\.json|mix of precisions"):
        read_sweep(path)
