"""Make the text that Generate shows before anything was written here:

    python scripts/make_example_text.py

Adds the examples to an empty data folder, and lets the columns that Generate offers first continue its prompt, with
the settings of its form. Writes app/shipped/examples/text.json. Takes a minute. Run it after make_examples.py.
"""

import sys
import tempfile
from dataclasses import replace

from abq_core.inference.generate import Candidate, Token
from app.services import open_services
from app.services.registry import BUILTIN
from app.services.speed.timings import this_device
from app.services.texts.example_text import FILE, ExampleText
from app.settings import Settings
from app.web.tabs.generate_form import FIRST

PRECISION, METHOD = "W2*A8", "abq"  # what the page selects on the first visit
DIGITS = 5


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as name:
        services = open_services(Settings.from_environment({"ABQ_DATA_DIR": name}))
        services.examples.add_to_new_folder()
        runs = services.runs.frame()
        (run,) = runs[runs["precision"].eq(PRECISION) & runs["method"].eq(METHOD)]["run"]
        columns = ["full", PRECISION, run]
        events = services.generation.generate(
            columns, FIRST.prompt, FIRST.tokens, FIRST.temperature, FIRST.seed, BUILTIN
        )
        tokens = [rounded(event) for event in events if isinstance(event, Token)]
    made = {"command": "python scripts/make_example_text.py", "processor": this_device()}
    ExampleText(made, columns, FIRST.prompt, tokens).write()
    print(f"{FILE}: {FILE.stat().st_size:,} bytes", file=sys.stderr)


def rounded(token: Token) -> Token:
    """The token with as many digits as the page can show, and without times, which are those of this machine."""
    return replace(
        token,
        seconds=0.0,
        kl=None if token.kl is None else round(token.kl, DIGITS),
        candidates=tuple(Candidate(one.id, one.text, round(one.probability, DIGITS)) for one in token.candidates),
    )


if __name__ == "__main__":
    main()
