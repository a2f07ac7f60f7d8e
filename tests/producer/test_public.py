"""The public side of voxspool: its names, its errors, what it imports, the environment that it reads."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
import tomllib
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, get_args

import pytest

import voxspool
from voxspool import embedded, errors
from voxspool.protocol.environment import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "producer" / "voxspool", ROOT / "worker" / "voxspool_worker")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
ERRORS = {name: value for name, value in vars(errors).items() if isinstance(value, type)}

HEAVY = {"torch", "torchaudio", "TTS", "piper", "onnxruntime", "voxspool_worker"}
"""Packages that a producer never imports."""
LATER = {"redis", "rq", "numpy", "soundfile", "soxr", "click", "rich"}
"""Packages that a producer imports only when it needs them."""


# Names


def test_all_is_sorted_and_names_nothing_twice() -> None:
    assert sorted(set(voxspool.__all__)) == voxspool.__all__


def test_all_has_the_errors_and_the_names_that_are_loaded_late() -> None:
    assert set(voxspool.__all__) == set(voxspool._HOMES) | set(ERRORS)


def test_everything_exported_is_in_all() -> None:
    machinery = {"TYPE_CHECKING", "annotations", "import_module"}
    there = {
        name
        for name, value in vars(voxspool).items()
        if not (name.startswith("_") or isinstance(value, ModuleType) or name in machinery)
    }
    assert there == set(ERRORS)


@pytest.mark.parametrize("name", voxspool.__all__)
def test_every_name_resolves_to_a_class_of_that_name(name: str) -> None:
    found = getattr(voxspool, name)
    assert isinstance(found, type)
    assert found.__name__ == name
    assert found.__module__ == f"voxspool.{voxspool._HOMES.get(name, 'errors')}"
    assert found.__doc__


def test_type_checkers_and_the_interpreter_find_a_name_in_the_same_module() -> None:
    tree = ast.parse(Path(str(voxspool.__file__)).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    stated = {
        alias.name: str(node.module).removeprefix("voxspool.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert stated == voxspool._HOMES


def test_help_and_completion_know_the_names_that_are_loaded_late() -> None:
    program = "import voxspool, pydoc; print(set(voxspool.__all__) <= set(dir(voxspool))); help(voxspool)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    complete, _, said = done.stdout.partition("\n")
    assert complete == "True"
    for name in ("Client", "AsyncClient", "Speech", "AsyncSpeech"):
        assert re.search(rf"^    class {name}\(", said, re.MULTILINE), name
    assert "Enqueue a speech and return its handle" in said


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'voxspool' has no attribute 'Nonsense'"):
        _ = voxspool.Nonsense


# Types


def imported_names(module: ModuleType) -> dict[str, str]:
    """Return the names that a module imports from voxspool, for type checkers too, with the modules they come from."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("voxspool.")
        for alias in node.names
    }


def annotations(owner: type) -> Iterator[str]:
    """Yield the annotations of a public class: of its fields, its properties and its public methods."""
    for name, kind in inspect.get_annotations(owner).items():
        if name[0] != "_":
            yield str(getattr(kind, "__forward_arg__", kind))  # NamedTuple wraps its annotations
    for name, member in vars(owner).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and (name[0] != "_" or name in ("__iter__", "__aiter__")):
            yield from map(str, function.__annotations__.values())


def types_of(annotation: str, owner: type) -> Iterator[type]:
    """Yield the classes of voxspool that an annotation names; an alias names those that it stands for."""
    module = sys.modules[owner.__module__]
    homes = imported_names(module)
    for node in ast.walk(ast.parse(annotation)):
        if isinstance(node, ast.Name):
            home = importlib.import_module(homes[node.id]) if node.id in homes else module
            found = getattr(home, node.id, None)
            for one in get_args(found) or (found,):
                if isinstance(one, type) and one.__module__.startswith("voxspool."):
                    yield one


@pytest.mark.parametrize("name", voxspool.__all__)
def test_all_names_each_type_that_a_public_class_takes_or_returns(name: str) -> None:
    owner = getattr(voxspool, name)
    missing = {
        f"{annotation}: {found.__name__}"
        for annotation in annotations(owner)
        for found in types_of(annotation, owner)
        if found.__name__ not in voxspool.__all__
    }
    assert not missing


def test_the_walk_sees_methods_fields_aliases_and_late_imports() -> None:
    def seen(name: str) -> set[str]:
        owner = getattr(voxspool, name)
        return {found.__name__ for one in annotations(owner) for found in types_of(one, owner)}

    assert {"Speech", "JobSpec", "SpeechOptions", "Placed", "Overview", "WorkerCard", "ClonedVoice"} <= seen("Client")
    assert {"End", "JobState", "Received", "Listener", "Chunk"} <= seen("AsyncSpeech")
    assert {"EntryId", "Begin", "Audio", "Mark", "End", "Failed", "Cancelled"} <= seen("Received")


@pytest.mark.parametrize("name", ["Client", "AsyncClient", "Speech", "AsyncSpeech", "NarrationJobs"])
def test_a_class_has_at_most_25_methods_and_300_lines(name: str) -> None:
    owner = getattr(voxspool, name)
    methods = [one for one in vars(owner).values() if inspect.isfunction(one) or isinstance(one, cached_property)]
    assert len(methods) <= 25
    assert len(inspect.getsourcelines(owner)[0]) <= 300


# Errors


def drawn() -> dict[str, str | None]:
    """Return the tree in the docstring of errors: name -> the name above it."""
    above: dict[str, str | None] = {}
    path: list[str] = []
    for indent, name in re.findall(r"^ {4}([│├└─ ]*)(\w+Error)\b", str(errors.__doc__), re.MULTILINE):
        depth = len(indent) // 4
        path[depth:] = [name]
        above[name] = path[depth - 1] if depth else None
    return above


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    grown = {name: error.__bases__[0].__name__ for name, error in ERRORS.items()}
    assert drawn() == grown | {"VoxspoolError": None}


def test_every_error_is_exported() -> None:
    assert set(ERRORS) <= set(voxspool.__all__)


def test_every_error_is_in_the_tree() -> None:
    assert set(family()) == set(ERRORS.values())


def test_each_error_has_its_own_code() -> None:
    assert embedded.EmbeddedError in family()
    own = {error: error.__dict__.get("code") for error in family() if error is not errors.SpeechFailedError}
    assert None not in own.values(), "a code that is inherited does not tell two errors apart"
    assert len(set(own.values())) == len(own)
    assert errors.SpeechFailedError("a").code not in own.values()
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", str(code)) for code in own.values())


def family(error: type[errors.VoxspoolError] = errors.VoxspoolError) -> list[type[errors.VoxspoolError]]:
    """Return an error and its subclasses, those of the package voxspool only."""
    below = [one for child in error.__subclasses__() for one in family(child)]
    return [one for one in [error, *below] if one.__module__.startswith("voxspool.")]


def test_a_failed_speech_carries_the_workers_code() -> None:
    error = errors.SpeechFailedError("a", code="timeout", retryable=True)
    assert (str(error), error.code, error.retryable) == ("a", "timeout", True)
    assert (errors.SpeechFailedError("a").code, errors.SpeechFailedError("a").retryable) == ("failed", False)


# Imports


def loaded(statement: str) -> set[str]:
    """Return the packages that a fresh interpreter has loaded after a statement."""
    program = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_voxspool_is_cheap() -> None:
    found = loaded("import voxspool")
    assert not found & (HEAVY | LATER)
    assert "voxspool" in found


def test_the_clients_load_no_samples_before_there_are_any() -> None:
    found = loaded("from voxspool import AsyncClient, Client, Embedded")
    assert not found & (HEAVY | {"numpy", "soundfile", "soxr", "sounddevice"})
    assert "rq" in found


def test_the_command_and_the_client_load_no_module_of_the_worker() -> None:
    found = loaded("import voxspool.cli, voxspool.__main__\nfor name in voxspool.__all__: getattr(voxspool, name)")
    assert not found & HEAVY
    assert {"click", "redis"} <= found


def test_the_help_of_the_command_loads_neither_rq_nor_numpy() -> None:
    assert not loaded("import voxspool.cli") & (HEAVY | {"rq", "numpy", "soundfile", "soxr"})


def test_the_protocol_loads_no_library() -> None:
    found = loaded(
        "from voxspool.protocol import jobs, stream, keys, environment\nimport voxspool.suggestions, voxspool.settings"
    )
    assert not found & (HEAVY | LATER)


# Packages


def project(side: str) -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / side / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_both_packages_have_one_version_and_the_worker_asks_for_it() -> None:
    version = project("producer")["version"]
    assert project("worker")["version"] == version
    assert f"voxspool=={version}" in str(project("worker")["dependencies"])
    assert project("worker")["requires-python"] == project("producer")["requires-python"]


def test_a_producer_depends_on_nothing_heavy() -> None:
    said = str([project("producer")[part] for part in ("dependencies", "optional-dependencies")])
    assert not [name for name in HEAVY if re.search(rf"\b{name}\b", said, re.IGNORECASE)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_each_package_is_marked_as_typed(package: Path) -> None:
    assert (package / "py.typed").is_file()


# Environment


def reads_environment(path: Path) -> bool:
    """Return whether a module contains any of the ways to read or write the environment."""
    ways = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ways:
                return True
            case ast.ImportFrom(module="os", names=names) if ways & {alias.name for alias in names}:
                return True
    return False


@pytest.mark.parametrize("way", ["import os\nos.environ", "from os import getenv as g", "import os\nos.getenv('A')"])
def test_the_scan_finds_each_way_to_read_the_environment(tmp_path: Path, way: str) -> None:
    (tmp_path / "a.py").write_text(way)
    assert reads_environment(tmp_path / "a.py")


def test_only_the_settings_read_the_environment() -> None:
    assert [path for path in MODULES if reads_environment(path)] == [package / "settings.py" for package in PACKAGES]


def said_variables() -> Iterator[str]:
    for path in MODULES:
        yield from re.findall(r"\bVOXSPOOL_[A-Z_]+\b", path.read_text(encoding="utf-8"))


def test_every_variable_that_the_sources_name_exists() -> None:
    assert set(said_variables()) - {"VOXSPOOL_"} == set(VARIABLES)
