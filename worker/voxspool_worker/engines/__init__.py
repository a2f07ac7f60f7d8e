"""The engines: one interface (`base`), and a module for each that is loaded only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxspool.errors import UnknownEngineError
from voxspool.protocol.jobs import ENGINES
from voxspool.protocol.near import did_you_mean

if TYPE_CHECKING:
    from voxspool_worker.engines.base import Engine
    from voxspool_worker.settings import Settings


def load(name: str, settings: Settings) -> Engine:
    """Load an engine, ready to speak.

    Raises UnknownEngineError, MissingExtraError (with the install command), UnknownVoiceError (no voice at all).
    """
    if name == "tone":
        from voxspool_worker.engines.tone import ToneEngine

        return ToneEngine()
    if name == "piper":
        from voxspool_worker.engines.piper import PiperEngine, voice_folders

        return PiperEngine(voice_folders(settings.piper_voices))
    raise UnknownEngineError(f"there is no engine {name!r}{did_you_mean(name, ENGINES)}")
