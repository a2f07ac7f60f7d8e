"""The speech engines. All implement the interface in `base`; `load` imports the module of an engine when it needs it.

Three engines are part of voxspool. Other distributions add theirs with entry points (`plugins`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.errors import UnknownEngineError, VoxspoolError
from voxspool.protocol.jobs import ENGINES
from voxspool.suggestions import did_you_mean
from voxspool_worker.engines import plugins

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.settings import Settings


log = logging.getLogger(__name__)

STAND_INS: Final = {"xtts": "piper"}
"""Engine -> the engine that a worker loads instead if the first cannot be loaded."""


class LoadedEngine(NamedTuple):
    """An engine in memory and, if it replaces another, the reason."""

    engine: Engine
    fallback_from: str = ""
    """Name of the engine that could not be loaded, a colon and the error; empty if the wanted engine was loaded."""


def load_or_stand_in(settings: Settings, connect: Callable[..., Redis] | None = None) -> LoadedEngine:
    """Load the engine that the settings name. If that fails, log an error and load its stand-in, if it has one.

    Raises the error of the wanted engine (see `load`) if neither can be loaded.
    """
    wanted = settings.engine
    for line in plugins.find().refused:
        log.warning("engine.refused %s", line)
    try:
        return LoadedEngine(load(wanted, settings, connect))
    except VoxspoolError as error:
        stand_in = STAND_INS.get(wanted)
        if stand_in is None:
            raise
        try:
            engine = load(stand_in, settings)
        except VoxspoolError:
            raise error from None
        log.error("engine.fallback wanted=%s error=%s serving=%s", wanted, error, stand_in)  # noqa: TRY400 - a traceback adds nothing
        return LoadedEngine(engine, f"{wanted}: {error}")


def names() -> list[str]:
    """Return the names of all engines in this environment: voxspool's own, then those of other distributions."""
    return [*ENGINES, *plugins.find().engines]


def check_name(name: str) -> None:
    """Raise UnknownEngineError, with the closest name, if this environment has no engine of this name."""
    if name not in (known := names()):
        raise UnknownEngineError(f"there is no engine {name!r}{did_you_mean(name, known)}")


def load(name: str, settings: Settings, connect: Callable[..., Redis] | None = None) -> Engine:
    """Load an engine into memory. `connect` returns a client of the Redis that holds cloned voices; None: no clones.

    Raises UnknownEngineError, MissingExtraError (with the install command), UnknownVoiceError (no voice is installed),
    CheckpointError, SettingsError and EngineLoadError.
    """
    check_name(name)
    if name == "tone":
        from voxspool_worker.engines.tone import ToneEngine

        return ToneEngine()
    if name == "piper":
        from voxspool_worker.engines.piper import PiperEngine, get_command, voice_folders

        folders = voice_folders(settings.piper_voices, settings.voices_dir)
        return PiperEngine(folders, get=get_command(settings.piper_voices))
    if name == "xtts":
        from voxspool_worker.engines import xtts

        return xtts.load(settings, connect)
    return plugins.load(plugins.find().engines[name], settings)
