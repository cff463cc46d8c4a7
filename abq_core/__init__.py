"""Quantize a language model to any WpAq with ABQ-LLM, and measure the effect.

The method is that of arXiv 2408.08554.

    import abq_core as abq

    model = abq.load("builtin")
    quantized = abq.calibrate(model, "W4A4", method="abq")
    print(abq.evaluate(quantized, reference=model).perplexity)

Names are imported on first use, so `import abq_core` does not load torch. docs/python.md has a worked example.
With this import, transformers loads what `abq export RUN --to transformers` wrote.
"""

import importlib
from typing import TYPE_CHECKING

from abq_core.export.plugin.registration import register_when_imported

if TYPE_CHECKING:
    from abq_core.api import calibrate, evaluate, explore, generate, load
    from abq_core.precision import Precision

__all__ = ["Precision", "calibrate", "evaluate", "explore", "generate", "load"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'abq_core' has no attribute {name!r}")
    module = "abq_core.precision" if name == "Precision" else "abq_core.api"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__


register_when_imported()
