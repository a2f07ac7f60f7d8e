"""voxspool, a text-to-speech queue on Redis: enqueue text, read the audio from a Redis stream while it is being made.

    from voxspool import Client

    with Client() as client:
        speech = client.enqueue("It was a bright cold day in April.")
        for chunk in speech:          # while it is being spoken
            consume(chunk.pcm)        # s16le, mono, chunk.sample_rate
        speech.save("april.flac")     # or again, from the start, as a file

`AsyncClient` and `AsyncSpeech` offer the same for asyncio. `Client.enqueue` describes the options of a speech.

A name of this module is loaded when it is first used, so that importing voxspool is cheap.
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
    StreamReplacedError,
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
    from voxspool.aio import AsyncClient, AsyncEnqueue, AsyncSpeech
    from voxspool.client import Client, Placed, SpeechOptions
    from voxspool.embedded import Embedded
    from voxspool.narration.jobs import NarrationJobs, NarrationRecord
    from voxspool.protocol.jobs import JobSpec
    from voxspool.protocol.narration import ChapterSpec, Passage
    from voxspool.protocol.stream import Audio, Begin, Cancelled, End, EntryId, Failed, Mark
    from voxspool.protocol.voices import ClonedVoice, StoredClip
    from voxspool.queue.enqueuer import EvictionWarning
    from voxspool.queue.job_list import ListedJob
    from voxspool.queue.overview import Overview
    from voxspool.reading.queue_place import QueuePlace
    from voxspool.reading.reader import JobState, Received
    from voxspool.reading.waiting import NoWorkerWarning, RedisAwayWarning
    from voxspool.settings import Settings
    from voxspool.speech import Chunk, Listener, Speech
    from voxspool.workers import WorkerCard

__all__ = [
    "AsyncClient",
    "AsyncEnqueue",
    "AsyncSpeech",
    "Audio",
    "Begin",
    "BookError",
    "BusyError",
    "Cancelled",
    "CatalogueError",
    "ChapterSpec",
    "CheckpointError",
    "Chunk",
    "Client",
    "ClipError",
    "ClonedVoice",
    "DeadlineError",
    "Embedded",
    "EmbeddedError",
    "End",
    "EngineLoadError",
    "EntryId",
    "EvictionWarning",
    "Failed",
    "InvalidJobError",
    "JobExistsError",
    "JobSpec",
    "JobState",
    "ListedJob",
    "Listener",
    "Mark",
    "MissingExtraError",
    "NarrationJobs",
    "NarrationRecord",
    "NoWorkerWarning",
    "OutputError",
    "Overview",
    "Passage",
    "Placed",
    "ProtocolError",
    "QueuePlace",
    "Received",
    "RedisAwayWarning",
    "RedisError",
    "RedisTooOldError",
    "RedisUnavailableError",
    "Settings",
    "SettingsError",
    "Speech",
    "SpeechCancelledError",
    "SpeechError",
    "SpeechFailedError",
    "SpeechOptions",
    "StoreError",
    "StoredClip",
    "StreamError",
    "StreamGapError",
    "StreamReplacedError",
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
    "AsyncEnqueue": "aio",
    "AsyncSpeech": "aio",
    "Audio": "protocol.stream",
    "Begin": "protocol.stream",
    "Cancelled": "protocol.stream",
    "ChapterSpec": "protocol.narration",
    "Chunk": "speech",
    "Client": "client",
    "ClonedVoice": "protocol.voices",
    "Embedded": "embedded",
    "End": "protocol.stream",
    "EntryId": "protocol.stream",
    "EvictionWarning": "queue.enqueuer",
    "Failed": "protocol.stream",
    "JobSpec": "protocol.jobs",
    "JobState": "reading.reader",
    "ListedJob": "queue.job_list",
    "Listener": "speech",
    "Mark": "protocol.stream",
    "NarrationJobs": "narration.jobs",
    "NarrationRecord": "narration.jobs",
    "NoWorkerWarning": "reading.waiting",
    "Overview": "queue.overview",
    "Passage": "protocol.narration",
    "Placed": "client",
    "QueuePlace": "reading.queue_place",
    "Received": "reading.reader",
    "RedisAwayWarning": "reading.waiting",
    "Settings": "settings",
    "Speech": "speech",
    "SpeechOptions": "client",
    "StoredClip": "protocol.voices",
    "WorkerCard": "workers",
}
"""A name that is loaded late -> the module that defines it."""


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Return all names, also those that are not loaded yet: for `help(voxspool)` and completion."""
    return sorted({*globals(), *__all__})
