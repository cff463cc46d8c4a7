"""Terms of the field with the one-sentence explanation that the page shows as a tooltip."""

from typing import NamedTuple

PAPER = "arXiv 2408.08554"
_CORRECTION = "Distribution Correction"


class Term(NamedTuple):
    """An explanation and the section of the paper that introduces the term.

    section: "" if the paper does not.
    """

    explanation: str
    section: str = ""

    @property
    def tooltip(self) -> str:
        """The explanation, with the section of the paper if there is one."""
        return self.explanation + (f" See {self.section} in {PAPER}." if self.section else "")


TERMS = {
    "stored bits": Term("Bits per weight in memory: the bits of the notation, plus one with bit balance."),
    "example": Term("A run of the built-in model that came with the program and was measured on another machine."),
    "information bits": Term("log2 of the number of levels, the size of an ideal code: 2.32 for the 5 levels of W2*."),
    "bits per parameter": Term(
        "Bytes of the whole model over its parameters: linear layers with scales and zero points, LM head, embedding, "
        "and norms in 16 bits."
    ),
    "bit balance": Term(
        "One extra level makes the grid symmetric around zero: 5 levels instead of 4 at 2 bits.",
        "Bit Balance Strategy",
    ),
    "SNR": Term("Signal-to-noise ratio: power of the values over power of the rounding error. One bit is worth 6 dB."),
    "DLC": Term(
        "Double log cosine loss: aligns the direction of the block's output with full precision.",
        _CORRECTION,
    ),
    "AKL": Term("KL divergence between attention maps, in both directions: preserves attention.", _CORRECTION),
    "MSE": Term("Mean squared error of the block's output. It is in the authors' code but not in the paper's text."),
    "KL": Term(
        "Kullback-Leibler divergence from the full-precision next-token distributions. 0 nats: identical. The floor is "
        "the divergence that bfloat16 alone causes."
    ),
    "perplexity": Term("exp of the mean loss per token on held-out text, with its standard error. Lower is better."),
    "tasks": Term(
        "Mean accuracy over zero-shot tasks with its standard error, and the number of tasks (abq eval RUN --tasks)."
    ),
    "same top token": Term("How often the most likely next token is the same as in full precision."),
    "clipping": Term("Learned factors that narrow each row's range before rounding."),
    "balance vectors": Term("Learned scales that move range from activations to weights, per channel.", _CORRECTION),
    "compensation": Term(
        "A learned rank-1 term on down_proj of the first and last blocks. It adds no cost at inference.", _CORRECTION
    ),
    "Hadamard transform": Term("Mixes the channels of weights and activations before rounding to spread outliers."),
    "bit operations": Term(
        "Stored bits times activation bits: the binary products per weight and token. W2A8 has 16, W4A4 too."
    ),
    "folded rotation": Term(
        "Rotates the residual stream and attention values by matrices multiplied into the weights. It spreads outliers "
        "without a transform at run time."
    ),
    "half-step zero points": Term(
        "Zero points in half steps. Four levels can then be symmetric: -1.5, -0.5, 0.5, 1.5."
    ),
    "zero point": Term("The code that stands for the value 0. It is subtracted from every code."),
    "rounded": Term("Rounded to the nearest level; nothing is learned."),
    "corrected": Term("Calibrated: balance vectors and clipping are learned block by block before rounding."),
}
