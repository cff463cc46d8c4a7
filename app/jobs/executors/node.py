"""One calibration on a node of a cluster: walks the blocks there, hands out what happens and the finished blocks.

Opens no database and writes no files: that is left to the process that submitted the job (remote.py). Knows no Ray.
Imports no torch before `prepare_process` was called.
"""

import os
import socket
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

BlockKey = tuple[int, bool]  # a block, and whether what is stored is its draft


class NodeError(RuntimeError):
    """This node cannot calibrate what it was asked to; the message names the node and says what to do."""


@dataclass(frozen=True)
class Delivery:
    """An event on its way home. saved: of a BlockDone, the bytes (safetensors) of a block that is not at home yet.

    draft: whether it is what a block learned before an end-to-end pass.
    """

    event: Event
    saved: bytes | None = None
    draft: bool = False


@dataclass(frozen=True)
class Ended:
    """The last that comes. error: a sentence where the calibration failed, with its traceback."""

    error: str | None = None
    traceback: str = ""


@dataclass(frozen=True)
class Assignment:
    """What a node is to calibrate. home: device that holds the model.  fingerprint: sha256 over its files.
    versions: of the submitting process.  threads: of torch.  stored: the finished blocks, as `fetch` takes them.
    """

    spec: "CalibrationSpec"
    home: str
    fingerprint: str
    versions: Mapping[str, str]
    threads: int
    stored: Mapping[BlockKey, Any] = field(default_factory=dict)


def prepare_process() -> None:
    """Forget the secrets of the environment, and make threads wait as they do at home. Before torch is imported."""
    kept = without_secrets(os.environ)
    for name in os.environ.keys() - kept.keys():
        del os.environ[name]
    os.environ.update({**THREADS_WAIT, **kept})


def check_node(versions: Mapping[str, str], folders: list[str]) -> list[str]:
    """Why this node cannot take part, a sentence each.

    versions: of the submitting process.  folders: local models and texts that the jobs read.
    """
    from app.runs.provenance import versions as versions_here

    node, here = socket.gethostname(), versions_here()
    wrong = [
        f"Node {node} has {name} {here.get(name, 'missing')} and the submitting process has "
        f"{versions.get(name, 'missing')}: install the same versions on all of them, so that blocks fit together."
        for name in {**versions, **here}
        if versions.get(name) != here.get(name)
    ]
    return wrong + [
        f"{path} is not on node {node}: a model or text that is a path must be on every node at the same path."
        for path in folders
        if not Path(path).exists()
    ]


class Outbox:
    """Between the thread that calibrates and whoever fetches: nothing with a block is passed before it is safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: list[Delivery | Ended] = []
        self._put = self._taken = self._safe = 0

    def put(self, item: Delivery | Ended) -> None:
        """Hand over an item; with a block, return when the fetcher has it safe. Of steps in a row the last is kept."""
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
        """What came since the last call, whose items are safe by now. Waits so long for anything but a step."""
        with self._changed:
            self._safe = self._taken
            self._changed.notify_all()
            self._changed.wait_for(lambda: not all(map(_is_step, self._items)), seconds)
            taken, self._items = self._items, []
            self._taken = self._put
            return taken


class NodeCalibrator:
    """Calibrates one assignment in a thread."""

    def __init__(self) -> None:
        self._outbox = Outbox()

    def begin(self, assignment: Assignment, fetch: Callable[[Any], bytes] = bytes) -> None:
        """Start. fetch: makes bytes of a value of `assignment.stored`, called when a block is needed."""
        threading.Thread(target=self._run, args=(assignment, fetch), name="calibration", daemon=True).start()

    def next(self, seconds: float) -> list[Delivery | Ended]:
        """What happened since the last call; to call again says that it is safe. Waits for at most so many seconds."""
        return self._outbox.take(seconds)

    def _run(self, assignment: Assignment, fetch: Callable[[Any], bytes]) -> None:
        try:
            _calibrate(assignment, fetch, self._outbox.put)
        except BaseException as error:
            self._outbox.put(_ended_by(error))
        else:
            self._outbox.put(Ended())


class _SentStore:
    """A CheckpointStore: what is at home comes from there; what is saved leaves with the event that announces it."""

    def __init__(self, stored: Mapping[BlockKey, Any], fetch: Callable[[Any], bytes]) -> None:
        self._stored = stored
        self._fetch = fetch
        self._saved: tuple[bytes, bool] | None = None

    def load(self, block: int) -> "dict[str, torch.Tensor] | None":
        return self._load(block, False)

    def save(self, block: int, tensors: "dict[str, torch.Tensor]") -> None:
        self._saved = to_bytes(tensors), False

    def load_draft(self, block: int) -> "dict[str, torch.Tensor] | None":
        return self._load(block, True)

    def save_draft(self, block: int, tensors: "dict[str, torch.Tensor]") -> None:
        self._saved = to_bytes(tensors), True

    def delivery(self, event: Event) -> Delivery:
        """The event, and with a BlockDone the block that was saved for it."""
        if not isinstance(event, BlockDone) or self._saved is None:
            return Delivery(event)
        (saved, draft), self._saved = self._saved, None
        return Delivery(event, saved, draft)

    def _load(self, block: int, draft: bool) -> "dict[str, torch.Tensor] | None":
        from safetensors.torch import load

        kept = self._stored.get((block, draft))
        return None if kept is None else load(self._fetch(kept))


def to_bytes(tensors: "Mapping[str, torch.Tensor]") -> bytes:
    """A block on the wire."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _calibrate(assignment: Assignment, fetch: Callable[[Any], bytes], put: Callable[[Delivery], None]) -> None:
    import torch

    from abq_core.calibration.calibrate import calibrate
    from abq_core.models.loading import load_model
    from abq_core.models.reference import fingerprint

    spec = assignment.spec
    put(Delivery(Message(f"It runs on {socket.gethostname()}, process {os.getpid()}.")))
    if wrong := check_node(assignment.versions, [path for path in (spec.model, spec.data) if Path(path).is_absolute()]):
        raise NodeError(wrong[0])
    if spec.device != "cpu" and not torch.cuda.is_available():
        raise NodeError(
            f"Torch reaches no GPU on node {socket.gethostname()}: install torch for CUDA everywhere, or let the "
            "node join without --num-gpus."
        )
    torch.set_num_threads(assignment.threads)
    if fingerprint(spec.model) != assignment.fingerprint:
        raise NodeError(
            f"The files of {spec.model} on node {socket.gethostname()} are not those of the submitting machine: copy "
            "them, so that they are the same everywhere."
        )
    store = _SentStore(assignment.stored, fetch)
    base = load_model(spec.model, assignment.home)
    calibrate(base, spec, store, lambda event: put(store.delivery(event)))


def on_one_device(spec: "CalibrationSpec") -> "CalibrationSpec":
    """The calibration as a node does it: the accelerator that it was given is the only one that it sees."""
    return replace(spec, device=spec.device.split(":")[0])


def _ended_by(error: BaseException) -> Ended:
    from app.jobs.calibration_job import sentence_for

    sentence = (
        sentence_for(error, Path(socket.gethostname())) if isinstance(error, Exception) else f"{type(error).__name__}."
    )
    return Ended(redacted(sentence), redacted("".join(traceback.format_exception(error))))


def _is_step(item: Delivery | Ended) -> bool:
    return isinstance(item, Delivery) and isinstance(item.event, StepDone)
