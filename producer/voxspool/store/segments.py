"""The segment store: spoken audio under a key of everything that determines its sound, so that it is spoken only once.

A segment is two objects: its audio, KEY.HASH.flac, named by its content, and KEY.json. The JSON is written last, and
the segment exists only when it is there, so a writer that dies leaves no incomplete segment. If two workers write the
same key, the first one's segment is kept; their audio need not be equal bit for bit, and the hash in the name keeps a
JSON from referring to the audio of the other. Damaged segments count as missing. Both packages use this module: workers
write, narrations read. The user sets the place of a store (VOXSPOOL_STORE), a job never does; `backends` accesses it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import soundfile as sf

from voxspool.errors import StoreError
from voxspool.recordings import SoundSource
from voxspool.store.backends import open_place
from voxspool.store.bounded import BoundedBackend

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    Pcm = NDArray[np.int16]

_NAME: Final = "voxspool-store.json"
"""The object that makes a place a store. It contains the id of the store and the version of its format."""
_VERSION: Final = 1
"""Version of the format; raised when an older voxspool could not read a store, or would damage it."""
_ID: Final = re.compile(r"[0-9a-f]{32}")
_KEY: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_HASH_DIGITS: Final = 16
"""Number of hexadecimal digits of the audio's SHA-256 in its name; enough for the few attempts at one segment."""
_LONGEST_SAMPLES: Final = 3600 * 48_000
"""An hour at 48 kHz. A segment lasts seconds, so a record with more samples is damaged."""
_BLOCK_SAMPLES: Final = 2**18
"""Samples that are decoded at once where only their number is wanted."""
_MAX_JSON_BYTES: Final = 2**16
"""Limit for a record, and for the object that makes a place a store, in bytes. A record has 500."""
_MOST: Final = 2**63
"""Upper limit of every number in a record: a seed has 63 bits. The comparison also refuses NaN."""


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment in the store: what it is, how it was made, and what the checks measured."""

    key: str
    sample_rate: int
    samples: int
    sha256: str
    """SHA-256 of its FLAC file, in hexadecimal digits."""
    engine: str
    model: str
    voice: str
    language: str
    seed: int
    """The seed of the attempt that was kept."""
    tries: int
    """Number of attempts to speak it; the best one was kept."""
    fault: str
    """The fault that the checks found in the best attempt; empty if there is none."""
    elapsed_s: float
    """Time to speak it, all attempts together, in seconds."""
    level_dbfs: float
    """RMS level of the parts that are not silent; -120 if all of it is silent."""
    peak_dbfs: float
    silent_share: float
    """Share of silence, 0 to 1."""
    worker: str
    """The name of the worker that spoke it."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StoredSegment:
        """Return the segment that JSON describes; unknown fields are ignored. Raises KeyError, ValueError."""
        return cls(**{field.name: _typed(field.type, values[field.name]) for field in dataclasses.fields(cls)})


def key_of(*parts: Any) -> str:  # noqa: ANN401 - JSON
    """Return the key of a segment: a hash, in JSON, of everything that determines its sound."""
    return hashlib.blake2b(
        json.dumps(parts, ensure_ascii=True, separators=(",", ":")).encode(), digest_size=20
    ).hexdigest()


class Store:
    """A segment store. Threads, processes and machines may share it."""

    def __init__(self, place: str | Path) -> None:
        """Open the store in a folder or at a URL; create it if there is none.

        Raises StoreError, and MissingExtraError for a URL whose library is not installed.
        """
        self._place = BoundedBackend(open_place(place))
        self.id = self._named() or self._made()
        """32 hexadecimal digits. A store has the same id on every machine."""
        self._place.tidy()

    def __repr__(self) -> str:
        return f"Store({str(self._place)!r})"

    def __str__(self) -> str:
        return str(self._place)

    def find(self, key: str) -> StoredSegment | None:
        """Return the segment of a key; None if there is none, or if a quick check shows damage.

        The quick check only compares the size of the audio; `check` and `read` also compare its hash. Raises StoreError
        if the store cannot be reached, or if the key is invalid.
        """
        found = self._find(key)
        return found.stored if found else None

    def check(self, key: str) -> StoredSegment | None:
        """Return what `find` returns, after also reading the audio; for callers that would otherwise speak it again."""
        found = self._find(key)
        flac = self._flac(found) if found else None
        return found.stored if found and flac is not None and _fits(flac, found.stored) else None

    def read(self, key: str) -> Pcm:
        """Return a segment's samples, shape (n,). Raises StoreError if it is missing or damaged."""
        found = self._find(key)
        samples = self._audio(found) if found else None
        if samples is None:
            raise StoreError(f"segment {key} is missing from the store {self._place}, or damaged; narrate again")
        return samples

    def write(self, pcm: Pcm, **about: Any) -> StoredSegment:  # noqa: ANN401 - the fields of StoredSegment
        """Store a segment: its samples, shape (n,), and the fields of StoredSegment without `samples` and `sha256`.

        Return the segment that the store has under the key from now on: that of another writer if it came first and is
        undamaged. It is synced to the disk. Raises StoreError if the store cannot be written to, ValueError for a field
        with an invalid value.
        """
        assert pcm.ndim == 1, pcm.shape
        assert pcm.dtype == np.int16, pcm.dtype
        flac = _encoded(pcm, about["sample_rate"])
        found = _SegmentRecord(
            StoredSegment(samples=len(pcm), sha256=hashlib.sha256(flac).hexdigest(), **about), len(flac)
        )
        stored, data = found.stored, found.encode()
        if _SegmentRecord.decode(_checked(stored.key), data) != found:
            raise ValueError(f"segment {stored.key} would not be found again: {data!r:.600}")
        self._assure()
        self._place.put(found.audio_name, flac)
        if not self._place.create(_json_name(stored.key), data):
            there = self.check(stored.key)
            if there:
                return there
            self._place.put(_json_name(stored.key), data)
        return stored

    def _find(self, key: str) -> _SegmentRecord | None:
        data = self._place.get(_json_name(_checked(key)), _MAX_JSON_BYTES)
        if data is None:
            self._assure()
            return None
        found = _SegmentRecord.decode(key, data)
        return found if found and self._place.size_bytes(found.audio_name) == found.flac_bytes else None

    def _audio(self, found: _SegmentRecord) -> Pcm | None:
        """Return the samples; None if they are not the ones that were written."""
        flac = self._flac(found)
        return None if flac is None else _decoded(flac, found.stored)

    def _flac(self, found: _SegmentRecord) -> bytes | None:
        """Return the FLAC file of a segment; None if it is not the one that was written."""
        flac = self._place.get(found.audio_name, found.flac_bytes)
        return flac if flac is not None and hashlib.sha256(flac).hexdigest() == found.stored.sha256 else None

    def _assure(self) -> None:
        """Raise StoreError if the store is gone: an unmounted disk looks like a store without this segment."""
        if self._named() != self.id:
            raise StoreError(
                f"the segment store {self._place} is gone, or another; see that its disk is there, and restart"
            )

    def _named(self) -> str | None:
        """Return the id of the store at this place; None if there is no store. Raises StoreError."""
        data = self._place.get(_NAME, _MAX_JSON_BYTES)
        if data is None:
            return None
        if not _json_object(data):  # another process may be writing it, byte by byte
            time.sleep(self._place.settle_s)
            data = self._place.get(_NAME, _MAX_JSON_BYTES) or b""
        about = _json_object(data)
        named, version = about.get("id"), about.get("version")
        if isinstance(version, int) and version > _VERSION:
            raise StoreError(
                f"the segment store {self._place} is of version {version:d}, and this voxspool knows {_VERSION}; "
                "install a newer voxspool, or name another place with VOXSPOOL_STORE"
            )
        if version != _VERSION or not isinstance(named, str) or not _ID.fullmatch(named):
            raise StoreError(
                f"{_NAME} in the segment store {self._place} is damaged; remove it: what is there is found again"
            )
        return named

    def _made(self) -> str:
        """Create the store and return its id. If several processes do so at once, all return the id of one of them."""
        self._place.prepare()
        self._place.create(_NAME, json.dumps({"id": secrets.token_hex(16), "version": _VERSION}).encode())
        time.sleep(self._place.settle_s)
        named = self._named()
        if named is None:
            raise StoreError(f"the segment store {self._place} does not keep what is written to it; name another place")
        return named


class _SegmentRecord(NamedTuple):
    """A segment, and the size of its audio in bytes."""

    stored: StoredSegment
    flac_bytes: int

    @property
    def audio_name(self) -> str:
        key = self.stored.key
        return f"{key[:2]}/{key}.{self.stored.sha256[:_HASH_DIGITS]}.flac"

    def encode(self) -> bytes:
        return json.dumps(asdict(self.stored) | {"flac_bytes": self.flac_bytes}).encode()

    @classmethod
    def decode(cls, key: str, data: bytes) -> _SegmentRecord | None:
        """Decode what `encode` returned; None for other data, from anybody. Unknown fields are ignored."""
        values = _json_object(data)
        try:
            stored = StoredSegment.of(values)
            found = cls(stored, _typed("int", values["flac_bytes"]))
        except (KeyError, ValueError):
            return None
        return found if stored.key == key and _plausible(found) else None


def _plausible(found: _SegmentRecord) -> bool:
    """Return whether a segment can be what its record states; nothing is read for one that cannot."""
    stored = found.stored
    fits = 0 <= stored.samples <= _LONGEST_SAMPLES and stored.sample_rate > 0
    # FLAC is at most a little longer than the samples.
    return fits and found.flac_bytes <= 3 * stored.samples + 2**16 and _SHA256.fullmatch(stored.sha256) is not None


def _typed(kind: Any, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a value of JSON if it has the type that a field states. Raises ValueError."""
    if kind == "str" and isinstance(value, str):
        value.encode()  # refuses half a surrogate pair, which could not be printed
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _MOST
    if kind == "int" and number and isinstance(value, int):
        return value
    if kind == "float" and number:
        return float(value)
    raise ValueError(f"{value!r:.60} is no {kind}")


def _json_object(data: bytes) -> dict[str, Any]:
    """Decode a JSON object; return an empty one for other data, which may come from anybody."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _checked(key: str) -> str:
    """Return a key. Raises StoreError if it is invalid: keys become names of files."""
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise StoreError(f"{key!r:.60} is not the key of a segment: 40 hexadecimal digits")
    return key


def _json_name(key: str) -> str:
    """Return the name of a segment's JSON, in one of 256 folders: a folder of a million files is slow everywhere."""
    return f"{key[:2]}/{key}.json"


def _encoded(pcm: Pcm, sample_rate: int) -> bytes:
    """Return a FLAC file; no bytes for no samples, because libsndfile can write such a file but not read it."""
    file = io.BytesIO()
    if len(pcm):
        sf.write(file, pcm, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _decoded(flac: bytes, stored: StoredSegment) -> Pcm | None:
    """Return a FLAC file's samples; None if their number or rate differs from the record."""
    if not flac:
        return None if stored.samples else np.zeros(0, np.int16)
    try:
        with sf.SoundFile(SoundSource(io.BytesIO(flac))) as file:
            if not _is_of(file, stored):
                return None
            samples: Pcm = file.read(dtype="int16")
    except (sf.LibsndfileError, ValueError):
        return None
    return samples if len(samples) == stored.samples else None


def _fits(flac: bytes, stored: StoredSegment) -> bool:
    """Return whether a FLAC file has the samples that are stated. It is decoded in parts, which are not kept."""
    if not flac:
        return not stored.samples
    samples = 0
    try:
        with sf.SoundFile(SoundSource(io.BytesIO(flac))) as file:
            if not _is_of(file, stored):
                return False
            while block := len(file.read(_BLOCK_SAMPLES, dtype="int16")):
                samples += block
    except (sf.LibsndfileError, ValueError):
        return False
    return samples == stored.samples


def _is_of(file: sf.SoundFile, stored: StoredSegment) -> bool:
    """Return whether the header of a file states what its record does: length, sample rate, one channel."""
    return (file.frames, file.samplerate, file.channels) == (stored.samples, stored.sample_rate, 1)
