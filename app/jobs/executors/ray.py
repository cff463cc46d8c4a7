"""Calibrations on a Ray cluster: connecting to it, what its nodes have room for, one actor for each calibration.

The submitting process must be on a machine of the cluster; actors die with it.
"""

import contextlib
import logging
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from abq_core.spec import CalibrationSpec
from app import formatting
from app.jobs.executors.cluster import ClusterError, Need
from app.jobs.executors.node import Assignment, BlockKey, Delivery, Ended
from app.jobs.executors.ray_node import RayCalibrator, look
from app.jobs.executors.remote import Remote, RemoteCalibrationError, RemoteLostError
from app.jobs.lease import LOOK_SECONDS
from app.runs.provenance import versions

_LOOK_PATIENCE_SECONDS = 120.0
_CONNECT_SECONDS = 10.0
_GONE = (RayError, OSError)  # of a node, or of the connection to the cluster


class RayCluster:
    """A running Ray cluster (a Cluster). A context manager; outside it this process is not connected.

    address: HOST:PORT of its head, or None for the one that this machine belongs to.  threads: that a calibration may
    use; fewer where no node has so many CPUs. Raises ClusterError.
    """

    def __init__(self, address: str | None, threads: int) -> None:
        if address is not None:
            _check_address(address)
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RayError, RuntimeError, ValueError) as error:
            raise ClusterError(
                f"There is no Ray cluster at {address or 'this machine'} ({_first_line(error)}). Start one with "
                "`ray start --head`, and let this machine join it with `ray start --address=HOST:PORT`."
            ) from error
        largest = max((int(node["Resources"].get("CPU", 0)) for node in _nodes()), default=0)
        self.cpus = max(1, min(threads, largest))

    def __enter__(self) -> "RayCluster":
        return self

    def __exit__(self, *raised: object) -> None:
        ray.shutdown()

    def check(self, specs: Sequence[CalibrationSpec], needs: Sequence[Need]) -> None:
        """Refuse calibrations that this cluster cannot run. Raises ClusterError.

        Every node that has room for one must have the versions of this process, and the models and texts that are
        paths.
        """
        for spec, need in zip(specs, needs, strict=True):
            if not self.room(need):
                gpu = ", a GPU" if need.gpus else ""
                raise ClusterError(
                    f"No node of the cluster has {need.cpus} CPUs{gpu} and {formatting.size(need.memory_bytes)} of "
                    f"memory for {spec.command_line()}. Add one, or set ABQ_THREADS lower."
                )
        paths = sorted({path for spec in specs for path in (spec.model, spec.data) if Path(path).is_absolute()})
        nodes = [node for node in _nodes() if any(_fitting(node, need) for need in needs)]
        seen = [(node, _look_at(node, paths)) for node in nodes]
        for node, reference in seen:
            if wrong := _answer(node, reference):
                raise ClusterError(wrong[0])

    def room(self, need: Need) -> int:
        """How many calibrations the nodes that live hold at once."""
        return sum(_fitting(node, need) for node in _nodes())

    def start(self, need: Need, assignment: Assignment, stored: Iterable[tuple[BlockKey, bytes]]) -> Remote:
        """Start an actor; it is placed when a node has room, and is not started again where it dies."""
        references = {key: _put(data) for key, data in stored}
        with _lost():
            return _RayRemote(need, replace(assignment, stored=references))


class _RayRemote:
    """One actor (a Remote)."""

    def __init__(self, need: Need, assignment: Assignment) -> None:
        options: dict[str, Any] = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.memory_bytes}
        self._actor: Any = ray.remote(RayCalibrator).options(**options, max_restarts=0, max_task_retries=0).remote()
        self._assignment = assignment  # its references keep the blocks in Ray's object store
        self._asked: Any = self._actor.begin_here.remote(assignment)

    def next(self) -> list[Delivery | Ended]:
        with _lost():
            if self._asked is None:
                self._asked = self._actor.next.remote(LOOK_SECONDS)
            if not ray.wait([self._asked], timeout=LOOK_SECONDS)[0]:
                return []
            items = ray.get(self._asked)
        self._asked = None
        return items or []

    def stop(self) -> None:
        with contextlib.suppress(*_GONE):
            ray.kill(self._actor)


def _put(data: bytes) -> Any:
    with _lost():
        return ray.put(data)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """What Ray raises in words of remote.py: an error of the code on the node, or nobody there any more."""
    try:
        yield
    except RayTaskError as error:
        raise RemoteCalibrationError(f"A node could not calibrate: {_last_line(error)}") from error
    except _GONE as error:
        raise RemoteLostError(f"Its node, or its process there, is gone ({type(error).__name__}).") from error


def _nodes() -> list[dict[str, Any]]:
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    except _GONE as error:
        raise ClusterError(
            f"The Ray cluster is gone ({_first_line(error)}). Start it, then the same sweep: it goes on where it ended."
        ) from error


def _fitting(node: dict[str, Any], need: Need) -> int:
    has = node["Resources"]
    wanted = {"CPU": need.cpus, "GPU": need.gpus, "memory": need.memory_bytes}
    return min(int(has.get(name, 0) // amount) for name, amount in wanted.items() if amount)


def _look_at(node: dict[str, Any], paths: list[str]) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return task.remote(versions(), paths)


def _answer(node: dict[str, Any], reference: Any) -> list[str]:
    name = node["NodeManagerHostname"]
    try:
        return ray.get(reference, timeout=_LOOK_PATIENCE_SECONDS)
    except GetTimeoutError:
        return [f"Node {name} did not answer in {_LOOK_PATIENCE_SECONDS:.0f} s. Look whether it is well, or remove it."]
    except RayTaskError as error:
        return [f"Node {name} cannot take part ({_last_line(error)}). Install the same ABQ Explorer there as here."]
    except RayError as error:
        return [f"Node {name} is gone ({type(error).__name__}). Try again when the cluster is well."]


def _check_address(address: str) -> None:
    """Ask the port itself: Ray tries for minutes, and in words for its developers."""
    host, separator, port = address.rpartition(":")
    if "://" in address or not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(
            f"--ray-address is {address!r}: give HOST:PORT of the cluster's head, and run the command on a machine of "
            "the cluster (ray:// does not work)."
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"No Ray cluster answers at {address} ({error.strerror or error}). Start one with `ray start --head`, or "
            "name another."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _last_line(error: BaseException) -> str:
    """Of an error on a node: what was raised, under its traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
