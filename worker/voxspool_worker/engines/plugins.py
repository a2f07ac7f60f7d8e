"""Engines from other distributions: what they register in the entry-point group `voxspool.engines`.

    [project.entry-points."voxspool.engines"]
    letters = "voxspool_letters:LettersEngine"

The name is what jobs ask for. The object is called with the worker's `Settings` and returns a `base.Engine`; it is
imported only by a worker that is started for this engine.
"""

from __future__ import annotations

from collections import defaultdict
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.errors import EngineLoadError, VoxspoolError
from voxspool.protocol.jobs import ENGINE_NAME_RULE, ENGINES, is_engine_name
from voxspool_worker.engines.base import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from voxspool_worker.settings import Settings

GROUP: Final = "voxspool.engines"
_MEMBERS: Final = tuple(name for name in vars(Engine) if not name.startswith("_"))


class Registered(NamedTuple):
    """What the distributions of this environment register."""

    engines: dict[str, EntryPoint]
    refused: list[str]
    """One line for each name that cannot be used."""


def find() -> Registered:
    """Read the entry points of this environment. Nothing is imported."""
    named = defaultdict(list)
    for entry in entry_points(group=GROUP):
        named[entry.name].append(entry)
    faults = {name: _fault(name, entries) for name, entries in sorted(named.items())}
    usable = {name: named[name][0] for name, fault in faults.items() if not fault}
    return Registered(usable, [fault for fault in faults.values() if fault])


def load(entry: EntryPoint, settings: Settings) -> Engine:
    """Import and make an engine.

    Raises EngineLoadError, one line, for whatever it raises and for an object that is no engine; passes on a
    VoxspoolError of its own, such as MissingExtraError.
    """
    try:
        engine = entry.load()(settings)
        fault = _interface_fault(entry.name, engine)
    except VoxspoolError:
        raise
    except Exception as error:
        raise _unusable(entry, f"cannot be loaded ({type(error).__name__}: {error})") from error
    if fault:
        raise _unusable(entry, fault)
    return engine  # type: ignore[no-any-return] # its members were looked at; their types are its author's


def _fault(name: str, entries: list[EntryPoint]) -> str:
    """Describe why a name cannot be used; empty where it can."""
    who = " and ".join(_distribution(entry) for entry in entries)
    if name in ENGINES:
        return f"{who} registers the engine {name!r}, and voxspool has one of that name; voxspool's own is used"
    if not is_engine_name(name):
        return f"{who} registers an engine as {name!r}, which cannot be part of a queue's name; {ENGINE_NAME_RULE}"
    return f"{who} both register the engine {name!r}; uninstall one of them" if len(entries) > 1 else ""


def _interface_fault(name: str, engine: object) -> str:
    """Describe what an object lacks to be the engine of this name; empty where it lacks nothing."""
    missing = [member for member in _MEMBERS if not hasattr(engine, member)]
    if missing:
        return f"is no engine: it has no {', '.join(missing)} (see voxspool_worker.engines.base.Engine)"
    assert isinstance(engine, Engine)
    if engine.name != name:
        return f"calls itself {engine.name!r}; its attribute `name` must be {name!r}"
    for member, value in (("sample_rate", engine.sample_rate), ("rows", engine.rows)):
        if not isinstance(value, int) or value < 1:
            return f"has {member} = {value!r}; it must be a whole number from 1 up"
    return ""


def _unusable(entry: EntryPoint, why: str) -> EngineLoadError:
    """Return the error for an engine that cannot be used."""
    return EngineLoadError(f"the engine {entry.name!r} of {_distribution(entry)} {why}; repair or uninstall it")


def _distribution(entry: EntryPoint) -> str:
    """Name the distribution of an entry point, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
