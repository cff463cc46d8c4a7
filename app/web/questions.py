"""The path through the page: three steps for newcomers, and the question that follows on each tab."""

from typing import NamedTuple


class Question(NamedTuple):
    """A question that another tab answers."""

    text: str
    tab: str


class Step(NamedTuple):
    """A step of the newcomer's path: its text, the view it links to, and the tabs that belong to it."""

    text: str
    tab: str
    precision: str
    tabs: tuple[str, ...]


STEPS = (
    Step("See what 2 bits do.", "explore", "W2*A8", ("explore",)),
    Step("See what correction wins back.", "distributions", "W2*A8", ("calibrate", "distributions", "generate")),
    Step("See what it buys.", "throughput", "W2*A8", ("throughput", "compare")),
)
NEXT = {
    "explore": Question("How much of this can calibration win back?", "calibrate"),
    "calibrate": Question("What does calibration change inside the model?", "distributions"),
    "distributions": Question("Can I see the difference in text?", "generate"),
    "generate": Question("How much faster and smaller is it here?", "throughput"),
    "throughput": Question("Which run do I take?", "compare"),
    "compare": Question("What would another precision do?", "explore"),
}
