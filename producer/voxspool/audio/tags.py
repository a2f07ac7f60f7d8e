"""The tags of an audio file: title, author, book, track. Values only; the one format known here is MP3's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ID3: Final = {
    "title": b"TIT2",
    "artist": b"TPE1",
    "album": b"TALB",
    "tracknumber": b"TRCK",
    "date": b"TDRC",
    "genre": b"TCON",
}
"""The frames of ID3 2.4, https://id3.org/id3v2.4.0-frames."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What is said of a file; what is empty is left out."""

    title: str = ""
    artist: str = ""
    album: str = ""
    number: int = 0
    """Counts from 1; 0: it is not one of several."""
    total: int = 0
    date: str = ""
    genre: str = ""

    def named(self) -> dict[str, str]:
        """Return what is said, by the names that Vorbis comments and libsndfile have for it."""
        number = f"{self.number}/{self.total}" if self.number else ""
        words = {
            "title": self.title,
            "artist": self.artist,
            "album": self.album,
            "tracknumber": number,
            "date": self.date,
            "genre": self.genre,
        }
        return {name: _plain(value) for name, value in words.items() if value}

    def id3(self) -> bytes:
        """Return the head of an MP3 that says it: ID3 2.4 in UTF-8."""
        frames = b"".join(_frame(_ID3[name], value.encode()) for name, value in self.named().items())
        return b"ID3\x04\x00\x00" + _synchsafe(len(frames)) + frames if frames else b""


def _plain(value: str) -> str:
    """Drop what no tag can hold: a NUL ends a string in C, and half a surrogate pair is no UTF-8."""
    return value.replace("\0", "").encode(errors="ignore").decode()


def _frame(name: bytes, text: bytes) -> bytes:
    body = b"\x03" + text  # 3: it is UTF-8
    return name + _synchsafe(len(body)) + b"\0\0" + body


def _synchsafe(size: int) -> bytes:
    """Return a size in four bytes of seven bits, none of which looks like the start of audio."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
