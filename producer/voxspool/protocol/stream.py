"""Define the entries of a job's stream, which a worker writes, and encode and decode their bytes.

An entry has an id `<attempt>-<seq>` and always three fields: `type`, `pos` and `data`. An attempt starts with a `begin`
entry (if no worker ran the job, it is a single `cancelled` entry). Within an attempt `seq` counts from 1 without gaps.
Exactly one `end`, `failed` or `cancelled` entry closes the stream.

Fields with a default were added after protocol version 1; older workers do not write them. This module does not use
Redis. docs/protocol.md describes the format for other languages.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, TypeAlias

from voxspool.errors import ProtocolError
from voxspool.protocol import VERSION
from voxspool.protocol.numbers import parse_count

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "s16le"
SAMPLE_BYTES: Final = 2
"""Bytes of one sample: audio is signed 16-bit little-endian, mono."""


_MOST: Final = 2**64 - 1
"""The largest number in an entry's id: Redis stores each of the two in 64 bits."""


class EntryId(NamedTuple):
    """The id `<attempt>-<seq>` of an entry. Ids have the same order as in Redis."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """Return the id in a text. Raises ProtocolError for anything but two numbers with a hyphen between."""
        attempt, _, seq = text.partition("-")
        try:
            found = cls(parse_count(attempt), parse_count(seq))
        except ValueError:
            raise ProtocolError(f"{text[:60]!r} is not an entry's id; an id looks like 1-17") from None
        if max(found) > _MOST:
            raise ProtocolError(f"{text!r} has a number that is too large for an entry's id; an id looks like 1-17")
        return found


START: Final = EntryId(0, 0)
"""The position before the first entry of any stream, where a new reader starts."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The start of an attempt. Its audio begins at sample `pos` of the speech."""

    type: ClassVar[str] = "begin"
    pos: int
    sample_rate: int
    """The engine's sample rate in Hz, the same for every attempt of a job."""
    engine: str
    model: str
    voice: str
    language: str
    seed: int
    first: int = 1
    """The attempt with which this speech began. Above 1: an earlier speech of this id failed or was cancelled."""
    meta: dict[str, Any] | None = None
    """The producer's data, as the job has it."""


@dataclass(frozen=True, slots=True)
class Audio:
    """Raw samples, s16le mono. The first is sample `pos` of the speech."""

    type: ClassVar[str] = "audio"
    pos: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a segment, whose audio is in the stream from sample `pos` up to, not including, `end_pos`."""

    type: ClassVar[str] = "mark"
    pos: int
    end_pos: int
    segment: int
    """The segment's number, from 0, in the order of the text."""
    start: int
    end: int
    """The span of the job's text, in characters (code points): text[start:end] was spoken."""
    seed: int
    """The seed of the audio in the stream."""
    tries: int = 1
    """How many times the segment was spoken, each time with another seed. The best try is in the stream."""
    fault: str = ""
    """The fault that remains in the best try: `cap`, `rate`, `silence` or `noise`; empty if there is none."""
    key: str = ""
    """In a book's chapter, the key of the audio in the segment store. That audio excludes the silence before `end_pos`.

    Empty: the audio precedes the mark in the stream. It is also empty for a segment of a chapter that could not be
    spoken. Such a segment consists of its pause only, and `fault` states the reason.
    """
    reused: bool = False
    """True if the audio was already in the store, so that this job did not speak it."""


@dataclass(frozen=True, slots=True)
class End:
    """The end of a complete speech of `pos` samples. The fields from `first_chunk_s` on describe this attempt only."""

    type: ClassVar[str] = "end"
    pos: int
    duration_s: float
    segments: int
    first_chunk_s: float | None
    """Time from the worker's start of the job to its first audio; None if this attempt produced no audio."""
    real_time_factor: float | None
    """Real-time factor (RTF): processing time divided by duration of the audio. Below 1 is faster than real time."""
    elapsed_s: float | None = None
    """Time from the worker's start of the job to this entry."""
    characters_per_s: float | None = None
    """Characters of text per second of processing time."""
    chunks: int = 0
    """The number of audio entries."""
    voice_source: str = ""
    """The source of the voice: `built-in`, `memory`, `disk`, `redis` or `computed`."""
    rows: float | None = None
    """The number of batch rows that the engine used for all its jobs together, on average over its steps."""
    spoken_again: int = 0
    """The number of segments with more than one try."""
    faults: int = 0
    """The number of segments whose best try still has a fault."""
    meta: dict[str, Any] | None = None
    """The producer's data, as the job has it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A failure after `pos` samples: a stable code, one sentence, and whether a retry may help."""

    type: ClassVar[str] = "failed"
    pos: int
    code: str
    sentence: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A cancellation after `pos` samples."""

    type: ClassVar[str] = "cancelled"
    pos: int
    by: str


Entry: TypeAlias = Begin | Audio | Mark | End | Failed | Cancelled
TERMINAL: Final = (End, Failed, Cancelled)
STATES: Final = {"end": "ended", "failed": "failed", "cancelled": "cancelled"}
"""Type of a terminal entry -> the `state` that it sets in the control hash. Until then the state is `running`."""

_JSON_TYPES: Final[dict[str, type[Begin | Mark | End | Failed | Cancelled]]] = {
    cls.type: cls for cls in (Begin, Mark, End, Failed, Cancelled)
}


_OF_CHAPTERS: Final = frozenset({"key", "reused"})
"""Fields that the marks of a chapter have, and other marks only if they are set."""


def encode_data(entry: Entry) -> bytes:
    """Return the bytes of an entry's `data` field: raw samples, or a JSON object."""
    if isinstance(entry, Audio):
        return entry.pcm
    data: dict[str, Any] = {name: getattr(entry, name) for name in entry.__slots__ if name != "pos"}
    if isinstance(entry, Mark) and not entry.key:
        data = {name: value for name, value in data.items() if name not in _OF_CHAPTERS or value}
    if data.get("meta", ...) is None:
        del data["meta"]
    if isinstance(entry, Begin):
        data |= {"protocol": VERSION, "channels": 1, "format": FORMAT}
        del data["first"]  # only Redis knows it: begin.lua adds it
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(fields: Mapping[bytes, bytes]) -> Entry:
    """Return the entry in three untrusted fields. Raises ProtocolError if it is not a valid entry of this version."""
    try:
        kind = fields[b"type"].decode()
        pos = parse_count(fields[b"pos"].decode())
        data = fields[b"data"]
        if kind == Audio.type:
            return _decode_audio(pos, data)
        values = json.loads(data)
        if kind == Begin.type:
            _check_begin(values)
        cls = _JSON_TYPES[kind]
        return cls(pos=pos, **{field.name: _typed(field, values) for field in dataclasses.fields(cls)[1:]})
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        shown = {key: value[:40] for key, value in fields.items()} if isinstance(fields, dict) else fields
        raise ProtocolError(f"an entry is not valid in protocol version {VERSION}: {shown!r} ({error!r})") from error


def _decode_audio(pos: int, data: bytes) -> Audio:
    """Return an audio entry. Raises ValueError if the data is not a whole number of samples."""
    if len(data) % SAMPLE_BYTES:
        raise ValueError(f"{len(data)} bytes are not whole samples")
    return Audio(pos, data)


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "dict[str, Any] | None": (dict, type(None)),
}
"""Annotation of an entry's field -> the JSON types that it may have."""


def _typed(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a field's value, or its default if it is missing.

    Raises KeyError if a field without a default is missing, TypeError for a wrong type, and ValueError for a negative
    number.
    """
    if field.name not in values and field.default is not dataclasses.MISSING:
        return field.default
    value, kind = values[field.name], str(field.type)
    if not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise TypeError(f"{field.name} is not {kind}")
    if isinstance(value, (int, float)) and value < 0:
        raise ValueError(f"{field.name} is negative")
    return value


def _check_begin(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a sample rate or an audio format that a reader of this version cannot play."""
    if not values["sample_rate"]:
        raise ValueError("the sample rate is 0")
    stated = (values["protocol"], values["channels"], values["format"])
    if stated != (VERSION, 1, FORMAT):
        raise ValueError(f"protocol, channels, format are {stated}, but must be {(VERSION, 1, FORMAT)}")


def position_after(entry: Entry) -> int:
    """Return the position of the first sample after an entry."""
    if isinstance(entry, Audio):
        return entry.pos + len(entry.pcm) // SAMPLE_BYTES
    return entry.end_pos if isinstance(entry, Mark) else entry.pos
