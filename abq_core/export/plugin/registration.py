"""Registers the format with transformers when both this package and transformers are imported.

`import abq_core` must not import transformers, which takes seconds. So if transformers is not imported yet, a finder
waits for the module of its AutoConfig and registers the format after it.
"""

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"


def register_when_imported() -> None:
    """Register the format now, or as soon as transformers' AutoConfig is imported."""
    if _AUTO_CONFIG in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _Finder())


def register() -> None:
    """Register the format's config with transformers; the rest follows when a folder is read."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from abq_core.export.plugin.packed_config import PackedConfig

    AutoConfig.register(PackedConfig.model_type, PackedConfig, exist_ok=True)


class _Finder(MetaPathFinder):
    """Finds the module of AutoConfig once, with a loader that registers the format after it."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _AUTO_CONFIG:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """The loader of a module, followed by the registration."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        register()
