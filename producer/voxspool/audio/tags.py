"""The tags of an audio file: title, author, book, track number; and the ID3 head that carries them in an MP3.

Values and bytes only: `files` puts them into a file. libsndfile writes the tags of all other formats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_ID3_FRAMES: Final = {
    "title": b"TIT2",
    "artist": b"TPE1",
    "album": b"TALB",
    "tracknumber": b"TRCK",
    "date": b"TDRC",
    "genre": b"TCON",
}
"""Tag -> its frame in ID3 2.4. Source: https://id3.org/id3v2.4.0-frames."""
_UTF_8: Final = b"\x03"
"""The encoding of a text frame, its first byte."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of a file. Empty ones are left out of it."""

    title: str = ""
    artist: str = ""
    album: str = ""
    number: int = 0
    """The track number, from 1; 0 for a file that is not one of several."""
    total: int = 0
    """The number of tracks."""
    date: str = ""
    genre: str = ""

    def named(self) -> dict[str, str]:
        """Return the tags that are not empty, by their names in Vorbis comments and libsndfile."""
        tags = {
            "title": self.title,
            "artist": self.artist,
            "album": self.album,
            "tracknumber": f"{self.number}/{self.total}" if self.number else "",
            "date": self.date,
            "genre": self.genre,
        }
        return {name: writable(value) for name, value in tags.items() if value}

    def id3(self) -> bytes:
        """Return the tags as the start of an MP3 file, ID3 2.4 in UTF-8; no bytes if all tags are empty."""
        frames = b"".join(_frame(_ID3_FRAMES[name], value) for name, value in self.named().items())
        return b"ID3\x04\x00\x00" + _synchsafe(len(frames)) + frames if frames else b""


def writable(text: str) -> str:
    """Return a text without what no tag can hold: NUL, which ends a string in C, and lone surrogates."""
    return text.replace("\0", "").encode(errors="ignore").decode()


def _frame(name: bytes, text: str) -> bytes:
    """Return a text frame: name, size, two bytes of flags, content."""
    content = _UTF_8 + text.encode()
    return name + _synchsafe(len(content)) + b"\0\0" + content


def _synchsafe(size: int) -> bytes:
    """Return a size in four bytes of seven bits each, so that none looks like the start of an MP3 frame."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
