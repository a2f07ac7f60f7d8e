"""What a worker answers: the entries of a job's stream, and their bytes.

An entry has an id `<attempt>-<seq>` and always the same three fields, `type`, `pos`, `data`. An attempt opens with a
`begin` (or is a lone `cancelled`, where nobody ran the job); within it seq counts from 1 without a hole; exactly one of
`end`, `failed`, `cancelled` closes the stream.
A field with a default came later than the version: a worker that is older does not write it.
Knows the bytes and not where they come from: no Redis here. Described for other languages in docs/protocol.md.
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
"""Audio is signed 16-bit little-endian, mono."""


_MOST: Final = 2**64 - 1
"""The largest number in an entry's id: Redis holds each of the two in 64 bits."""


class EntryId(NamedTuple):
    """`<attempt>-<seq>`: ordered as Redis orders them."""

    attempt: int
    seq: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> EntryId:
        """Read an id. Raises ProtocolError for anything but two numbers with a dash between."""
        attempt, _, seq = text.partition("-")
        try:
            found = cls(parse_count(attempt), parse_count(seq))
        except ValueError:
            raise ProtocolError(f"{text[:60]!r} is not an entry's id; an id looks like 1-17") from None
        if max(found) > _MOST:
            raise ProtocolError(f"{text!r} is beyond what an entry's id can be; an id looks like 1-17")
        return found


START: Final = EntryId(0, 0)
"""Before the first entry of any stream: where a reader without a past begins."""


@dataclass(frozen=True, slots=True)
class Begin:
    """An attempt starts; what follows is said from sample `pos` on."""

    type: ClassVar[str] = "begin"
    pos: int
    sample_rate: int
    """In Hz; the engine's own, the same for every attempt of a job."""
    engine: str
    model: str
    voice: str
    language: str
    seed: int


@dataclass(frozen=True, slots=True)
class Audio:
    """Raw samples, s16le mono, the first of them at sample `pos` of the speech."""

    type: ClassVar[str] = "audio"
    pos: int
    pcm: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """A segment is complete: its audio, from sample `pos` to before `end_pos`, stands in the stream."""

    type: ClassVar[str] = "mark"
    pos: int
    end_pos: int
    segment: int
    """Counts from 0, in the order of the text."""
    start: int
    end: int
    """The span of the job's text, in characters (code points): text[start:end] is what was said."""
    seed: int
    """The seed that was heard."""
    tries: int = 1
    """How often it was spoken, with another seed each time; the best try is what stands in the stream."""
    fault: str = ""
    """What is still wrong with the best try: `cap`, `rate`, `silence` or `noise`; empty where nothing is."""
    key: str = ""
    """Of a book's chapter: where its audio lies in the segment store, without the silence up to `end_pos`.

    Empty: the audio stands before the mark in the stream. A chapter's segment that could not be spoken has none either:
    then it lasts no sample but its pause, and `fault` says why.
    """
    reused: bool = False
    """Whether the store had it already: nobody spoke it for this job."""


@dataclass(frozen=True, slots=True)
class End:
    """All is said; `pos` is the number of samples. Everything from `first_chunk_s` on is of this attempt alone."""

    type: ClassVar[str] = "end"
    pos: int
    duration_s: float
    segments: int
    first_chunk_s: float | None
    """From the worker's start on the job to its first audio; None where nothing was said in this attempt."""
    real_time_factor: float | None
    """Seconds of work a second of audio; below 1 is faster than real time."""
    elapsed_s: float | None = None
    """From the worker's start on the job to this entry."""
    characters_per_s: float | None = None
    """Of the text, a second of work."""
    chunks: int = 0
    """Audio entries."""
    voice_source: str = ""
    """Where the voice came from: `built-in`, `memory`, `disk`, `redis` or `computed`."""
    rows: float | None = None
    """How many rows the engine had in use, for all its jobs together, on the mean of its steps."""
    spoken_again: int = 0
    """Segments that took more than one try."""
    faults: int = 0
    """Segments whose best try has a fault still."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker gave up after `pos` samples: a stable code, one sentence, and whether another try may help."""

    type: ClassVar[str] = "failed"
    pos: int
    code: str
    sentence: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody stopped it after `pos` samples."""

    type: ClassVar[str] = "cancelled"
    pos: int
    by: str


Entry: TypeAlias = Begin | Audio | Mark | End | Failed | Cancelled
TERMINAL: Final = (End, Failed, Cancelled)
STATES: Final = {"end": "ended", "failed": "failed", "cancelled": "cancelled"}
"""A terminal entry's type -> the `state` it leaves in the control hash; before that it is `running`."""

_JSON_TYPES: Final[dict[str, type[Begin | Mark | End | Failed | Cancelled]]] = {
    cls.type: cls for cls in (Begin, Mark, End, Failed, Cancelled)
}


_OF_CHAPTERS: Final = frozenset({"key", "reused"})
"""Fields of a mark that a speech's marks go without."""


def encode_data(entry: Entry) -> bytes:
    """Return the bytes of an entry's `data` field: raw samples, or a JSON object."""
    if isinstance(entry, Audio):
        return entry.pcm
    data: dict[str, Any] = {name: getattr(entry, name) for name in entry.__slots__ if name != "pos"}
    if isinstance(entry, Mark) and not entry.key:
        data = {name: value for name, value in data.items() if name not in _OF_CHAPTERS or value}
    if isinstance(entry, Begin):
        data |= {"protocol": VERSION, "channels": 1, "format": FORMAT}
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def decode(fields: Mapping[bytes, bytes]) -> Entry:
    """Read the three fields of an entry, from anybody.

    Raises ProtocolError for anything but an entry of a version that is known here.
    """
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
        raise ProtocolError(f"an entry that is not of protocol version {VERSION}: {shown!r} ({error!r})") from error


def _decode_audio(pos: int, data: bytes) -> Audio:
    """Read an audio entry: whole samples."""
    if len(data) % SAMPLE_BYTES:
        raise ValueError(f"{len(data)} bytes are not whole samples")
    return Audio(pos, data)


_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "str": (str,),
    "bool": (bool,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
}
"""An entry's annotation -> what JSON may hold there."""


def _typed(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Return a field's value, if it is of the type that the entry states; its default where it may be missing.

    Numbers are never negative.
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
    """Refuse what a reader of this version would play wrongly."""
    if not values["sample_rate"]:
        raise ValueError("the sample rate is 0")
    stated = (values["protocol"], values["channels"], values["format"])
    if stated != (VERSION, 1, FORMAT):
        raise ValueError(f"protocol, channels, format are {stated}, known here are {(VERSION, 1, FORMAT)}")


def position_after(entry: Entry) -> int:
    """Return the sample that follows an entry."""
    if isinstance(entry, Audio):
        return entry.pos + len(entry.pcm) // SAMPLE_BYTES
    return entry.end_pos if isinstance(entry, Mark) else entry.pos
