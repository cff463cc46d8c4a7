"""Colours, dashes and markers of the page.

A lens (full, rounded, corrected, balanced, imported) looks the same everywhere.
"""

from dataclasses import dataclass

FONT_FAMILY = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Lens:
    """Drawing style of one lens.

    dash, marker and pattern repeat the information of the colour, for colour-blind readers.
    """

    word: str
    light: str
    dark: str
    dash: str
    marker: str
    pattern: str

    def colour(self, dark: bool) -> str:
        """The colour on a dark or a light background, as `#rrggbb`."""
        return self.dark if dark else self.light


LENSES: dict[str, Lens] = {
    "full": Lens("Full", "#64748b", "#94a3b8", "solid", "circle", ""),
    "rounded": Lens("Rounded", "#d97706", "#fbbf24", "dash", "square", "/"),
    "corrected": Lens("Corrected", "#0d9488", "#2dd4bf", "solid", "diamond", ""),
    "balanced": Lens("Balanced", "#c026d3", "#e879f9", "dot", "star", "x"),
    "imported": Lens("Imported", "#2563eb", "#60a5fa", "dashdot", "cross", "."),
}


@dataclass(frozen=True)
class Palette:
    """Colours other than the lenses: background, text, grid, differences, sequential scale."""

    background: str
    ink: str
    muted: str
    grid: str
    less: str
    more: str
    sequential: tuple[str, ...]


LIGHT = Palette(
    background="#ffffff",
    ink="#0f172a",
    muted="#475569",
    grid="#e5e9f0",
    less="#0d9488",
    more="#dc2626",
    sequential=("#ffffff", "#dbe4ee", "#a9bacd", "#64748b", "#334155", "#0f172a"),
)
DARK = Palette(
    background="#0f1524",
    ink="#e6eaf2",
    muted="#9fb0c7",
    grid="#243049",
    less="#2dd4bf",
    more="#f87171",
    sequential=("#0f1524", "#1e2b45", "#3a4d6e", "#7388a8", "#b3c2d6", "#f1f5f9"),
)


def palette(dark: bool) -> Palette:
    """The palette for a dark or a light page."""
    return DARK if dark else LIGHT


def lens_colour(lens: str, dark: bool) -> str:
    """The colour of a lens on a dark or a light background, as `#rrggbb`."""
    return LENSES[lens].colour(dark)


def sequential_scale(dark: bool) -> list[tuple[float, str]]:
    """From the background (zero) to the text colour (maximum)."""
    colours = palette(dark).sequential
    return [(index / (len(colours) - 1), colour) for index, colour in enumerate(colours)]


def probability_scale(dark: bool) -> list[tuple[float, str]]:
    """`sequential_scale` with more contrast at the low end, where most probabilities are."""
    return [(place**2, colour) for place, colour in sequential_scale(dark)]


def middle_scale(dark: bool) -> list[tuple[float, str]]:
    """The middle of the sequential scale, for maps without a meaningful zero."""
    colours = palette(dark).sequential[1:5]
    return [(index / (len(colours) - 1), colour) for index, colour in enumerate(colours)]


def difference_scale(dark: bool) -> list[tuple[float, str]]:
    """Teal below zero, background at zero, red above."""
    colours = palette(dark)
    return [(0.0, colours.less), (0.5, colours.background), (1.0, colours.more)]


def transparent(colour: str, alpha: float) -> str:
    """`#rrggbb` with an alpha, as plotly and CSS read it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"
