"""The engines: one interface (`base`), and a module for each that is loaded only when it is asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.errors import UnknownEngineError, VoxspoolError
from voxspool.protocol.jobs import ENGINES
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.settings import Settings


log = logging.getLogger(__name__)

STAND_INS: Final = {"xtts": "piper"}
"""An engine that may not load -> the one that then speaks what it can."""


class Loaded(NamedTuple):
    """An engine, loaded; and what it stands in for."""

    engine: Engine
    fallback_from: str = ""
    """`xtts: why it could not be loaded`; empty where it is the engine that was wanted."""


def load_or_stand_in(settings: Settings, connect: Callable[..., Redis] | None = None) -> Loaded:
    """Load the engine that the settings name or, loudly, the one that stands in for it.

    Raises what `load` raises for the engine that was wanted, where neither can be loaded.
    """
    wanted = settings.engine
    try:
        return Loaded(load(wanted, settings, connect))
    except VoxspoolError as error:
        stand_in = STAND_INS.get(wanted)
        if stand_in is None:
            raise
        try:
            engine = load(stand_in, settings)
        except VoxspoolError:
            raise error from None
        log.error("engine.fallback wanted=%s error=%s serving=%s", wanted, error, stand_in)  # noqa: TRY400 - our own error says it all
        return Loaded(engine, f"{wanted}: {error}")


def load(name: str, settings: Settings, connect: Callable[..., Redis] | None = None) -> Engine:
    """Load an engine, ready to speak. `connect` gives a client of the Redis where cloned voices lie; None: no clones.

    Raises UnknownEngineError, MissingExtraError (with the install command), UnknownVoiceError (no voice at all),
    CheckpointError, SettingsError.
    """
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
    raise UnknownEngineError(f"there is no engine {name!r}{did_you_mean(name, ENGINES)}")
