"""The model card of an export: README.md with method, precision, scores, proof, and how to load it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from abq_core.export.proof import Proof

README = "README.md"
_TEMPLATES = Path(__file__).parent / "templates"
_UNKNOWN_LICENCE = "other"  # the hub's word for a licence that it has no name for


@dataclass(frozen=True)
class Loading:
    """How a format is loaded. library: the hub's name for it.  code: for a fenced block of `language`."""

    library: str
    language: str
    code: str
    packages: str


@dataclass(frozen=True)
class Card:
    """What a card says. name: of the model, without a path of this machine.  hub_id: of the model, or None.

    facts: rows of a table, such as ("perplexity", "14.02 ...").
    """

    name: str
    hub_id: str | None
    licence: str | None
    format: str
    precision: str
    method: str
    facts: Sequence[tuple[str, str]]
    dropped: Sequence[str]
    proofs: Sequence[Proof]
    loading: Loading

    def render(self) -> str:
        """The Markdown of the card."""
        environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=False,  # Markdown, not HTML; values are made safe by `_cell`
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        values = vars(self) | {
            "licence": self.licence or _UNKNOWN_LICENCE,
            "facts": [(_cell(name), _cell(value)) for name, value in self.facts],
            "proofs": [(proof, proof_rows(proof)) for proof in self.proofs],
        }
        return environment.get_template("card.md").render(values)


def proof_rows(proof: Proof) -> list[tuple[str, str]]:
    """The numbers of a proof as text, by name; empty if it was not checked."""
    if not proof.checked:
        return []
    return [
        ("tokens compared", f"{proof.tokens:,}"),
        ("largest logit difference", f"{proof.largest_logit_difference:.3g} (logits span {proof.logit_range:.3g})"),
        ("median over tokens of the largest logit difference", f"{proof.median_logit_difference:.3g}"),
        ("KL from the run to the export", f"{proof.kl:.3g} nats"),
        ("KL of the run to itself after float32 noise", f"{proof.kl_of_float_noise:.3g} nats"),
        ("same most likely token", f"{100 * (proof.same_top or 0):.1f} %"),
        ("equal greedy tokens", f"the first {proof.greedy_tokens} of {proof.new_tokens}"),
    ]


def proof_sentence(proof: Proof) -> str:
    """The proof in one sentence."""
    if not proof.checked:
        return f"Not checked in {proof.runtime}: {proof.reason}"
    known = proof.kl_of_float_noise is not None  # stored proofs may be older than this number
    noise = f" (float32 noise alone: {proof.kl_of_float_noise:.2g})" if known else ""
    return (
        f"Checked in {proof.runtime} on {proof.tokens:,} tokens: KL {proof.kl:.2g} nats{noise}, same most likely token "
        f"{100 * (proof.same_top or 0):.1f} %, largest logit difference {proof.largest_logit_difference:.2g} of "
        f"{proof.logit_range:.3g}, first {proof.greedy_tokens} of {proof.new_tokens} greedy tokens equal."
    )


def public_name(ref: str) -> str:
    """A model reference without the folders of this machine."""
    return Path(ref).name if Path(ref).is_absolute() or Path(ref).exists() else ref


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table, where it can be neither markup nor another cell."""
    plain = " ".join(text.split()).replace("\\", "\\\\")
    for mark in "|<>[]`*_":
        plain = plain.replace(mark, f"\\{mark}")
    return plain
