"""Cues of Tracks -> clips: which id of which document is heard when. It puts the ids into the documents' trees."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lxml import etree

from voxspool.books.epub.reader import read_contents
from voxspool.narration.exports.spans import wrap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lxml.etree import _Element as Element

    from voxspool.books.archive import Archive
    from voxspool.books.book import Block, Book
    from voxspool.books.epub.package import Item, Package
    from voxspool.books.html_text import Run
    from voxspool.narration.track import Cue, Track


class OverlayClip(NamedTuple):
    """A cue, or several of one target, as the overlay says it: times in whole milliseconds, cut down."""

    target: str
    """The id in its document."""
    audio: int
    """The chapter's number."""
    begin_ms: int
    end_ms: int


class _PlacedCue(NamedTuple):
    """A cue, with where it stands in its document."""

    run: int
    start: int
    end: int
    cue: Cue
    track: Track


@dataclass(slots=True)
class DocumentOverlay:
    """The overlay of one document."""

    item: Item
    tree: Element
    clips: list[OverlayClip] = field(default_factory=list)

    @property
    def duration_ms(self) -> int:
        """How long all of it is heard."""
        return sum(clip.end_ms - clip.begin_ms for clip in self.clips)


def spoken_documents(archive: Archive, package: Package, book: Book, tracks: Sequence[Track]) -> list[DocumentOverlay]:
    """Put ids into the documents that were spoken, and say when each is heard."""
    read = read_contents(archive, package)
    places = _places(book, {path: said.runs for path, said in read.proses.items()})
    spoken: dict[str, list[_PlacedCue]] = defaultdict(list)
    for track in sorted(tracks, key=lambda one: one.number):
        for cue in track.cues:
            place = places.get((track.number, cue.block))
            if place is not None and cue.start < cue.end and _ms(cue.end_pos, track) > _ms(cue.pos, track):
                document, run, shift = place
                spoken[document].append(_PlacedCue(run, shift + cue.start, shift + cue.end, cue, track))
    items = {item.path: item for item in package.spine}
    overlays = [
        DocumentOverlay(items[path], read.trees[path], _marked(read.trees[path], said.runs, spoken[path]))
        for path, said in read.proses.items()
        if spoken[path]
    ]
    _close_gaps(overlays, {track.number: track.samples * 1000 // track.sample_rate for track in tracks})
    return overlays


def _close_gaps(overlays: list[DocumentOverlay], ends_ms: Mapping[int, int]) -> None:
    """Let each clip last until the next of its chapter begins, so that what has no place in the book is heard too."""
    following = dict(ends_ms)
    for overlay in reversed(overlays):
        for index in range(len(overlay.clips) - 1, -1, -1):
            clip = overlay.clips[index]
            overlay.clips[index] = clip._replace(end_ms=max(clip.end_ms, following[clip.audio]))
            following[clip.audio] = clip.begin_ms


def _places(book: Book, runs: Mapping[str, tuple[Run, ...]]) -> dict[tuple[int, int], tuple[str, int, int]]:
    """Find each block again: chapter's number and block -> document, run in it, first character in the run.

    Documents are read as they were for the book, so blocks and runs come in one order; several blocks are of one run
    where a paragraph was too long for a chapter.
    """
    found: dict[tuple[int, int], tuple[str, int, int]] = {}
    at: dict[str, tuple[int, int]] = {}
    texts = {path: [run.text for run in said] for path, said in runs.items()}
    for number, chapter in enumerate(book.chapters, 1):
        for index, block in enumerate(chapter.blocks):
            document = block.place.document if block.place else ""
            place = _place(block, runs.get(document, ()), texts.get(document, []), *at.get(document, (0, 0)))
            if place is not None:
                found[number, index] = (document, *place)
                at[document] = (place[0], place[1] + len(block.text))
    return found


def _place(block: Block, runs: Sequence[Run], texts: list[str], first: int, after: int) -> tuple[int, int] | None:
    """Find a block from a run and a character of it on."""
    for index in range(first, len(runs)):
        if block.place and runs[index].path == block.place.path:
            begin = texts[index].find(block.text, after if index == first else 0)
            if begin >= 0:
                return index, begin
    return None


def _marked(tree: Element, runs: Sequence[Run], spoken: list[_PlacedCue]) -> list[OverlayClip]:
    """Put the ids of a document's cues into its tree, and give their clips in the order of the text."""
    names = _Names(tree)
    holds = Counter(one for run in runs for one in (run.element, *run.element.iterancestors()))
    by_run: dict[int, list[_PlacedCue]] = defaultdict(list)
    for said in spoken:
        by_run[said.run].append(said)
    return [
        clip
        for index in sorted(by_run)
        for clip in _run_clips(runs[index], by_run[index], names, alone=holds[runs[index].element] == 1)
    ]


def _run_clips(run: Run, spoken: list[_PlacedCue], names: _Names, *, alone: bool) -> list[OverlayClip]:
    """Mark the cues of one paragraph: each by itself, or all of them by their element where markup crosses.

    `alone` says that no other text stands in the element.
    """
    spans = [(said.start, said.end) for said in spoken]
    whole = alone and len(spans) == 1 and spans[0][1] - spans[0][0] >= len(run.text)
    wrapped = None if whole else wrap(run, spans, names.new)
    if wrapped is not None:
        return [_clip(name, said) for name, said in zip(wrapped, spoken, strict=True)]
    name = names.of(run.element)
    joined: list[OverlayClip] = []
    for clip in (_clip(name, said) for said in spoken):
        if joined and (joined[-1].audio, joined[-1].end_ms) == (clip.audio, clip.begin_ms):
            joined[-1] = joined[-1]._replace(end_ms=clip.end_ms)
        else:
            joined.append(clip)
    return joined


def _clip(name: str, said: _PlacedCue) -> OverlayClip:
    return OverlayClip(name, said.track.number, _ms(said.cue.pos, said.track), _ms(said.cue.end_pos, said.track))


def _ms(pos: int, track: Track) -> int:
    """Return a position in milliseconds, cut down: no clip ends behind its audio."""
    return pos * 1000 // track.sample_rate


class _Names:
    """Gives ids that a document does not have."""

    def __init__(self, tree: Element) -> None:
        self._taken = {one.get("id") for one in tree.iter(etree.Element)}
        self._count = 0

    def new(self) -> str:
        """Draw the next."""
        while True:
            self._count += 1
            name = f"vs{self._count}"
            if name not in self._taken:
                return name

    def of(self, element: Element) -> str:
        """Return an element's id, and give it one where it has none."""
        name = element.get("id")
        if not name:
            name = self.new()
            element.set("id", name)
        return name
