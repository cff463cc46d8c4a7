"""A row of `real_model.py` from a peer: its weights, evaluated by the protocols of `abq eval`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peer_weights import peer_tokens, run_peer

from abq_core.evaluation.perplexity import evaluate
from abq_core.inference.runtime import streamed_model
from abq_core.mix import resolve_tables
from abq_core.models.loading import load_model
from abq_core.models.shape import has_tied_tables, shape_of
from abq_core.planning.size import model_size
from abq_core.precision import Precision
from abq_core.spec import CalibrationSpec
from abq_core.text.records import Protocol
from app.services.evaluation import EvaluationText, read_segments


@dataclass(frozen=True)
class PeerRow:
    """A peer on a model. method: a peer, alone or with `@` and a number of segments.

    steps: of AutoRound.  python: the interpreter with the peer's package.
    """

    model: Path
    precision: str
    method: str
    calibrate_on: Path
    steps: int
    python: Path

    def evaluated(self, text: Path, protocols: Sequence[Protocol], count: int) -> dict[str, Any]:
        """Let the peer quantize the model, and evaluate it as `abq eval` does a run calibrated with our defaults.

        count: segments that the protocol `windows` reads. Raises PeerError.
        """
        base = load_model(str(self.model))
        precision = resolve_tables(Precision.parse(self.precision), has_tied_tables(base.model))
        assert isinstance(precision, Precision)
        ours = CalibrationSpec(base.ref, precision, data=str(self.calibrate_on))
        name, tokens = peer_tokens(base, self.method, ours)
        options = {"steps": self.steps, "seed": ours.seed, "symmetric": False}
        done = run_peer(name, self.python, base, precision, tokens, options)
        model = streamed_model(base, precision, done.store)
        size = model_size(shape_of(base.ref, base.model.config), precision)
        found: dict[str, Any] = {"seconds": done.record["seconds"], "package": done.record["package"]}
        for protocol in protocols:
            ids, record = read_segments(EvaluationText(str(text), count, protocol=protocol), "whole", base)
            found[protocol] = {
                **asdict(evaluate(model, base, ids, None, record.unscored)),
                "bits_per_parameter": size.bits_per_parameter,
                "model_bytes": size.total,
                "tokens": record.text_tokens,
            }
        return found
