"""What a producer asks for: JobSpec, its limits, its JSON, and the names of the queues.

It defines the form of a job and nothing else: not which voices exist, not how a text is split, not Redis.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args
from uuid import uuid4

from voxspool.errors import InvalidJobError, UnknownEngineError, UnknownQueueError
from voxspool.protocol import VERSION
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

TASK: Final = "voxspool_worker.tasks.synthesize"
"""The only function that a job on our queues may name."""

Priority = Literal["interactive", "batch"]
PRIORITIES: Final[tuple[str, ...]] = get_args(Priority)

AUTO: Final = "auto"
"""Leaves the choice of the engine to routing, and to the worker that is free first."""
ENGINES: Final = ("piper", "tone", "xtts")
"""The engines of voxspool itself. Workers may have others, of any name that `is_engine_name` accepts."""

MAX_TEXT_CHARS: Final = 100_000
"""About two hours of speech, 330 MB of Redis at 24 kHz. Longer texts are books: one job a chapter."""

MIN_SPEED: Final = 0.5
MAX_SPEED: Final = 2.0
"""Beyond these the voices stop being intelligible."""

MAX_SEED: Final = 2**32 - 1

AUDIO_BASE_S: Final = 60
AUDIO_PER_CHAR_S: Final = 2.0
"""The longest speech of n characters, at speed 1: some thirty times what a sentence takes, since a figure or an
abbreviation is many words. What is longer is an engine that does not stop."""
MAX_AUDIO_S: Final = 6 * 3600
"""The longest speech of all: 1.1 GB of Redis at 24 kHz."""

MIN_LIVE_S: Final = 5
"""Readers acknowledge once a second, and may lose a connection for a moment."""
MAX_LIVE_S: Final = 24 * 3600
MIN_WINDOW_S: Final = 1
MAX_WINDOW_S: Final = 3600
WINDOW_LIVE_S: Final = 600
"""A job that waits for its reader is live, so that it does not wait for ever; this long where it does not say."""

DEFAULT_KEEP_S: Final = 3600
MAX_KEEP_S: Final = 30 * 24 * 3600

TIMEOUT_BASE_S: Final = 120
TIMEOUT_PER_CHAR_S: Final = 0.5
"""The slowest engine we know of took 0.1 s a character (724 in 73 s); the rest is for company on the rows."""

_ENGINE = re.compile(r"[a-z]([a-z0-9_-]{0,30}[a-z0-9])?")
"""It stands in the names of queues and keys, in file names and on command lines."""
ENGINE_NAME_RULE: Final = "a name has 1 to 32 of a-z 0-9 _ -, begins with a letter and does not end with _ or -"
_NOT_ENGINES = frozenset({AUTO, *PRIORITIES})
"""They mean something else where a queue is named by one word."""
_QUEUE = re.compile(rf"voxspool-(?P<engine>.+)-({'|'.join(PRIORITIES)})")
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_MAX_VOICE_CHARS = 200


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One speech, as a producer asks for it. Checked when made: a JobSpec that exists is well-formed.

    Raises InvalidJobError or UnknownEngineError, with the value and what to do.
    """

    text: str
    """What to say; at most MAX_TEXT_CHARS characters. Empty, or nothing but symbols, is a valid and empty speech."""
    id: str = dataclasses.field(default_factory=lambda: uuid4().hex)
    """Letters, digits, `_` and `-`, up to 128. A chosen id makes enqueueing idempotent."""
    voice: str | None = None
    """A name from `voxspool voices`; None is the engine's own default."""
    language: str | None = None
    """`en`, `pt-br` …; None is the voice's own."""
    engine: str = AUTO
    """`auto`, or the name of an engine. Whether a worker has it is seen only when one takes the job."""
    speed: float = 1.0
    """Rate of speech, 0.5 (half) to 2.0 (double)."""
    seed: int = 0
    """The same job with the same seed says the same samples on the same machine."""
    priority: Priority = "interactive"
    keep_s: int = DEFAULT_KEEP_S
    """How long the stream lives after its terminal entry, in seconds."""
    live_s: int | None = None
    """For a listener who is there: the job is cancelled when nobody has read it for so long, in seconds."""
    window_s: int | None = None
    """How far the job may be spoken ahead of its reader, in seconds; None: as fast as it can be."""

    def __post_init__(self) -> None:
        """Refuse what cannot be spoken."""
        _check_types(self)
        if not _ID.fullmatch(self.id):
            raise InvalidJobError(
                f"job id {_shown(self.id)} has other characters than letters, digits, _ and -, or is not 1 to 128 long"
            )
        if len(self.text) > MAX_TEXT_CHARS:
            raise InvalidJobError(
                f"the text has {len(self.text):,} characters and the limit is {MAX_TEXT_CHARS:,}; "
                "enqueue it in parts, one job a chapter"
            )
        if self.engine != AUTO:
            check_engine_name(self.engine)
        if self.voice is not None and not (0 < len(self.voice) <= _MAX_VOICE_CHARS and self.voice.isprintable()):
            raise InvalidJobError(f"voice {_shown(self.voice)} is not a name of 1 to {_MAX_VOICE_CHARS} characters")
        if self.language is not None and not _LANGUAGE.fullmatch(self.language):
            raise InvalidJobError(f"language {_shown(self.language)} is not a language tag; write it like en or pt-br")
        if not MIN_SPEED <= self.speed <= MAX_SPEED:
            raise InvalidJobError(f"speed {_shown(self.speed)} is outside {MIN_SPEED} to {MAX_SPEED}")
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidJobError(f"seed {_shown(self.seed)} is outside 0 to {MAX_SEED}")
        if self.priority not in PRIORITIES:
            raise InvalidJobError(f"priority {_shown(self.priority)} is neither {' nor '.join(PRIORITIES)}")
        _check_spans(self)

    @property
    def queue(self) -> str:
        """The name of the RQ queue of what the job asks for. An `auto` job may lie in any engine's instead."""
        return queue_name(self.engine, self.priority)

    @property
    def timeout_s(self) -> int:
        """How long a run may take, in seconds: a job is finite, and its length follows from its text."""
        return TIMEOUT_BASE_S + int(TIMEOUT_PER_CHAR_S * len(self.text))

    @property
    def unread_limit_s(self) -> int | None:
        """How long nobody may read the job before it is cancelled, in seconds; None: it does not need a reader."""
        return self.live_s or (None if self.window_s is None else WINDOW_LIVE_S)

    @property
    def max_audio_s(self) -> int:
        """How long its audio may be, in seconds."""
        return min(MAX_AUDIO_S, AUDIO_BASE_S + int(AUDIO_PER_CHAR_S * len(self.text) / self.speed))

    def says_the_same(self, other: JobSpec) -> bool:
        """Whether both would sound alike: everything but how urgent it is, how it is read and how long it is kept."""
        alike = {name: getattr(other, name) for name in ("keep_s", "priority", "live_s", "window_s")}
        return dataclasses.replace(self, **alike) == other

    def encode(self) -> dict[str, Any]:
        """Return the JSON object that travels as the job's only argument.

        What came to the protocol later is left out where it is not asked for: a worker that is older takes the job.
        """
        fields = dataclasses.asdict(self)
        return {"version": VERSION} | {
            name: value for name, value in fields.items() if value is not None or name not in _LATER
        }

    @classmethod
    def decode(cls, data: object) -> JobSpec:
        """Read what `encode` gave, from anybody.

        Raises InvalidJobError for anything else: another version, a missing, unknown or ill-typed field.
        """
        if not isinstance(data, dict):
            raise InvalidJobError(f"a job's argument is a JSON object, not {_kind(data)}")  # it may be the text
        fields = dict(data)
        version = fields.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise InvalidJobError(f"the job is of protocol version {_shown(version)}, this worker speaks {VERSION}")
        unknown = sorted(str(name) for name in set(fields) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InvalidJobError(f"the job has a field that is not known here: {_shown(unknown[0])}")
        missing = sorted({"text", "id"} - set(fields))
        if missing:
            raise InvalidJobError(f"the job has no {missing[0]}")
        return cls(**fields)


def is_engine_name(name: str) -> bool:
    """Return whether an engine may have this name; `auto`, `interactive` and `batch` mean something else."""
    return name not in _NOT_ENGINES and bool(_ENGINE.fullmatch(name))


def check_engine_name(name: str) -> None:
    """Refuse a name that no engine can have. Raises UnknownEngineError, with the near name and the rule."""
    if not is_engine_name(name):
        hint = did_you_mean(name, (AUTO, *ENGINES))
        raise UnknownEngineError(f"there is no engine {_shown(name)}{hint}; {ENGINE_NAME_RULE}")


def queue_name(engine: str, priority: str) -> str:
    """Name the queue for an engine (or `auto`, which every worker serves) and a priority."""
    return f"voxspool-{engine}-{priority}"


def queue_names(engine: str) -> list[str]:
    """Name the queues that a worker with this engine serves, the first to be emptied first."""
    return [queue_name(wanted, priority) for priority in PRIORITIES for wanted in (engine, AUTO)]


def all_queue_names(engines: Sequence[str] = ENGINES) -> list[str]:
    """Name every queue that a job for one of these engines, or for any, can lie in."""
    return [queue_name(engine, priority) for engine in (*engines, AUTO) for priority in PRIORITIES]


def queues_named(words: Sequence[str], engines: Sequence[str] = ENGINES) -> list[str]:
    """Name the queues that words mean: a queue's own name, an engine, `auto`, or a priority; none: all of them.

    `engines` are those that have queues. Raises UnknownQueueError.
    """
    names = all_queue_names(engines)
    for word in words:
        if word not in names and word not in (AUTO, *engines, *PRIORITIES):
            hint = did_you_mean(word, (*names, AUTO, *engines, *PRIORITIES))
            raise UnknownQueueError(f"there is no queue {_shown(word)}{hint}; name an engine, a priority or a queue")
    return [name for name in names if not words or {name, engine_of(name), priority_of(name)} & {*words}]


def engine_of(queue: str) -> str | None:
    """Return the engine, or `auto`, of a queue; None if its name is not one that `queue_name` gives."""
    found = _QUEUE.fullmatch(queue)
    engine = found["engine"] if found else ""
    return engine if engine == AUTO or is_engine_name(engine) else None


def priority_of(queue: str) -> Priority:
    """Return the priority of a queue that `queue_name` named."""
    return cast("Priority", queue.rpartition("-")[2])


def _shown(value: object) -> str:
    """Show a value on one line, safely and not at length, whatever it is."""
    try:
        text = json.dumps(value, default=repr)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list within a list within …
        text = f"a {type(value).__name__} beyond all measure"
    return text if len(text) <= 60 else text[:57] + "..."


_LATER: Final = frozenset({"live_s", "window_s"})
"""Fields that the first workers of this version refuse."""


def _kind(value: object) -> str:
    """Return the name of a value's type, for a message."""
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
}


_SPANS_S: Final = {
    "keep_s": (1, MAX_KEEP_S),
    "live_s": (MIN_LIVE_S, MAX_LIVE_S),
    "window_s": (MIN_WINDOW_S, MAX_WINDOW_S),
}


def _check_spans(spec: JobSpec) -> None:
    """Refuse a span of time that is too short or too long."""
    for name, (least, most) in _SPANS_S.items():
        value = getattr(spec, name)
        if value is not None and not least <= value <= most:
            raise InvalidJobError(f"{name} {_shown(value)} is outside {least} to {most} seconds")


def _check_types(spec: JobSpec) -> None:
    """Refuse a field of another type: JSON from the wire, or a caller without a type checker."""
    for name, types in _TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, types) or isinstance(value, bool):
            kinds = " or ".join("null" if kind is type(None) else kind.__name__ for kind in types)
            shown = _kind(value) if name == "text" else _shown(value)  # a refusal is logged, a text never
            raise InvalidJobError(f"{name} is {shown}, not {kinds}")
