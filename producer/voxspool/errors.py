"""Every error voxspool raises, in one tree.

    VoxspoolError                   the root: the commands print it as one line
    ├── SettingsError               an environment variable that cannot be used
    ├── InvalidJobError             a job that cannot be taken: text, voice, speed, id …
    │   ├── UnknownEngineError      no such engine, or not on this worker
    │   ├── UnknownVoiceError       no such voice, with the near names
    │   ├── UnknownLanguageError    the voice does not speak it
    │   └── JobExistsError          the id is taken by another text
    ├── VoiceError                  a cloned voice that cannot be stored or used as it is
    │   ├── ClipError               a recording that no voice can be cloned from
    │   └── VoiceExistsError        the name is taken
    ├── RedisError                  Redis cannot be used
    │   ├── RedisUnavailableError   nobody answers, or it does not let us in
    │   └── RedisTooOldError        older than 6.2
    ├── StreamError                 a stream that cannot be followed
    │   ├── UnknownJobError         no such job, or it expired
    │   ├── StreamGapError          entries are missing: a write was lost
    │   └── ProtocolError           an entry that is not of this protocol
    ├── SpeechError                 the job ended without speech
    │   ├── SpeechFailedError       the worker says why: code, sentence, retryable
    │   └── SpeechCancelledError    somebody cancelled it
    ├── BusyError                   no room for another job now; says when to try again
    ├── UnknownQueueError           no such queue
    ├── DeadlineError               nothing came within the caller's deadline
    ├── BookError                   a book that cannot be read, or text of it that cannot be spoken as written
    ├── StoreError                  a segment store that cannot be used, or has lost what it had
    ├── OutputError                 a file or a loudspeaker that cannot be written to
    ├── MissingExtraError           an optional library is not installed
    ├── EngineLoadError             an engine from another distribution that cannot be loaded
    ├── CheckpointError             a speech model's files that are missing or broken
    ├── CatalogueError              a catalogue of voices that cannot be read, or a voice that cannot be got from it
    └── EmbeddedError               the private Redis or worker did not come up

A message is one line: what was wrong, the value, what to do. Across the wire travel a code and a sentence, never a
traceback. An error also knows whether a wrong value caused it: the commands exit with 2 then, else with 1. This module
imports nothing of voxspool.
"""

from __future__ import annotations


class VoxspoolError(Exception):
    """The root of the tree."""

    code = "error"
    """Short name of the kind of error, stable across versions: it is what a `failed` entry carries."""
    wrong_value = False
    """True if the caller gave a value that can never be used: an option, a variable, a name, the text of a job."""

    def __init__(self, message: str = "", *, wrong_value: bool | None = None) -> None:
        """Store the message. Pass `wrong_value` only if it differs from the default of the class."""
        super().__init__(message)
        if wrong_value is not None:
            self.wrong_value = wrong_value

    def __str__(self) -> str:
        return " ".join(super().__str__().split("\n"))


class SettingsError(VoxspoolError):
    """An environment variable that cannot be used."""

    code = "settings"
    wrong_value = True


class InvalidJobError(VoxspoolError):
    """A job that cannot be taken as it stands."""

    code = "invalid-job"
    wrong_value = True


class UnknownEngineError(InvalidJobError):
    """An engine that does not exist, or that this worker does not have."""

    code = "unknown-engine"


class UnknownVoiceError(InvalidJobError):
    """A voice that the engine does not have."""

    code = "unknown-voice"


class UnknownLanguageError(InvalidJobError):
    """A language that the voice does not speak."""

    code = "unknown-language"


class JobExistsError(InvalidJobError):
    """The job id is taken by a job that says something else."""

    code = "job-exists"


class VoiceError(VoxspoolError):
    """A cloned voice that cannot be stored, or that cannot be used as it is stored."""

    code = "voice"


class ClipError(VoiceError):
    """A recording that no voice can be cloned from, with what is wrong and what to do."""

    code = "clip"


class VoiceExistsError(VoiceError):
    """The name is taken by another voice."""

    code = "voice-exists"


class RedisError(VoxspoolError):
    """Redis cannot be used."""

    code = "redis"


class RedisUnavailableError(RedisError):
    """Nobody answers at the URL, or it does not let us in."""

    code = "redis-unavailable"


class RedisTooOldError(RedisError):
    """The server is older than voxspool serves."""

    code = "redis-too-old"


class StreamError(VoxspoolError):
    """A stream that cannot be followed."""

    code = "stream"


class UnknownJobError(StreamError):
    """No such job, or its stream has outlived its time."""

    code = "unknown-job"


class StreamGapError(StreamError):
    """Entries are missing within an attempt: Redis lost a write."""

    code = "stream-gap"


class ProtocolError(StreamError):
    """An entry that is not of this protocol, or of a version not known here."""

    code = "protocol"


class SpeechError(VoxspoolError):
    """The job ended without its speech."""

    code = "speech"


class SpeechFailedError(SpeechError):
    """The worker gave the job up. `code`, the sentence and `retryable` come from its `failed` entry."""

    def __init__(self, sentence: str, *, code: str = "failed", retryable: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.retryable = retryable


class SpeechCancelledError(SpeechError):
    """Somebody cancelled the job."""

    code = "cancelled"


class BusyError(VoxspoolError):
    """There is no room for another job now: Redis is full, or the queue is long. Nothing was enqueued."""

    code = "busy"

    def __init__(self, why: str, retry_after_s: int) -> None:
        super().__init__(f"busy ({why}); try again in about {retry_after_s} s")
        self.retry_after_s = retry_after_s
        """When there may be room, in seconds."""


class UnknownQueueError(VoxspoolError):
    """A word that names no queue of voxspool."""

    code = "unknown-queue"
    wrong_value = True


class DeadlineError(VoxspoolError):
    """Nothing came within the caller's own deadline; the job goes on."""

    code = "deadline"


class BookError(VoxspoolError):
    """A book that cannot be read, or text of it that cannot be spoken as it is written."""

    code = "book"


class StoreError(VoxspoolError):
    """A segment store that cannot be used, or has lost what it had."""

    code = "store"


class OutputError(VoxspoolError):
    """A file or a loudspeaker that cannot be written to."""

    code = "output"


class MissingExtraError(VoxspoolError):
    """An optional library is not installed; the message names its install command."""

    code = "missing-extra"


class EngineLoadError(VoxspoolError):
    """An engine from another distribution cannot be loaded; the message names the distribution and the reason."""

    code = "engine-load"


class CheckpointError(VoxspoolError):
    """A speech model's files are missing or broken; the message names the file and what to do."""

    code = "checkpoint"


class CatalogueError(VoxspoolError):
    """A catalogue of voices cannot be read, or a voice cannot be got from it."""

    code = "catalogue"


class EmbeddedError(VoxspoolError):
    """The private Redis or worker did not come up; the message holds its last words."""

    code = "embedded"
