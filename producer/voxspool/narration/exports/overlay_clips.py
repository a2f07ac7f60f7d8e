"""The cues of tracks -> the clips of an overlay: which element of which document is heard when.

It puts the ids that clips refer to into the trees of the documents.
"""

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
    """A cue, or several with the same target, as the overlay states it. Times are whole milliseconds, rounded down."""

    target: str
    """The id of an element in the document."""
    audio: int
    """The number of the chapter whose audio it is in."""
    begin_ms: int
    end_ms: int


class _PlacedCue(NamedTuple):
    """A cue, and its place in a document: the index of a run, and a span of characters in it."""

    run: int
    start: int
    end: int
    cue: Cue
    track: Track


@dataclass(slots=True)
class DocumentOverlay:
    """The overlay of one document of the book."""

    item: Item
    tree: Element
    clips: list[OverlayClip] = field(default_factory=list)

    @property
    def duration_ms(self) -> int:
        """The sum of its clips' durations."""
        return sum(clip.end_ms - clip.begin_ms for clip in self.clips)


def spoken_documents(archive: Archive, package: Package, book: Book, tracks: Sequence[Track]) -> list[DocumentOverlay]:
    """Return the overlays of the documents that were spoken, after putting the ids into their trees."""
    read = read_contents(archive, package)
    places = _places(book, {path: prose.runs for path, prose in read.proses.items()})
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
    """Extend each clip to the start of the next one in its chapter, or to the chapter's end.

    Audio of cues that have no place in the book is then played too.
    """
    following = dict(ends_ms)
    for overlay in reversed(overlays):
        for index in range(len(overlay.clips) - 1, -1, -1):
            clip = overlay.clips[index]
            overlay.clips[index] = clip._replace(end_ms=max(clip.end_ms, following[clip.audio]))
            following[clip.audio] = clip.begin_ms


def _places(book: Book, runs: Mapping[str, tuple[Run, ...]]) -> dict[tuple[int, int], tuple[str, int, int]]:
    """Return the place of each block: chapter number and block -> document, run in it, first character in the run.

    The documents are read as they were for the book, so blocks and runs are in the same order. Several blocks are of
    one run if a paragraph was too long for a chapter.
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
    """Return the run of a block and its first character there, searching from character `after` of run `first` on."""
    for index in range(first, len(runs)):
        if block.place and runs[index].path == block.place.path:
            begin = texts[index].find(block.text, after if index == first else 0)
            if begin >= 0:
                return index, begin
    return None


def _marked(tree: Element, runs: Sequence[Run], spoken: list[_PlacedCue]) -> list[OverlayClip]:
    """Put the ids of a document's cues into its tree; return the clips in the order of the text."""
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
    """Return the clips of one paragraph: one for each cue, or several cues in one if markup prevents spans.

    Such a clip refers to the paragraph's element. `alone` says that the element contains no other text, so that it
    needs no span if one cue covers it.
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
    """Return a position in milliseconds, rounded down, so that no clip ends after its audio."""
    return pos * 1000 // track.sample_rate


class _Names:
    """Ids for new and existing elements of a document."""

    def __init__(self, tree: Element) -> None:
        self._taken = {one.get("id") for one in tree.iter(etree.Element)}
        self._count = 0

    def new(self) -> str:
        """Return an id that the document does not have yet."""
        while True:
            self._count += 1
            name = f"vs{self._count}"
            if name not in self._taken:
                return name

    def of(self, element: Element) -> str:
        """Return an element's id. An element without one gets a new one."""
        name = element.get("id")
        if not name:
            name = self.new()
            element.set("id", name)
        return name
