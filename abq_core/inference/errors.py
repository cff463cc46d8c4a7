"""Errors of generation.

GenerationError
└── PromptError     a prompt or a setting that generation does not accept
"""


class GenerationError(ValueError):
    """The model cannot generate at this precision: its logits are not finite."""


class PromptError(GenerationError):
    """A prompt or a setting that generation does not accept."""
