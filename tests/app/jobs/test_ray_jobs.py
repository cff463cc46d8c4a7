"""Jobs on a cluster.

Nodes that die, send nothing or differ, and what the submitting process writes.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from app_cases import SpecMaker, settings_in, work_on
from ray_cases import DiesAt, FakeCluster

from abq_core.events import BlockDone, EpochDone, Event, Message, StepDone
from app.clock import now
from app.jobs.calibration_job import EvaluationPlan
from app.jobs.executors.cluster import ClusterJobs, Resources
from app.jobs.executors.local import PROJECT_ROOT
from app.jobs.executors.node import Delivery, Ended, Outbox, check_node, prepare_process
from app.runs.provenance import versions
from app.services import Services, open_services
from storage.jobs import Job

PLAN = EvaluationPlan(4, 32)


def bring_to_end(services: Services, cluster: FakeCluster, *jobs: Job) -> list[Job]:
    ClusterJobs(services, cluster, plan=PLAN).bring_to_end([job.id for job in jobs])
    return [services.jobs.get(job.id) for job in jobs]


def hashes(services: Services, job: Job) -> dict[int, str]:
    return {block.block: block.sha256 for block in services.storage.runs.blocks(job.run_id)}


def before(kind: type[Event], block: int) -> DiesAt:
    return lambda item: isinstance(item, Delivery) and isinstance(item.event, kind) and item.event.block == block


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_dead_node_loses_only_its_current_block(services: Services, tiny_spec: SpecMaker, tmp_path: Path) -> None:
    spec = tiny_spec()
    cluster = FakeCluster(dies_at={"W4A4 abq": [before(EpochDone, 1)]})
    job = services.jobs.submit(spec)
    first: list[object] = []

    def on_poll(jobs: object) -> None:  # right after the node died
        if not first and services.jobs.get(job.id).blocks_done == 1:
            path = services.runs.folder(job.run_id).block_path(0)
            first.append((path.stat().st_mtime_ns, services.storage.runs.blocks(job.run_id)[0]))

    ClusterJobs(services, cluster, on_poll, PLAN).bring_to_end([job.id])
    ended = services.jobs.get(job.id)
    assert (ended.state, ended.epoch, ended.attempts) == ("succeeded", 2, 0), services.jobs.log(job.id)
    assert [sorted(sent) for sent in cluster.sent] == [[], [(0, False)]]
    path = services.runs.folder(job.run_id).block_path(0)
    assert [(path.stat().st_mtime_ns, services.storage.runs.blocks(job.run_id)[0])] == first, (
        "a finished block was redone"
    )
    assert "Its node is gone." in services.jobs.log(job.id)

    other = open_services(settings_in(tmp_path / "local"))
    assert hashes(services, job) == hashes(other, work_on(other, other.jobs.submit(spec)))
    assert sorted(services.runs.folder(job.run_id).frame_names()) and len(services.jobs.losses(job.id))


def test_a_node_that_dies_in_the_end_to_end_pass_leaves_the_drafts(
    services: Services, tiny_spec: SpecMaker, tmp_path: Path
) -> None:
    spec = tiny_spec("W2A8", "abq+", epochs=1, end_to_end_segments=16)
    cluster = FakeCluster(dies_at={"W2A8 abq+": [before(EpochDone, 2)]})
    (job,) = bring_to_end(services, cluster, services.jobs.submit(spec))
    assert job.state == "succeeded", services.jobs.log(job.id)
    assert sorted(cluster.sent[1]) == [(0, True), (1, True)]
    assert not any(services.runs.folder(job.run_id).draft_path(block).exists() for block in (0, 1))
    other = open_services(settings_in(tmp_path / "local"))
    assert hashes(services, job) == hashes(other, work_on(other, other.jobs.submit(spec)))


def test_a_job_whose_nodes_all_die_fails_and_the_others_go_on(services: Services, tiny_spec: SpecMaker) -> None:
    deaths = {"W4A4 abq": [before(EpochDone, 0)] * 3}
    submitted = services.jobs.submit(tiny_spec()), services.jobs.submit(tiny_spec("W4A4", "rtn"))
    poisonous, other = bring_to_end(services, FakeCluster(dies_at=deaths), *submitted)
    assert (poisonous.state, other.state) == ("failed", "succeeded"), services.jobs.log(poisonous.id)
    assert poisonous.error is not None and "tried 3 times without finishing a new block" in poisonous.error


def test_an_attempt_with_a_new_block_does_not_count(services: Services, tiny_spec: SpecMaker) -> None:
    deaths = {"W4A4 abq": [before(EpochDone, 0)] * 2 + [before(EpochDone, 1)] * 2}
    (job,) = bring_to_end(services, FakeCluster(dies_at=deaths), services.jobs.submit(tiny_spec()))
    assert (job.state, job.epoch) == ("succeeded", 5), services.jobs.log(job.id)


def test_a_cancel_ends_a_calibration_that_sends_nothing(services: Services, tiny_spec: SpecMaker) -> None:
    cluster = FakeCluster(silent=True)
    job = services.jobs.submit(tiny_spec())
    work = in_background(lambda: ClusterJobs(services, cluster).bring_to_end([job.id]))
    assert cluster.began.wait(60)
    services.jobs.cancel(job.id)
    work.join(60)
    assert not work.is_alive() and services.jobs.get(job.id).state == "cancelled" and not cluster.alive


def test_a_submitting_process_that_is_asked_to_stop_requeues_its_jobs(services: Services, tiny_spec: SpecMaker) -> None:
    cluster = FakeCluster(silent=True)
    one, two = services.jobs.submit(tiny_spec()), services.jobs.submit(tiny_spec("W4A4", "rtn"))
    jobs = ClusterJobs(services, cluster)
    work = in_background(lambda: jobs.bring_to_end([one.id, two.id]))
    assert cluster.began.wait(60)
    jobs.stop("shutdown")
    work.join(60)
    assert not work.is_alive() and not cluster.alive
    assert [(job.state, job.attempts) for job in map(services.jobs.get, (one.id, two.id))] == [("queued", 0)] * 2


def test_ctrl_c_cancels_the_jobs_that_have_not_ended(services: Services, tiny_spec: SpecMaker) -> None:
    cluster = FakeCluster(silent=True)
    one, two = services.jobs.submit(tiny_spec()), services.jobs.submit(tiny_spec("W4A4", "rtn"))

    def on_poll(jobs: object) -> None:
        if cluster.began.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClusterJobs(services, cluster, on_poll).bring_to_end([one.id, two.id])
    assert [services.jobs.get(job.id).state for job in (one, two)] == ["cancelled", "cancelled"]


def test_jobs_start_in_order_and_use_the_whole_capacity(services: Services, tiny_spec: SpecMaker) -> None:
    cluster = FakeCluster(rooms=2)
    precisions = ["W2A8", "W3A8", "W4A8", "W5A8"]
    jobs = bring_to_end(services, cluster, *[services.jobs.submit(tiny_spec(name, "rtn")) for name in precisions])
    assert {job.state for job in jobs} == {"succeeded"}
    assert cluster.most_alive == 2
    assert sorted(cluster.specs[:2]) == ["W2A8 rtn", "W3A8 rtn"] and len(cluster.specs) == 4


def test_the_jobs_of_a_dead_submitting_process_are_taken_over(services: Services, tiny_spec: SpecMaker) -> None:
    job = services.jobs.submit(tiny_spec("W4A4", "rtn"))
    assert services.storage.jobs.claim_next("dead", now(), timedelta(seconds=-1), job_id=job.id) is not None
    (job,) = bring_to_end(services, FakeCluster(), job)
    assert (job.state, job.epoch) == ("succeeded", 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"versions": {**versions(), "torch": "1.0"}}, "install the same versions on all machines"),
        ({"fingerprint": "0" * 64}, "differ from those of the submitting machine"),
    ],
)
def test_a_node_that_differs_is_refused_in_a_sentence(
    services: Services, tiny_spec: SpecMaker, changes: dict[str, object], sentence: str
) -> None:
    (job,) = bring_to_end(services, FakeCluster(changes=changes), services.jobs.submit(tiny_spec("W4A4", "rtn")))
    assert job.state == "failed" and job.error is not None and sentence in job.error
    log = services.jobs.log(job.id)
    assert "Traceback" in log and "in _calibrate\n" in log, "the node's traceback is missing from the log"
    assert not hashes(services, job)


def test_capacity_is_limited_by_the_scarcest_resource() -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    from app.jobs.executors.ray import _fits

    node = {"Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 20.0 * 2**30}}
    assert _fits(node, Resources(1, 0, 4 * 2**30)) == 5
    assert _fits(node, Resources(1, 1, 4 * 2**30)) == 2
    assert _fits(node, Resources(3, 0, 2**30)) == 2
    assert _fits(node, Resources(1, 0, 21 * 2**30)) == 0
    assert _fits({"Resources": {"CPU": 8.0}}, Resources(1, 1, 1)) == 0


def test_no_item_overtakes_a_block_that_is_not_stored() -> None:
    outbox, passed = Outbox(), threading.Event()

    def put() -> None:
        outbox.put(Delivery(BlockDone(0, 1.0, "0" * 64, {}), b"block"))
        passed.set()
        outbox.put(Ended())

    thread = in_background(put)
    (block,) = outbox.take(60)
    assert isinstance(block, Delivery) and block.saved == b"block"
    time.sleep(0.05)
    assert not passed.is_set()
    assert [*outbox.take(60), *outbox.take(0)] == [Ended()]
    thread.join(60)


def test_only_the_last_of_consecutive_steps_is_passed_on() -> None:
    outbox = Outbox()
    for item in (Message("a"), StepDone(0, 1, 4), StepDone(0, 2, 4), Message("b"), StepDone(0, 3, 4)):
        outbox.put(Delivery(item))
    events = [item.event for item in outbox.take(0) if isinstance(item, Delivery)]
    assert events == [Message("a"), StepDone(0, 2, 4), Message("b"), StepDone(0, 3, 4)]
    outbox.put(Delivery(StepDone(0, 4, 4)))
    assert outbox.take(0) == [Delivery(StepDone(0, 4, 4))]


def test_a_path_missing_on_a_node_is_named() -> None:
    (sentence,) = check_node(versions(), [str(Path(__file__)), "/nowhere/model"])
    assert sentence.startswith("/nowhere/model does not exist on node") and "the same path on every node" in sentence


def test_a_node_can_be_prepared_before_torch_is_imported() -> None:
    code = "import sys, app.jobs.executors.node; print({'torch', 'huggingface_hub'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert found.stdout == "set()\n"


def test_a_node_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"HF_TOKEN": "hf_0123456789", "PATH": "/bin"})
    prepare_process()
    assert "HF_TOKEN" not in os.environ and os.environ["PATH"] == "/bin"
    assert os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
