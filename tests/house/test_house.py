"""The house rules that no other tool checks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "hostagent").rglob("*.py"))
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def _identifiers(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_house_rules(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 600
    assert module.stem not in FORBIDDEN_NAMES
    words = {word for name in _identifiers(ast.parse(text)) for word in re.split(r"_|(?<=[a-z])(?=[A-Z])", name.lower())}
    assert "agent" not in words, "the governed process is the workload, our service is hostagent"
    assert not re.search(r"except(\s+Exception)?:\s*(\n\s*)?pass\b", text), "an error is swallowed"


def test_every_package_says_what_lives_there() -> None:
    silent = [
        str(package.relative_to(ROOT))
        for package in (ROOT / "hostagent").rglob("__init__.py")
        if not ast.get_docstring(ast.parse(package.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_top_level_is_the_users() -> None:
    expected = {
        "pyproject.toml", "setup.py", "hostagent", "bpf", "policy", "tests", "vagrant", "systemd", "packaging",
        "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "Makefile", "bench",
    }  # fmt: skip
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".") and not path.name.endswith(".egg-info")}
    assert found - {"build", "dist"} == expected


def test_readme_shows_both_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in readme
    assert "make test" in readme


def _fail_closed_rows() -> list[tuple[str, str]]:
    lines = (ROOT / "tests/house/fail_closed.tsv").read_text(encoding="utf-8").splitlines()
    return [(row, test) for line in lines if line and not line.startswith("#") for row, test in [line.split("\t")]]


@pytest.mark.parametrize(("row", "test"), _fail_closed_rows(), ids=lambda value: value.partition("::")[2] or None)
def test_each_row_of_the_fail_closed_table_has_its_test(row: str, test: str) -> None:
    module, _, name = test.partition("::")
    assert f"def {name}(" in (ROOT / "tests" / module).read_text(encoding="utf-8"), row
