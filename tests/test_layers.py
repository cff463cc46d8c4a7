"""The four folders import in one direction only, and the heavy ones stay out of where a GPU machine lacks them."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "kernels": {"abq_core", "app", "storage", "gradio", "sqlalchemy", "plotly", "datasets", "transformers"},
    "abq_core": {"app", "storage", "gradio", "sqlalchemy", "plotly"},
    "storage": {"abq_core", "app", "kernels", "gradio", "torch", "plotly", "transformers"},
}
NOT_AT_MODULE_LEVEL = {"kernels": {"torch", "cupy"}, "abq_core": {"datasets", "cupy"}}


def imported(tree: ast.AST, *, top_level_only: bool) -> set[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_go_one_way(folder: str) -> None:
    assert sources(folder)
    for path in sources(folder):
        wrong = imported(ast.parse(path.read_text()), top_level_only=False) & FORBIDDEN[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("folder", NOT_AT_MODULE_LEVEL)
def test_optional_libraries_are_imported_where_they_are_used(folder: str) -> None:
    for path in sources(folder):
        wrong = imported(ast.parse(path.read_text()), top_level_only=True) & NOT_AT_MODULE_LEVEL[folder]
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)} at module level"


def test_the_check_sees_a_wrong_import() -> None:
    tree = ast.parse("def f():\n    from app.services import Explorer\n")
    assert imported(tree, top_level_only=False) == {"app"}
    assert imported(tree, top_level_only=True) == set()
