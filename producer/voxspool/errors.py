"""Every error voxspool raises, in one tree.

    VoxspoolError                   the base class: the commands print it as one line
    ├── SettingsError               an environment variable that cannot be used
    ├── InvalidJobError             a job that cannot be taken: text, voice, speed, id …
    │   ├── UnknownEngineError      no such engine, or not on this worker
    │   ├── UnknownVoiceError       no such voice, with similar names
    │   ├── UnknownLanguageError    the voice does not speak it
    │   └── JobExistsError          the id belongs to another speech
    ├── VoiceError                  a cloned voice that cannot be stored or used as it is
    │   ├── ClipError               a recording that no voice can be cloned from
    │   └── VoiceExistsError        the name is taken
    ├── RedisError                  Redis cannot be used
    │   ├── RedisUnavailableError   no server answers, or it refuses the login
    │   └── RedisTooOldError        older than 6.2
    ├── StreamError                 a stream that cannot be read
    │   ├── UnknownJobError         no such job, or it expired
    │   ├── StreamGapError          entries are missing: a write was lost
    │   ├── StreamReplacedError     the id was enqueued again while its earlier stream was read
    │   └── ProtocolError           an entry that is not of this protocol
    ├── SpeechError                 the job ended without speech
    │   ├── SpeechFailedError       the worker's reason: code, sentence, retryable
    │   └── SpeechCancelledError    the job was cancelled
    ├── BusyError                   no room for another job now; it says when to try again
    ├── UnknownQueueError           no such queue
    ├── DeadlineError               no entry came within the caller's time limit
    ├── BookError                   a book that cannot be read, or text of it that cannot be spoken as written
    ├── StoreError                  a segment store that cannot be used, or has lost segments
    ├── OutputError                 a file or a loudspeaker that cannot be written to
    ├── MissingExtraError           an optional library is not installed
    ├── EngineLoadError             an engine from another distribution that cannot be loaded
    ├── CheckpointError             a speech model's files that are missing or broken
    ├── CatalogueError              a catalogue of voices that cannot be read, or a voice that it cannot provide
    └── EmbeddedError               the private Redis or worker did not start

A message is one line: what was wrong, the value, what to do. A `failed` entry carries a code and a sentence, never a
traceback. `wrong_value` is true if the caller's input caused the error: then the commands exit with 2, else with 1.
This module imports nothing of voxspool.
"""

from __future__ import annotations


class VoxspoolError(Exception):
    """The base class of all errors that voxspool raises."""

    code = "error"
    """The short name of the kind of error, which a `failed` entry carries. It does not change between versions."""
    wrong_value = False
    """True if the caller gave a value that can never be used: an option, a variable, a name, the text of a job."""

    def __init__(self, message: str = "", *, wrong_value: bool | None = None) -> None:
        """Store the message. Pass `wrong_value` only if it differs from that of the class."""
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
    """A job that cannot be accepted: its text, an option or its id is wrong."""

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
    """The job id belongs to another speech: another text, voice or setting."""

    code = "job-exists"


class VoiceError(VoxspoolError):
    """A cloned voice that cannot be stored, or that cannot be used as it is stored."""

    code = "voice"


class ClipError(VoiceError):
    """A recording that no voice can be cloned from; the message says what is wrong and what to do."""

    code = "clip"


class VoiceExistsError(VoiceError):
    """Another voice has this name."""

    code = "voice-exists"


class RedisError(VoxspoolError):
    """Redis cannot be used."""

    code = "redis"


class RedisUnavailableError(RedisError):
    """No Redis answers at the URL, or it refuses the login or a command."""

    code = "redis-unavailable"


class RedisTooOldError(RedisError):
    """The server is older than Redis 6.2."""

    code = "redis-too-old"


class StreamError(VoxspoolError):
    """A stream that cannot be read."""

    code = "stream"


class UnknownJobError(StreamError):
    """There is no such job, or its stream has expired."""

    code = "unknown-job"


class StreamGapError(StreamError):
    """Entries or samples are missing: Redis lost a write."""

    code = "stream-gap"


class StreamReplacedError(StreamError):
    """The job failed or was cancelled, and its id was enqueued again while a reader was in the middle of its stream."""

    code = "stream-replaced"


class ProtocolError(StreamError):
    """An entry that is not of this protocol, or of an unknown version of it."""

    code = "protocol"


class SpeechError(VoxspoolError):
    """The job ended without its speech."""

    code = "speech"


class SpeechFailedError(SpeechError):
    """The worker failed the job. `code`, the sentence and `retryable` come from its `failed` entry."""

    def __init__(self, sentence: str, *, code: str = "failed", retryable: bool = False) -> None:
        super().__init__(sentence)
        self.code = code
        self.retryable = retryable


class SpeechCancelledError(SpeechError):
    """The job was cancelled."""

    code = "cancelled"


class BusyError(VoxspoolError):
    """There is no room for another job now: Redis is full, or the queue is long."""

    code = "busy"

    def __init__(self, why: str, retry_after_s: int, enqueued: int = 0) -> None:
        some = f"; the first {enqueued:,} are enqueued" if enqueued else ""
        super().__init__(f"busy ({why}); try again in about {retry_after_s} s{some}")
        self.enqueued = enqueued
        """The number of jobs that were enqueued, the first ones of a call for many. A call for one enqueued nothing."""
        self.retry_after_s = retry_after_s
        """The time after which there may be room, in seconds."""


class UnknownQueueError(VoxspoolError):
    """A name that is not that of a queue of voxspool."""

    code = "unknown-queue"
    wrong_value = True


class DeadlineError(VoxspoolError):
    """No entry came within the caller's time limit. The job goes on."""

    code = "deadline"


class BookError(VoxspoolError):
    """A book that cannot be read, or text of it that cannot be spoken as it is written."""

    code = "book"


class StoreError(VoxspoolError):
    """A segment store that cannot be used, or has lost segments."""

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
    """A catalogue of voices cannot be read, or a voice cannot be downloaded from it."""

    code = "catalogue"


class EmbeddedError(VoxspoolError):
    """The private Redis or worker did not start, or ended; the message quotes the last line of its output."""

    code = "embedded"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
