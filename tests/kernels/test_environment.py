"""The Hugging Face library `kernels` is refused if installed.

transformers must not take this package for it.
"""

import subprocess
import sys
from importlib import metadata

import pytest

import kernels
from kernels.environment import KernelsNameError, check_environment


def test_the_package_has_no_version_attribute() -> None:
    assert not hasattr(kernels, "__version__")


def test_transformers_does_not_detect_this_package_as_its_kernels_library() -> None:
    from transformers.utils import is_kernels_available

    assert not is_kernels_available()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, kernels, kernels.environment, kernels.dispatch\n"
        "heavy = {'torch', 'numba', 'gradio', 'sqlalchemy', 'plotly', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_clean_environment_is_accepted() -> None:
    check_environment()


def test_the_hugging_face_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def version(name: str) -> str:
        asked.append(name)
        return "0.12.1"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(KernelsNameError, match=r"0\.12\.1.*pip uninstall kernels"):
        check_environment()
    assert asked == ["kernels"]
