"""voxspool, a text-to-speech queue on Redis: enqueue text, read the audio from a Redis stream while it is being made.

    from voxspool import Client

    with Client() as client:
        speech = client.enqueue("It was a bright cold day in April.")
        for chunk in speech:          # while it is being spoken
            consume(chunk.pcm)        # s16le, mono, chunk.sample_rate
        speech.save("april.flac")     # or again, from the start, as a file

This module is the public surface and nothing else. A name is loaded when it is first used: importing voxspool is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from voxspool.errors import (
    BookError,
    BusyError,
    CatalogueError,
    CheckpointError,
    ClipError,
    DeadlineError,
    EmbeddedError,
    EngineLoadError,
    InvalidJobError,
    JobExistsError,
    MissingExtraError,
    OutputError,
    ProtocolError,
    RedisError,
    RedisTooOldError,
    RedisUnavailableError,
    SettingsError,
    SpeechCancelledError,
    SpeechError,
    SpeechFailedError,
    StoreError,
    StreamError,
    StreamGapError,
    UnknownEngineError,
    UnknownJobError,
    UnknownLanguageError,
    UnknownQueueError,
    UnknownVoiceError,
    VoiceError,
    VoiceExistsError,
    VoxspoolError,
)

if TYPE_CHECKING:
    from voxspool.aio import AsyncClient, AsyncSpeech
    from voxspool.client import Chunk, Client, Overview, Placed, Speech
    from voxspool.embedded import Embedded
    from voxspool.protocol.voices import ClonedVoice
    from voxspool.reading.reader import JobState
    from voxspool.reading.waiting import NoWorkerWarning
    from voxspool.settings import Settings
    from voxspool.workers import WorkerCard

__all__ = [
    "AsyncClient",
    "AsyncSpeech",
    "BookError",
    "BusyError",
    "CatalogueError",
    "CheckpointError",
    "Chunk",
    "Client",
    "ClipError",
    "ClonedVoice",
    "DeadlineError",
    "Embedded",
    "EmbeddedError",
    "EngineLoadError",
    "InvalidJobError",
    "JobExistsError",
    "JobState",
    "MissingExtraError",
    "NoWorkerWarning",
    "OutputError",
    "Overview",
    "Placed",
    "ProtocolError",
    "RedisError",
    "RedisTooOldError",
    "RedisUnavailableError",
    "Settings",
    "SettingsError",
    "Speech",
    "SpeechCancelledError",
    "SpeechError",
    "SpeechFailedError",
    "StoreError",
    "StreamError",
    "StreamGapError",
    "UnknownEngineError",
    "UnknownJobError",
    "UnknownLanguageError",
    "UnknownQueueError",
    "UnknownVoiceError",
    "VoiceError",
    "VoiceExistsError",
    "VoxspoolError",
    "WorkerCard",
]

_HOMES = {
    "AsyncClient": "aio",
    "AsyncSpeech": "aio",
    "Chunk": "client",
    "Client": "client",
    "ClonedVoice": "protocol.voices",
    "Embedded": "embedded",
    "JobState": "reading.reader",
    "NoWorkerWarning": "reading.waiting",
    "Overview": "client",
    "Placed": "client",
    "Settings": "settings",
    "Speech": "client",
    "WorkerCard": "workers",
}


def __getattr__(name: str) -> object:
    """Load a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
