"""A class name means one thing in both packages: no other module defines it, except for the names listed here."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "producer" / "voxspool", ROOT / "worker" / "voxspool_worker")

ALLOWED = {
    "Settings": "each package has one, read from its own environment variables",
}
"""Class names that several modules define, and why."""


def repeated_classes(*packages: Path) -> dict[str, list[str]]:
    """Return each class name that several modules define, with the modules' paths."""
    found: dict[str, set[str]] = defaultdict(set)
    for package in packages:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found[node.name].add(str(path.relative_to(package.parent)))
    return {name: sorted(modules) for name, modules in found.items() if len(modules) > 1}


def test_no_class_name_is_defined_in_two_modules() -> None:
    repeated = repeated_classes(*PACKAGES)
    extra = {name: modules for name, modules in repeated.items() if name not in ALLOWED}
    assert extra == {}, "give one of the classes a more precise name"


@pytest.mark.parametrize("name", ALLOWED)
def test_each_allowed_name_is_still_defined_in_several_modules(name: str) -> None:
    assert name in repeated_classes(*PACKAGES), "remove it from ALLOWED"


def test_repeated_names_are_found_in_nested_classes_and_other_packages(tmp_path: Path) -> None:
    for module, text in {
        "one/a.py": "class Chunk: ...\nclass Only: ...",
        "one/sub/b.py": "class Only2:\n    class Chunk: ...",
        "two/c.py": "if True:\n    class Chunk: ...\n    class Chunk2: ...\n    class Chunk2: ...",
    }.items():
        path = tmp_path / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert repeated_classes(tmp_path / "one", tmp_path / "two") == {"Chunk": ["one/a.py", "one/sub/b.py", "two/c.py"]}
