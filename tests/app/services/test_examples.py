"""The examples that come with the program: small, complete, marked, deleted for good, and never mixed with own runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_cases import settings_in, work_on

from abq_core.models.reference import fingerprint
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from app.runs.block_adoption import find_shared_run
from app.runs.example_archive import ExampleArchive
from app.runs.provenance import provenance
from app.runs.run_check import verify
from app.services import Services, open_services
from app.services.errors import ServiceError
from app.services.exchange.examples import SHIPPED
from app.services.registry import BUILTIN
from app.web.page.selection import Selection

MOST_BYTES = 8_000_000
EXPECTED = {
    ("W4A4", "rtn"), ("W4A4", "abq"), ("W4A4", "abq+"), ("W2*A8", "rtn"), ("W2*A8", "abq"), ("W2*A8", "abq+"),
    ("W2A8", "abq+"),
}  # fmt: skip


@pytest.fixture(scope="module")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Services on a data folder with the examples; tests must not change it."""
    services = open_services(settings_in(tmp_path_factory.mktemp("examples")))
    assert services.examples.add_to_new_folder()
    return services


@pytest.fixture
def services(first_start: Services, tmp_path: Path) -> Iterator[Services]:
    """Services on a copy of that folder, which the test may change."""
    shutil.copytree(first_start.settings.data_dir, tmp_path / "data")
    return open_services(settings_in(tmp_path / "data"))


def example(services: Services, precision: str, method: str) -> str:
    """The run id of an example."""
    runs = services.runs.frame()
    return str(runs[runs["precision"].eq(precision) & runs["method"].eq(method)]["run"].item())


def test_the_archives_are_small_and_say_how_they_were_made() -> None:
    paths = sorted(SHIPPED.glob("*.tar.xz"))
    assert len(paths) == len(EXPECTED) and sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MOST_BYTES
    for path in paths:
        archive = ExampleArchive.read(path)
        assert archive.record["made"]["command"].startswith("python scripts/make_examples.py")
        assert archive.record["made"]["processor"]
        assert archive.spec["fingerprint"] == fingerprint(BUILTIN), (
            "the built-in model changed: make the examples again"
        )
        assert {"python", "torch", "transformers", "numpy"} <= set(archive.spec["versions"])


def test_a_new_folder_shows_finished_and_evaluated_examples(first_start: Services) -> None:
    runs = first_start.runs.newest_frame()
    examples, full = runs[runs["run"].ne("")], runs[runs["run"].eq("")]
    assert {(row.precision, row.method) for row in examples.itertuples()} == EXPECTED
    assert runs["example"].all() and examples["state"].eq("succeeded").all()
    assert (
        runs[["perplexity", "perplexity_stderr", "kl_mean", "kl_floor", "same_top", "model_bytes"]].notna().all().all()
    )
    assert len(full) == 1 and full["perplexity"].item() < examples["perplexity"].min()
    for run in first_start.storage.runs.list():
        assert verify(first_start.storage.runs, first_start.settings.runs_dir, run) == []
        assert len(first_start.runs.diagnostics(run.id, "blocks"))
        assert "An example that came with the program" in first_start.jobs.log(run.id)
    assert len(first_start.jobs.losses(example(first_start, "W2*A8", "abq")))
    assert not first_start.examples.add_to_new_folder()


def test_the_shipped_numbers_are_those_of_the_blocks_made_here(services: Services) -> None:
    run = example(services, "W2*A8", "abq+")
    shipped = services.runs.frame().set_index("run").loc[run]
    here = services.evaluation.evaluate(run)
    assert (here.segments, here.seq_len) == (shipped["segments"], shipped["seq_len"])
    assert here.perplexity == pytest.approx(shipped["perplexity"], rel=1e-3)
    assert here.kl_mean == pytest.approx(shipped["kl_mean"], rel=1e-2)


def test_deleted_examples_do_not_come_back(services: Services) -> None:
    for run in services.storage.runs.list():
        services.runs.delete(run.id)
    again = open_services(services.settings)
    assert not again.examples.add_to_new_folder()
    assert again.runs.frame().empty and not list(services.settings.runs_dir.iterdir())


def test_hidden_examples_leave_the_page_and_stay_on_the_command_line(services: Services) -> None:
    services.examples.hide(True)
    assert services.runs.newest_frame().empty and services.runs.frame()["run"].ne("").sum() == len(EXPECTED)
    services.examples.hide(False)
    assert services.runs.newest_frame()["run"].ne("").sum() == len(EXPECTED)


def test_a_folder_with_a_run_gets_no_examples(tmp_path: Path) -> None:
    services = open_services(settings_in(tmp_path / "data"))
    services.jobs.submit(CalibrationSpec(BUILTIN, Precision.parse("W4A4"), "rtn"))
    assert not services.examples.add_to_new_folder() and len(services.storage.runs.list()) == 1


def test_a_calibration_with_the_spec_of_an_example_makes_its_own_run(services: Services) -> None:
    spec = CalibrationSpec(BUILTIN, Precision.parse("W2*A8"), "rtn")
    before = example(services, "W2*A8", "rtn")
    assert services.jobs.frame().empty and services.storage.jobs.counts() == {}
    assert services.models.estimate_calibration(spec).pace is None
    planned = services.sweeps.plan([spec])
    assert planned[0].run is None
    own = services.sweeps.queue(planned)[0]
    assert work_on(services, services.jobs.get(own)).state == "succeeded" and own != before
    assert all(block.seconds > 0 for block in services.storage.runs.blocks(own))
    assert "dopted" not in services.jobs.log(own)
    assert [record.run_id for record in services.storage.measurements.evaluations(examples=False)] == [own, None]
    assert services.models.estimate_calibration(spec).pace is not None
    assert services.sweeps.plan([spec])[0].run.id == own
    assert Selection(precision="W2*A8").settled(services.runs.newest_frame()).run == own


def test_blocks_of_an_example_are_not_adopted(services: Services) -> None:
    of_example = services.runs.get(example(services, "W4A4", "rtn"))
    spec = CalibrationSpec.from_dict({**of_example.spec, "precision": "W4A4kv8"})
    job = services.jobs.submit(spec)
    folder = services.runs.folder(job.run_id)
    folder.write_texts(services.runs.texts(of_example.id))
    made = {**provenance(spec), "versions": services.runs.folder(of_example.id).read_spec()["versions"]}
    assert find_shared_run(services.storage.runs, spec, made, folder) is None


def test_a_report_without_names_leaves_examples_out(services: Services, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no finished runs"):
        services.reports.write([], tmp_path / "report.html")
    run = example(services, "W2*A8", "abq+")
    text = services.reports.write([run], tmp_path / "report.html").read_text("utf-8")
    assert run in text and "FP16" in text
