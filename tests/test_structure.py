"""Rules beyond the import-linter contracts.

Folders stay small, and optional packages stay optional.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("abq_core", "app", "kernels", "storage")
MOST_MODULES = 20
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {absent}:
    sys.modules[name] = None  # as if it were not installed
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""


def test_no_folder_has_more_than_twenty_modules() -> None:
    folders = {folder for name in PACKAGES for folder in [ROOT / name, *(ROOT / name).rglob("*/")]}
    sizes = {folder.relative_to(ROOT): len(list(folder.glob("*.py"))) for folder in folders}
    assert sum(sizes.values()) > 100
    assert not {str(folder): size for folder, size in sizes.items() if size > MOST_MODULES}


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("kernels", ["torch", "cupy"]),
        ("abq_core", ["cupy", "datasets", "gguf", "gradio", "sqlalchemy", "plotly"]),
    ],
)
def test_optional_packages_are_imported_where_they_are_used(package: str, absent: list[str]) -> None:
    command = [sys.executable, "-c", IMPORT_ALL.format(package=package, absent=absent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
