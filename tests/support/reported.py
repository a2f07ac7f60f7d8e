"""A small narrated book without audio, for tests of its report."""

from __future__ import annotations

from voxspool.books.book import Book
from voxspool.narration.report.verify import Transcription
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

HZ = 1000
EVIL = "<script>alert('1')</script> & \"quoted\" \x00\ud800 $title"


def stored(
    samples: int, worker: str = "one", *, tries: int = 1, level: float = -22.0, voice: str = "ann"
) -> StoredSegment:
    return StoredSegment(
        f"{samples:040x}", HZ, samples, "", "tone", "tone 1", voice, "en", 7, tries, "", samples / 4000, level, -3.0,
        0.125, worker,
    )  # fmt: skip


def cue(
    text: str, pos: int, said: StoredSegment | None, pause: int = 0, *, fault: str = "", reused: bool = False
) -> Cue:
    samples = said.samples if said else 0
    return Cue(0, 3, 3 + len(text), text, text.upper(), pos, pos + samples + pause, said, fault, reused)


BOOK = Book("A book", (), ("the authors of voxspool",), "en", unread=("page 3 is damaged",))
FIRST = Track(
    1, "First", HZ,
    (
        cue("It begins.", 0, stored(2000, "one"), 500),
        cue("Again and again.", 2500, stored(4000, "two", tries=3, level=-28.0), 500, fault="noise"),
    ),
)  # fmt: skip
SECOND = Track(
    2, "Second", HZ,
    (cue("Kept.", 0, stored(1000, "one", level=-20.0), 0, reused=True), cue("Lost.", 1000, None, 600, fault="engine")),
)  # fmt: skip
HEARD = {(1, 0): Transcription("other words", 1.0, 5), (2, 0): Transcription("KEPT", 0.0, 1)}
