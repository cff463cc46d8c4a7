"""One calibration on a cluster node, which sends events and blocks to the submitter.

The submitting side is remote.py.

A node opens no database and writes no files. This module does not depend on Ray, and imports torch only after
`prepare_process`.
"""

import hashlib
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abq_core.events import BlockDone, Event, Message, StepDone
from app.secrets import redacted, without_secrets
from kernels.host.threads import THREADS_WAIT

if TYPE_CHECKING:
    import torch

    from abq_core.spec import CalibrationSpec

BlockKey = tuple[int, bool]  # (block, whether this is its draft)


class NodeError(RuntimeError):
    """This node cannot run the calibration; the message names the node and says what to do."""


@dataclass(frozen=True)
class Delivery:
    """An event for the submitting process.

    saved: for a BlockDone, the new block as safetensors bytes, else None.
    draft: whether the block still awaits the end-to-end pass.
    """

    event: Event
    saved: bytes | None = None
    draft: bool = False


@dataclass(frozen=True)
class Ended:
    """The last item of a calibration. error: a sentence if it failed, else None."""

    error: str | None = None
    traceback: str = ""


@dataclass(frozen=True)
class Assignment:
    """A calibration for a node.

    model_device: device that holds the full model.  fingerprint: sha256 over the model's files.  versions: those of
    the submitting process.  threads: torch threads.  text_prefix: as for `calibration_text.read_text`.  stored: the
    finished blocks, in the form that `fetch` reads.
    """

    spec: "CalibrationSpec"
    model_device: str
    fingerprint: str
    versions: Mapping[str, str]
    threads: int
    text_prefix: tuple[int, ...] | None = None
    stored: Mapping[BlockKey, Any] = field(default_factory=dict)


def prepare_process() -> None:
    """Remove secrets from the environment and configure how threads wait.

    Call it before torch is imported.
    """
    public = without_secrets(os.environ)
    for name in os.environ.keys() - public.keys():
        del os.environ[name]
    os.environ.update({**THREADS_WAIT, **public})


def check_node(versions: Mapping[str, str], folders: list[str]) -> list[str]:
    """The reasons why this node cannot run the jobs, one sentence each; empty if it can.

    versions: those of the submitting process.  folders: local models and texts that the jobs read.
    """
    from app.runs.provenance import versions as versions_here

    node, here = socket.gethostname(), versions_here()
    problems = [
        f"Node {node} has {name} {here.get(name, 'missing')} and the submitting process has "
        f"{versions.get(name, 'missing')}: install the same versions on all machines, so that blocks fit together."
        for name in {**versions, **here}
        if versions.get(name) != here.get(name)
    ]
    return problems + [
        f"{path} does not exist on node {node}. Copy the model or text to the same path on every node."
        for path in folders
        if not Path(path).exists()
    ]


class Outbox:
    """A queue from the calibrating thread to the fetching one.

    After a block it waits until that block is stored.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Delivery | Ended] = []
        self._put = self._taken = self._safe = 0

    def put(self, item: Delivery | Ended) -> None:
        """Add an item; for a block, return once the fetcher has stored it.

        Of consecutive StepDone events only the last is kept.
        """
        with self._changed:
            if self._items and _is_step(item) and _is_step(self._items[-1]):
                self._items[-1] = item
                return
            self._items.append(item)
            self._put += 1
            number = self._put
            self._changed.notify_all()
            if isinstance(item, Delivery) and item.saved is not None:
                self._changed.wait_for(lambda: self._safe >= number)

    def take(self, seconds: float) -> list[Delivery | Ended]:
        """The items since the last call; confirms that the earlier ones are stored.

        Waits up to `seconds` for an item that is not a step.
        """
        with self._changed:
            self._safe = self._taken
            self._changed.notify_all()
            self._changed.wait_for(lambda: not all(map(_is_step, self._items)), seconds)
            taken, self._items = self._items, []
            self._taken = self._put
            return taken


class NodeCalibrator:
    """Runs one assignment in a thread."""

    def __init__(self) -> None:
        self._outbox = Outbox()

    def begin(self, assignment: Assignment, fetch: Callable[[Any], bytes] = bytes) -> None:
        """Start the calibration.

        fetch: reads a value of `assignment.stored` as bytes, when the block is needed.
        """
        threading.Thread(target=self._run, args=(assignment, fetch), name="calibration", daemon=True).start()

    def next(self, seconds: float) -> list[Delivery | Ended]:
        """The items since the last call, waiting up to `seconds`.

        Calling it confirms that earlier items are stored.
        """
        return self._outbox.take(seconds)

    def _run(self, assignment: Assignment, fetch: Callable[[Any], bytes]) -> None:
        try:
            _calibrate(assignment, fetch, self._outbox.put)
        except BaseException as error:
            self._outbox.put(_ended_by(error))
        else:
            self._outbox.put(Ended())


class _RemoteStore:
    """A CheckpointStore over the connection to the submitting process.

    Fetches stored blocks, and sends each saved one with its BlockDone.
    """

    def __init__(self, stored: Mapping[BlockKey, Any], fetch: Callable[[Any], bytes]) -> None:
        self._stored = stored
        self._fetch = fetch
        self._saved: tuple[bytes, bool] | None = None

    def has(self, block: int) -> bool:
        return (block, False) in self._stored

    def load(self, block: int) -> "dict[str, torch.Tensor] | None":
        return self._load(block, draft=False)

    def save(self, block: int, tensors: "dict[str, torch.Tensor]") -> str:
        return self._save(tensors, draft=False)

    def load_draft(self, block: int) -> "dict[str, torch.Tensor] | None":
        return self._load(block, draft=True)

    def save_draft(self, block: int, tensors: "dict[str, torch.Tensor]") -> str:
        return self._save(tensors, draft=True)

    def delivery(self, event: Event) -> Delivery:
        """The event, together with the block that was saved for it if it is a BlockDone."""
        if not isinstance(event, BlockDone) or self._saved is None:
            return Delivery(event)
        (saved, draft), self._saved = self._saved, None
        return Delivery(event, saved, draft)

    def _load(self, block: int, draft: bool) -> "dict[str, torch.Tensor] | None":
        from safetensors.torch import load

        stored = self._stored.get((block, draft))
        return None if stored is None else load(self._fetch(stored))

    def _save(self, tensors: "dict[str, torch.Tensor]", draft: bool) -> str:
        from abq_core.calibration.artifacts import to_bytes

        data = to_bytes(tensors)
        self._saved = data, draft
        return hashlib.sha256(data).hexdigest()


def _calibrate(assignment: Assignment, fetch: Callable[[Any], bytes], put: Callable[[Delivery], None]) -> None:
    import torch

    from abq_core.calibration.calibrate import calibrate
    from abq_core.calibration.calibration_text import read_text
    from abq_core.models.loading import load_model
    from abq_core.models.reference import fingerprint

    spec = assignment.spec
    put(Delivery(Message(f"Calibrating on {socket.gethostname()}, process {os.getpid()}.")))
    if problems := check_node(
        assignment.versions, [path for path in (spec.model, spec.data) if Path(path).is_absolute()]
    ):
        raise NodeError(problems[0])
    if spec.device != "cpu" and not torch.cuda.is_available():
        raise NodeError(
            f"torch finds no GPU on node {socket.gethostname()}. Install torch for CUDA there, or let the node join "
            "without --num-gpus."
        )
    torch.set_num_threads(assignment.threads)
    if fingerprint(spec.model) != assignment.fingerprint:
        raise NodeError(
            f"The files of {spec.model} on node {socket.gethostname()} differ from those of the submitting machine. "
            "Copy them, so that they are the same on every node."
        )
    store = _RemoteStore(assignment.stored, fetch)
    base = load_model(spec.model, assignment.model_device)

    def on_event(event: Event) -> None:
        put(store.delivery(event))

    calibrate(base, spec, store, on_event, read_text(base, spec, on_event, assignment.text_prefix))


def on_one_device(spec: "CalibrationSpec") -> "CalibrationSpec":
    """The spec for a node, without the GPU's index.

    A node sees only the GPU that it was assigned.
    """
    return replace(spec, device=spec.device.split(":")[0])


def _ended_by(error: BaseException) -> Ended:
    from app.jobs.calibration_job import sentence_for
    from app.jobs.error_details import stack_of

    print(redacted("".join(traceback.format_exception(error))), file=sys.stderr)  # messages stay on the node

    sentence = (
        sentence_for(error, Path(socket.gethostname())) if isinstance(error, Exception) else f"{type(error).__name__}."
    )
    return Ended(redacted(sentence), redacted(stack_of(error)))


def _is_step(item: Delivery | Ended) -> bool:
    return isinstance(item, Delivery) and isinstance(item.event, StepDone)
