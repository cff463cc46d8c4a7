"""Gradio theme of the dashboard: flat, hairlines instead of boxes, system fonts."""

from functools import cache

import gradio as gr

from app.figures.palette import DARK, LIGHT

FONTS = ["-apple-system", "BlinkMacSystemFont", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]


@cache
def gradio_theme() -> gr.themes.Base:
    """The page's theme. System fonts, so that the browser fetches nothing from other hosts."""
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
