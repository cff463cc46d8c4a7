"""Calibrations on a Ray cluster: connection, checks of nodes, one actor per calibration.

The submitting process must run on a machine of the cluster; its actors end with it.
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
from app.jobs.executors.cluster import ClusterError, Resources
from app.jobs.executors.node import Assignment, BlockKey, Delivery, Ended
from app.jobs.executors.ray_node import RayCalibrator, check_this_node
from app.jobs.executors.remote import Remote, RemoteCalibrationError, RemoteLostError
from app.jobs.lease import POLL_SECONDS
from app.runs.provenance import versions

_CHECK_TIMEOUT_SECONDS = 120.0
_CONNECT_TIMEOUT_SECONDS = 10.0
_LOST_ERRORS = (RayError, OSError)  # a node, or the connection to the cluster, is gone


class RayCluster:
    """A running Ray cluster (implements Cluster).

    A context manager, which disconnects at its end.
    address: HOST:PORT of its head node; None: the cluster that this machine belongs to.
    threads: per calibration, limited to the CPUs of the largest node.
    Raises ClusterError.
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

    def check(self, specs: Sequence[CalibrationSpec], needs: Sequence[Resources]) -> None:
        """Check that the cluster can run these calibrations. Raises ClusterError.

        Every node that can hold one of them must have the versions of this process, and every local model and text.
        """
        for spec, need in zip(specs, needs, strict=True):
            if not self.capacity(need):
                gpu = ", a GPU" if need.gpus else ""
                raise ClusterError(
                    f"No node of the cluster has {need.cpus} CPUs{gpu} and {formatting.size(need.memory_bytes)} of "
                    f"memory for {spec.command_line()}. Add one, or set ABQ_THREADS lower."
                )
        paths = sorted({path for spec in specs for path in (spec.model, spec.data) if Path(path).is_absolute()})
        nodes = [node for node in _nodes() if any(_fits(node, need) for need in needs)]
        seen = [(node, _start_check(node, paths)) for node in nodes]
        for node, reference in seen:
            if problems := _check_result(node, reference):
                raise ClusterError(problems[0])

    def capacity(self, need: Resources) -> int:
        """Number of such calibrations that the live nodes can run at once."""
        return sum(_fits(node, need) for node in _nodes())

    def start(self, need: Resources, assignment: Assignment, stored: Iterable[tuple[BlockKey, bytes]]) -> Remote:
        """Start an actor.

        It is placed when a node has free resources, and is not restarted if it dies.
        """
        references = {key: _put(data) for key, data in stored}
        with _lost():
            return _RayRemote(need, replace(assignment, stored=references))


class _RayRemote:
    """One actor (implements Remote)."""

    def __init__(self, need: Resources, assignment: Assignment) -> None:
        options: dict[str, Any] = {"num_cpus": need.cpus, "num_gpus": need.gpus, "memory": need.memory_bytes}
        self._actor: Any = ray.remote(RayCalibrator).options(**options, max_restarts=0, max_task_retries=0).remote()
        self._assignment = assignment  # its references keep the blocks in Ray's object store
        self._pending: Any = self._actor.begin_here.remote(assignment)

    def next(self) -> list[Delivery | Ended]:
        with _lost():
            if self._pending is None:
                self._pending = self._actor.next.remote(POLL_SECONDS)
            if not ray.wait([self._pending], timeout=POLL_SECONDS)[0]:
                return []
            items = ray.get(self._pending)
        self._pending = None
        return items or []

    def stop(self) -> None:
        with contextlib.suppress(*_LOST_ERRORS):
            ray.kill(self._actor)


def _put(data: bytes) -> Any:
    with _lost():
        return ray.put(data)


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Convert Ray's errors to those of remote.py: an error on the node, or a lost node."""
    try:
        yield
    except RayTaskError as error:
        raise RemoteCalibrationError(f"A node could not calibrate: {_last_line(error)}") from error
    except _LOST_ERRORS as error:
        raise RemoteLostError(f"Its node, or its process on the node, is gone ({type(error).__name__}).") from error


def _nodes() -> list[dict[str, Any]]:
    try:
        return [node for node in ray.nodes() if node["Alive"]]
    except _LOST_ERRORS as error:
        raise ClusterError(
            f"The Ray cluster is gone ({_first_line(error)}). Start it, then the same sweep, which continues."
        ) from error


def _fits(node: dict[str, Any], need: Resources) -> int:
    has = node["Resources"]
    required = {"CPU": need.cpus, "GPU": need.gpus, "memory": need.memory_bytes}
    return min(int(has.get(name, 0) // amount) for name, amount in required.items() if amount)


def _start_check(node: dict[str, Any], paths: list[str]) -> Any:
    on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(check_this_node).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node)
    return task.remote(versions(), paths)


def _check_result(node: dict[str, Any], reference: Any) -> list[str]:
    name = node["NodeManagerHostname"]
    try:
        return ray.get(reference, timeout=_CHECK_TIMEOUT_SECONDS)
    except GetTimeoutError:
        return [f"Node {name} did not answer in {_CHECK_TIMEOUT_SECONDS:.0f} s. Check or remove it."]
    except RayTaskError as error:
        return [f"Node {name} cannot run jobs ({_last_line(error)}). Install the same version of ABQ Explorer there."]
    except RayError as error:
        return [f"Node {name} is gone ({type(error).__name__}). Try again when the cluster has recovered."]


def _check_address(address: str) -> None:
    """Connect to the port before Ray does.

    Ray itself retries for minutes, then fails with an internal message.
    """
    host, separator, port = address.rpartition(":")
    if "://" in address or not separator or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(
            f"--ray-address is {address!r}. Pass HOST:PORT of the cluster's head node, and run the command on a "
            "machine of the cluster (ray:// does not work)."
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"No Ray cluster answers at {address} ({error.strerror or error}). Start one with `ray start --head`, or "
            "name another."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _last_line(error: BaseException) -> str:
    """The exception of an error on a node, which stands below its traceback."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
