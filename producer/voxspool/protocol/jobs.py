"""Define the job that a producer enqueues: JobSpec, its limits and its JSON, and the names of the queues.

This module does not know which voices exist or how a text is split, and it does not use Redis.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args
from uuid import uuid4

from voxspool.errors import InvalidJobError, UnknownEngineError, UnknownQueueError
from voxspool.protocol import VERSION
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TASK: Final = "voxspool_worker.tasks.synthesize"
"""The function of speech jobs. Jobs on voxspool's queues may name only this one and `narration.TASK`."""

Priority = Literal["interactive", "batch"]
PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)

AUTO: Final = "auto"
"""Leave the choice of the engine to routing, else to the first free worker."""
ENGINES: Final = ("piper", "tone", "xtts")
"""The engines that voxspool includes. Workers may have others, with any name that `is_engine_name` accepts."""

MAX_TEXT_CHARS: Final = 100_000
"""Limit for a job's text, in characters: about two hours of speech, 330 MB in Redis at 24 kHz.

Longer texts are books, which are narrated with one job for each chapter.
"""

MIN_SPEED: Final = 0.5
MAX_SPEED: Final = 2.0
"""Outside this range the voices are not intelligible."""

MAX_SEED: Final = 2**32 - 1
MILLIONTHS: Final = 1_000_000
"""A digest has the speed and pauses as whole numbers of millionths, since languages write fractions differently."""

AUDIO_BASE_S: Final = 60
AUDIO_PER_CHAR_S: Final = 2.0
"""Limit for the audio of n characters at speed 1, in seconds: AUDIO_BASE_S + n * AUDIO_PER_CHAR_S.

This is about thirty times the duration of a sentence, because a number or an abbreviation may be many words. An engine
that produces more has failed to stop.
"""
MAX_AUDIO_S: Final = 6 * 3600
"""Limit for the audio of any job, in seconds: 1.1 GB in Redis at 24 kHz."""

MIN_LIVE_S: Final = 1
"""Shortest `live_s`, in seconds. Below about 10 s a job does not survive that its reader's connection breaks."""
MAX_LIVE_S: Final = 24 * 3600
MIN_WINDOW_S: Final = 1
MAX_WINDOW_S: Final = 3600
LONGEST_REPORT_S: Final = 1.0
"""Interval at which readers report how far they are, in seconds, at the longest."""
REPORTS: Final = 4
"""Number of reports of a reader within `live_s`, at the least. A live job thus survives that two of them come late."""
WINDOW_LIVE_S: Final = 600
"""`live_s` of a job that states only `window_s`, in seconds: a job that waits for its reader must not wait for ever."""

MAX_META_BYTES: Final = 1024
"""Limit for a job's metadata as JSON in UTF-8: it is in the job and in its entries, and lists read it for each job."""

DEFAULT_KEEP_S: Final = 3600
MAX_KEEP_S: Final = 30 * 24 * 3600

TIMEOUT_BASE_S: Final = 120
TIMEOUT_PER_CHAR_S: Final = 0.5
"""Time limit of a job, in seconds: TIMEOUT_BASE_S + TIMEOUT_PER_CHAR_S for each character.

The slowest engine measured took 0.1 s for each character (724 in 73 s). The rest is for other jobs in the same batch.
"""

_ENGINE = re.compile(r"[a-z]([a-z0-9_-]{0,30}[a-z0-9])?")
"""An engine's name is part of the names of queues and keys, of file names and of command lines."""
ENGINE_NAME_RULE: Final = "a name has 1 to 32 of a-z 0-9 _ -, begins with a letter and does not end with _ or -"
_NOT_ENGINES = frozenset({AUTO, *PRIORITIES})
"""Words that do not name an engine, because commands accept them in place of a queue's name."""
_QUEUE = re.compile(rf"voxspool-(?P<engine>.+)-({'|'.join(PRIORITIES)})")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_MAX_VOICE_CHARS = 200
_MAX_LANGUAGE_CHARS = 35
"""RFC 5646, section 4.4.1: the length that every program should have room for; longer tags are not in use."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The job of one speech. The fields are checked on construction, so every JobSpec is valid.

    Raises InvalidJobError or UnknownEngineError, with the value and what to do.
    """

    text: str
    """The text to speak, at most MAX_TEXT_CHARS characters. A text that is empty or has only symbols gives no audio."""
    id: str = dataclasses.field(default_factory=lambda: uuid4().hex)
    """1 to 128 letters, digits, `_` and `-`. With an id of your own, enqueueing the same job twice has no effect."""
    voice: str | None = None
    """A name from `voxspool voices`; None: the engine's default voice."""
    language: str | None = None
    """A language tag such as `en` or `pt-br`; None: the voice's default language."""
    engine: str = AUTO
    """`auto`, or the name of an engine. If no worker has this engine, the job waits until one has."""
    speed: float = 1.0
    """Speed of the speech, 0.5 (half) to 2.0 (double)."""
    seed: int = 0
    """Seed of random numbers. The same job with the same seed gives the same samples on the same machine."""
    priority: Priority = "interactive"
    keep_s: int = DEFAULT_KEEP_S
    """Lifetime of the stream after its terminal entry, in seconds."""
    live_s: int | None = None
    """The job is cancelled if no reader reads it for this time, in seconds; None: it does not need a reader."""
    window_s: int | None = None
    """How far the audio may be ahead of the reader, in seconds; None: the worker does not wait for the reader."""
    reuse: bool = False
    """True: segments come from the segment store if it has them, and the others are stored in it."""
    meta: dict[str, Any] | None = dataclasses.field(default=None, hash=False)
    """Data of the producer, which comes back in the `begin` and `end` entries and in lists of jobs.

    Any JSON object of at most MAX_META_BYTES. It does not change the speech.
    """

    def __post_init__(self) -> None:
        """Check all fields."""
        _check_types(self)
        if not _ID.fullmatch(self.id):
            raise InvalidJobError(
                f"job id {_shown(self.id)} has other characters than letters, digits, _ and -, or is not 1 to 128 long"
            )
        if len(self.text) > MAX_TEXT_CHARS:
            raise InvalidJobError(
                f"the text has {len(self.text):,} characters and the limit is {MAX_TEXT_CHARS:,}; "
                "enqueue it in parts, one job for each chapter"
            )
        if self.engine != AUTO:
            check_engine_name(self.engine)
        if self.voice is not None and not (0 < len(self.voice) <= _MAX_VOICE_CHARS and self.voice.isprintable()):
            raise InvalidJobError(f"voice {_shown(self.voice)} is not a name of 1 to {_MAX_VOICE_CHARS} characters")
        if self.language is not None and not (
            len(self.language) <= _MAX_LANGUAGE_CHARS and _LANGUAGE.fullmatch(self.language)
        ):
            raise InvalidJobError(f"language {_shown(self.language)} is not a language tag; write it like en or pt-br")
        if not MIN_SPEED <= self.speed <= MAX_SPEED:
            raise InvalidJobError(f"speed {_shown(self.speed)} is outside {MIN_SPEED} to {MAX_SPEED}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidJobError(f"seed {_shown(self.seed)} is outside 0 to {MAX_SEED}")
        if self.priority not in PRIORITIES:
            raise InvalidJobError(f"priority {_shown(self.priority)} is neither {' nor '.join(PRIORITIES)}")
        _check_spans(self)
        _check_meta(self)

    @property
    def queue(self) -> str:
        """The name of the RQ queue for the job's engine and priority. Routing may choose another for an `auto` job."""
        return queue_name(self.engine, self.priority)

    @property
    def timeout_s(self) -> int:
        """The time limit of one attempt, in seconds. It depends on the length of the text."""
        return TIMEOUT_BASE_S + int(TIMEOUT_PER_CHAR_S * len(self.text))

    @property
    def unread_limit_s(self) -> int | None:
        """The time without a reader after which the job is cancelled, in seconds; None: it does not need a reader."""
        return self.live_s or (None if self.window_s is None else WINDOW_LIVE_S)

    @property
    def max_audio_s(self) -> int:
        """The limit for the duration of the audio, in seconds."""
        return min(MAX_AUDIO_S, AUDIO_BASE_S + int(AUDIO_PER_CHAR_S * len(self.text) / self.speed))

    @property
    def manner(self) -> tuple[str, ...]:
        """How the text is spoken: the first lines of a digest. Two numbers are whole in every language: speed, seed."""
        speed = round(self.speed * MILLIONTHS)
        engine = f"{self.engine}+reuse" if self.reuse else self.engine  # the segments have other seeds then
        return engine, self.voice or "", self.language or "", str(speed), str(self.seed)

    @property
    def digest(self) -> str:
        """The SHA-256 of what is spoken, in hexadecimal. It differs if `says_the_same` does. See docs/protocol.md."""
        return digest_of((*self.manner, self.text))

    def says_the_same(self, other: JobSpec) -> bool:
        """Return whether both give the same audio: all but priority, keep_s, live_s, window_s and meta are equal."""
        alike = {name: getattr(other, name) for name in ("keep_s", "priority", "live_s", "window_s", "meta")}
        return dataclasses.replace(self, **alike) == other

    def encode(self) -> dict[str, Any]:
        """Return the JSON object that is the job's only argument.

        Fields that were added to the protocol later are left out if they are not set: then older workers accept the
        job.
        """
        fields = dataclasses.asdict(self)
        return {"version": VERSION} | {
            name: value for name, value in fields.items() if name not in _LATER or value not in (None, False)
        }

    @classmethod
    def decode(cls, data: object) -> JobSpec:
        """Return the job of an untrusted JSON object.

        Raises InvalidJobError for another version, or for a missing, unknown or invalid field.
        """
        if not isinstance(data, dict):
            # Name the type, not the value: the value may be the text, which must not be logged.
            raise InvalidJobError(f"a job's argument is a JSON object, not {_kind(data)}")
        fields = dict(data)
        version = fields.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise InvalidJobError(f"the job has protocol version {_shown(version)}; this worker supports {VERSION}")
        unknown = sorted(str(name) for name in set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InvalidJobError(f"the job has an unknown field: {_shown(unknown[0])}")
        missing = sorted({"text", "id"} - set(fields))
        if missing:
            raise InvalidJobError(f"the job has no {missing[0]}")
        return cls(**fields)


def digest_of(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines of text in UTF-8, in hexadecimal."""
    return hashlib.sha256("\n".join(lines).encode(errors="surrogatepass")).hexdigest()


def report_every_s(live_s: int | None) -> float:
    """Return how often the readers of a job report how far they are, in seconds."""
    return LONGEST_REPORT_S if live_s is None else min(LONGEST_REPORT_S, live_s / REPORTS)


def is_engine_name(name: str) -> bool:
    """Return whether an engine may have this name. The words `auto`, `interactive` and `batch` are not allowed."""
    return name not in _NOT_ENGINES and bool(_ENGINE.fullmatch(name))


def check_engine_name(name: str) -> None:
    """Raise UnknownEngineError for a name that no engine can have, with the nearest known name and the rule."""
    if not is_engine_name(name):
        hint = did_you_mean(name, (AUTO, *ENGINES))
        raise UnknownEngineError(f"there is no engine {_shown(name)}{hint}; {ENGINE_NAME_RULE}")


def queue_name(engine: str, priority: str) -> str:
    """Return the name of the queue for a priority and an engine, or `auto`, whose queue every worker serves."""
    return f"voxspool-{engine}-{priority}"


def queue_names(engine: str) -> list[str]:
    """Return the names of the queues that a worker with this engine serves. It empties earlier queues first."""
    return [queue_name(wanted, priority) for priority in PRIORITIES for wanted in (engine, AUTO)]


def all_queue_names(engines: Sequence[str] = ENGINES) -> list[str]:
    """Return the names of all queues for these engines and `auto`."""
    return [queue_name(engine, priority) for engine in (*engines, AUTO) for priority in PRIORITIES]


def queues_named(words: Sequence[str], engines: Sequence[str] = ENGINES) -> list[str]:
    """Return the names of the queues that match any of the words; all queues if there are no words.

    A word is a queue's name, an engine, `auto` or a priority. `engines` are the engines that have queues.
    Raises UnknownQueueError for any other word.
    """
    names = all_queue_names(engines)
    for word in words:
        if word not in names and word not in (AUTO, *engines, *PRIORITIES):
            hint = did_you_mean(word, (*names, AUTO, *engines, *PRIORITIES))
            raise UnknownQueueError(f"there is no queue {_shown(word)}{hint}; name an engine, a priority or a queue")
    return [name for name in names if not words or {name, engine_of(name), priority_of(name)} & {*words}]


def engine_of(queue: str) -> str | None:
    """Return the engine, or `auto`, of a queue; None if the name is not a queue's name (see `queue_name`)."""
    found = _QUEUE.fullmatch(queue)
    engine = found["engine"] if found else ""
    return engine if engine == AUTO or is_engine_name(engine) else None


def priority_of(queue: str) -> Priority:
    """Return the priority of a queue whose name is from `queue_name`."""
    return cast("Priority", queue.rpartition("-")[2])


def _shown(value: object) -> str:
    """Return a value for a message: as JSON, on one line, of at most 60 characters."""
    try:
        text = json.dumps(value, default=repr)
    except (ValueError, RecursionError):  # a number of thousands of digits, or lists nested too deeply
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


_LATER: Final = frozenset({"live_s", "window_s", "meta", "reuse"})
"""Fields that were added to protocol version 1 later, and that the first workers of this version refuse."""


def _kind(value: object) -> str:
    """Return the name of a value's type for a message."""
    return "null" if value is None else type(value).__name__


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "text": (str,),
    "id": (str,),
    "voice": (str, type(None)),
    "language": (str, type(None)),
    "engine": (str,),
    "speed": (float, int),
    "seed": (int,),
    "priority": (str,),
    "keep_s": (int,),
    "live_s": (int, type(None)),
    "window_s": (int, type(None)),
    "meta": (dict, type(None)),
    "reuse": (bool,),
}


_SPANS_S: Final = {
    "keep_s": (1, MAX_KEEP_S),
    "live_s": (MIN_LIVE_S, MAX_LIVE_S),
    "window_s": (MIN_WINDOW_S, MAX_WINDOW_S),
}


def _check_spans(spec: JobSpec) -> None:
    """Raise InvalidJobError for a duration that is too short or too long."""
    for name, (least, most) in _SPANS_S.items():
        value = getattr(spec, name)
        if value is not None and not least <= value <= most:
            raise InvalidJobError(f"{name} {_shown(value)} is outside {least} to {most} seconds")


def _check_meta(spec: JobSpec) -> None:
    """Raise InvalidJobError for metadata that is no JSON, or too much of it."""
    try:
        size = len(json.dumps(spec.meta, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidJobError(f"meta is not a JSON object ({error}); use texts, numbers, lists and objects") from error
    if size > MAX_META_BYTES:
        raise InvalidJobError(
            f"meta has {size:,} bytes as JSON and the limit is {MAX_META_BYTES:,}; keep a key of your own in it"
        )


def _check_types(spec: JobSpec) -> None:
    """Raise InvalidJobError for a field of a wrong type, from JSON or from a caller without a type checker."""
    for name, types in _TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            shown = _kind(value) if name == "text" else _shown(value)  # errors are logged, and the text must not be
            raise InvalidJobError(f"{name} is {shown}, not {kinds}")
