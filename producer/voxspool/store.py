"""The segment store: what was spoken once is kept under a key of everything that it sounds by, and is spoken no more.

A segment is two objects, KEY.flac and KEY.json; the second is written last and makes it exist, so a writer that dies
leaves nothing that counts. Two who write one key write the same. What is damaged is as good as missing. Both sides use
this module: workers write, narrators read. Where a store lies is said by a person (VOXSPOOL_STORE), never by a job.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soundfile as sf

from voxspool.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pcm = NDArray[np.int16]

_NAME: Final = "voxspool-store.json"
"""The object that makes a place a store, and holds its id."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment that the store has: what it is, how it was made and what the checks measured."""

    key: str
    sample_rate: int
    samples: int
    sha256: str
    """Of its FLAC file."""
    engine: str
    model: str
    voice: str
    language: str
    seed: int
    """The seed that is heard."""
    tries: int
    """How often it was spoken; the best try was kept."""
    fault: str
    """What the checks found wrong with the best try; empty where nothing is."""
    elapsed_s: float
    """What it took to speak it, all tries together."""
    level_dbfs: float
    """RMS over the parts that are not silent; -120 for none."""
    peak_dbfs: float
    silent_share: float
    """How much of it is silence, 0 to 1."""
    worker: str
    """Who spoke it."""


def key_of(*parts: Any) -> str:  # noqa: ANN401 - JSON
    """Give the key of a segment: a hash of everything that it sounds by, in JSON."""
    return hashlib.blake2b(
        json.dumps(parts, ensure_ascii=True, separators=(",", ":")).encode(), digest_size=20
    ).hexdigest()


class Store:
    """A segment store in a folder. Safe to share between threads and processes."""

    def __init__(self, place: str | Path) -> None:
        """Open a store, and make it where there is none. Raises StoreError."""
        self._root = Path(place).expanduser()
        self.id = self._identify()
        """32 hexadecimal digits: the same store has the same, wherever it is reached from."""

    def find(self, key: str) -> Stored | None:
        """Say what lies under a key; None where nothing does. Raises StoreError where the store cannot be reached."""
        data = self._get(_path(key, ".json"))
        try:
            return None if data is None else Stored(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def read(self, key: str) -> Pcm:
        """Give a segment's samples, shape (n,). Raises StoreError where it is missing or damaged."""
        about, flac = self.find(key), self._get(_path(key, ".flac"))
        if about is None or flac is None or hashlib.sha256(flac).hexdigest() != about.sha256:
            raise StoreError(f"segment {key} is missing from the store or damaged; narrate again to speak it")
        if not about.samples:
            return np.zeros(0, np.int16)
        samples: Pcm = sf.read(io.BytesIO(flac), dtype="int16")[0]
        return samples

    def write(self, pcm: Pcm, **about: Any) -> Stored:  # noqa: ANN401 - the fields of Stored
        """Keep a segment: samples, shape (n,), and the fields of Stored but `samples` and `sha256`."""
        encoded = io.BytesIO()
        if len(pcm):
            sf.write(encoded, pcm, about["sample_rate"], format="FLAC", subtype="PCM_16")
        flac = encoded.getvalue()
        stored = Stored(samples=len(pcm), sha256=hashlib.sha256(flac).hexdigest(), **about)
        self._put(_path(stored.key, ".flac"), flac)
        self._put(_path(stored.key, ".json"), json.dumps(asdict(stored)).encode())
        return stored

    def _identify(self) -> str:
        """Give the store's id; the first who opens it draws one."""
        data = self._get(_NAME)
        if data is None:
            self._root.mkdir(parents=True, exist_ok=True)
            self._put(_NAME, json.dumps({"id": secrets.token_hex(16)}).encode())
            data = self._get(_NAME) or b""
        return str(json.loads(data)["id"])

    def _get(self, path: str) -> bytes | None:
        try:
            return (self._root / path).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, path: str, data: bytes) -> None:
        place = self._root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        part.write_bytes(data)
        part.replace(place)


def _path(key: str, suffix: str) -> str:
    """Name an object: at most 256 folders, as a folder of a million files is slow everywhere."""
    return f"{key[:2]}/{key}{suffix}"
