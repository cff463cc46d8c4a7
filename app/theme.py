"""Every colour, dash and marker of the page and its figures: a precision is a lens, the same everywhere."""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

FONTS = ["-apple-system", "BlinkMacSystemFont", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]
FONT_FAMILY = "-apple-system, BlinkMacSystemFont, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Lens:
    """How one lens is drawn. `dash`, `marker` and `pattern` repeat for the eye what the colour says."""

    word: str
    light: str
    dark: str
    dash: str
    marker: str
    pattern: str

    def colour(self, dark: bool) -> str:
        return self.dark if dark else self.light


LENSES: dict[str, Lens] = {
    "full": Lens("Full", "#64748b", "#94a3b8", "solid", "circle", ""),
    "rounded": Lens("Rounded", "#d97706", "#fbbf24", "dash", "square", "/"),
    "corrected": Lens("Corrected", "#0d9488", "#2dd4bf", "solid", "diamond", ""),
    "balanced": Lens("Balanced", "#c026d3", "#e879f9", "dot", "star", "x"),
}


@dataclass(frozen=True)
class Palette:
    """The colours that are no lens: paper, ink and grid, and the two ends of a difference."""

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
    return LENSES[lens].colour(dark)


def sequential_scale(dark: bool) -> list[tuple[float, str]]:
    """From the background (nothing) to the ink (most)."""
    colours = palette(dark).sequential
    return [(index / (len(colours) - 1), colour) for index, colour in enumerate(colours)]


def probability_scale(dark: bool) -> list[tuple[float, str]]:
    """As `sequential_scale`, but quick at the low end, where most probabilities are."""
    return [(place**2, colour) for place, colour in sequential_scale(dark)]


def middle_scale(dark: bool) -> list[tuple[float, str]]:
    """A calmer part of the sequential scale, for maps in which no cell means nothing."""
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


@cache
def gradio_theme() -> "gr.themes.Base":
    """The page's theme: flat, hairlines instead of boxes, fonts of the system (nothing is fetched from elsewhere)."""
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        text_size="sm",
        spacing_size="sm",
        radius_size="md",
        font=FONTS,
        font_mono=MONO_FONTS,
    )
    return theme.set(
        body_background_fill=LIGHT.background,
        body_background_fill_dark=DARK.background,
        body_text_color=LIGHT.ink,
        body_text_color_dark=DARK.ink,
        body_text_color_subdued=LIGHT.muted,
        body_text_color_subdued_dark=DARK.muted,
        background_fill_primary=LIGHT.background,
        background_fill_primary_dark=DARK.background,
        background_fill_secondary="#f6f8fb",
        background_fill_secondary_dark="#151d30",
        border_color_primary="#d5dce6",
        border_color_primary_dark="#2a3855",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_shadow="none",
        block_shadow_dark="none",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_title_text_color=LIGHT.muted,
        block_title_text_color_dark=DARK.muted,
        block_title_text_weight="500",
        block_info_text_color=LIGHT.muted,
        block_info_text_color_dark=DARK.muted,
        input_background_fill="#ffffff",
        input_background_fill_dark="#151d30",
        input_border_color="#c5cfdc",
        input_border_color_dark="#33435f",
        input_border_color_focus="#0f766e",
        input_border_color_focus_dark="#2dd4bf",
        input_border_width="1px",
        input_shadow="none",
        input_shadow_focus="none",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#14b8a6",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#2dd4bf",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#04201d",
        button_primary_shadow="none",
        button_secondary_background_fill="transparent",
        button_secondary_background_fill_dark="transparent",
        button_secondary_border_color="#c5cfdc",
        button_secondary_border_color_dark="#33435f",
        button_border_width="1px",
        checkbox_background_color_selected="#0f766e",
        checkbox_background_color_selected_dark="#14b8a6",
        checkbox_border_color_selected="#0f766e",
        checkbox_border_color_selected_dark="#14b8a6",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected="#e6f5f3",
        checkbox_label_background_fill_selected_dark="#12302f",
        checkbox_label_border_color="#c5cfdc",
        checkbox_label_border_color_dark="#33435f",
        slider_color="#0f766e",
        slider_color_dark="#2dd4bf",
        loader_color="#0d9488",
        loader_color_dark="#2dd4bf",
        layout_gap="12px",
    )
