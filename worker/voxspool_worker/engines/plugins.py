"""Engines from other distributions, which register them in the entry-point group `voxspool.engines`.

    [project.entry-points."voxspool.engines"]
    letters = "voxspool_letters:LettersEngine"

The name is the engine's name in jobs. The object is called with the worker's `Settings` and returns a `base.Engine`.
Only a worker that is started for this engine imports it.
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
    """The engines that the distributions of this environment register."""

    engines: dict[str, EntryPoint]
    refused: list[str]
    """A line for each name that cannot be used, with the reason."""


def find() -> Registered:
    """Return the registered engines of this environment, without importing them."""
    named = defaultdict(list)
    for entry in entry_points(group=GROUP):
        named[entry.name].append(entry)
    faults = {name: _fault(name, entries) for name, entries in sorted(named.items())}
    usable = {name: named[name][0] for name, fault in faults.items() if not fault}
    return Registered(usable, [fault for fault in faults.values() if fault])


def load(entry: EntryPoint, settings: Settings) -> Engine:
    """Import and construct an engine.

    Raises EngineLoadError, with a message of one line, if that raises an error or if the object does not implement
    `base.Engine`. Passes on every VoxspoolError of the engine, such as MissingExtraError.
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
    return engine  # type: ignore[no-any-return] # its members were checked, but not their types


def _fault(name: str, entries: list[EntryPoint]) -> str:
    """Return why a name cannot be used; an empty text if it can."""
    who = " and ".join(_distribution(entry) for entry in entries)
    if name in ENGINES:
        return f"{who} registers the engine {name!r}, but voxspool has an engine of that name; voxspool's own is used"
    if not is_engine_name(name):
        return f"{who} registers an engine as {name!r}, which cannot be part of a queue's name; {ENGINE_NAME_RULE}"
    return f"{who} both register the engine {name!r}; uninstall one of them" if len(entries) > 1 else ""


def _interface_fault(name: str, engine: object) -> str:
    """Return what is wrong with an object as the engine of this name; an empty text if nothing is."""
    missing = [member for member in _MEMBERS if not hasattr(engine, member)]
    if missing:
        return f"is not an engine: it has no {', '.join(missing)} (see voxspool_worker.engines.base.Engine)"
    assert isinstance(engine, Engine)
    if engine.name != name:
        return f"has the name {engine.name!r}; its attribute `name` must be {name!r}"
    for member, value in (("sample_rate", engine.sample_rate), ("rows", engine.rows)):
        if not isinstance(value, int) or value < 1:
            return f"has {member} = {value!r}; it must be a positive whole number"
    return ""


def _unusable(entry: EntryPoint, why: str) -> EngineLoadError:
    """Return the error for an engine that cannot be used."""
    return EngineLoadError(f"the engine {entry.name!r} of {_distribution(entry)} {why}; repair or uninstall it")


def _distribution(entry: EntryPoint) -> str:
    """Return name and version of the distribution of an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
