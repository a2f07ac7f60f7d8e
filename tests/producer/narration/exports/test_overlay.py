"""The EPUB with audio: valid overlays, sentences that are highlighted one by one, unchanged entries."""

from __future__ import annotations

import re
import zipfile
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from tests.support import make_epub
from tests.support.check_epub import epubcheck, overlay_faults, pars
from voxspool.books import read_book
from voxspool.books.html_text import prose, settle
from voxspool.books.xml import parse_html
from voxspool.errors import BookError, OutputError
from voxspool.narration.exports.overlay import write_overlay
from voxspool.narration.exports.spans import wrap
from voxspool.narration.track import Cue, Track

if TYPE_CHECKING:
    from pathlib import Path

    from voxspool.books import Book

RATE_HZ = 22_050
CUE_SAMPLES = 7_777  # no whole number of milliseconds


def tracks(book: Book) -> list[Track]:
    """Return tracks in which each sentence of a book takes a third of a second."""
    found = []
    for number, chapter in enumerate(book.chapters, 1):
        cues: list[Cue] = []
        for index, block in enumerate(chapter.blocks):
            for sentence in re.finditer(r"\S.*?(?:[.?!](?=\s)|$)", block.text):
                pos = len(cues) * CUE_SAMPLES
                text = sentence[0]
                cues.append(Cue(index, *sentence.span(), text, text, pos, pos + CUE_SAMPLES, None))
        found.append(Track(number, chapter.title, RATE_HZ, tuple(cues)))
    return found


def audio(folder: Path, spoken: list[Track], suffix: str = ".mp3") -> dict[int, Path]:
    """Make a file for each track: a hum as long as the track."""
    files = {}
    for track in spoken:
        path = folder / f"{track.number}{suffix}"
        hum = (3_000 * np.sin(np.arange(track.samples) * 0.05)).astype(np.int16)
        sf.write(path, hum, RATE_HZ, format="MP3", subtype="MPEG_LAYER_III")
        files[track.number] = path
    return files


def narrated(folder: Path, source: bytes) -> tuple[Path, Book, list[Track]]:
    """Return an EPUB with overlays of all of a book."""
    path = folder / "book.epub"
    path.write_bytes(source)
    book = read_book(path)
    spoken = tracks(book)
    write_overlay(path, book, spoken, audio(folder, spoken), folder / "out.epub", narrator="tone")
    return folder / "out.epub", book, spoken


def lengths_s(spoken: list[Track]) -> dict[str, float]:
    return {f"chapter-{track.number:03}.mp3": track.duration_s for track in spoken}


def heard(book: Book) -> list[str]:
    return [sentence for track in tracks(book) for sentence in (cue.text for cue in track.cues)]


def lit(path: Path) -> list[str]:
    return [" ".join(par.text.split()) for par in pars(path)]


@pytest.mark.parametrize("version", [2, 3])
def test_the_overlays_of_a_book_are_valid(version: int, tmp_path: Path) -> None:
    out, _, spoken = narrated(tmp_path, make_epub.packed(make_epub.epub(5, version=version).entries))
    assert overlay_faults(out, lengths_s(spoken)) == []


@pytest.mark.parametrize("version", [2, 3])
def test_epubcheck_finds_no_error(version: int, tmp_path: Path) -> None:
    out, _, _ = narrated(tmp_path, make_epub.packed(make_epub.epub(5, version=version).entries))
    found = epubcheck(out)
    if found is None:
        pytest.skip("needs Java and the package epubcheck")
    assert found == []


def test_each_sentence_is_highlighted_while_it_is_heard(tmp_path: Path) -> None:
    out, book, _ = narrated(tmp_path, make_epub.packed(make_epub.epub(3).entries))
    # A note's reference and a page's number light up with their sentence, though nobody reads them.
    assert [re.sub(r"(?<=\.)\d$|(?<= )\d(?=[a-z])", "", text).strip() for text in lit(out)] == heard(book)
    lasted_s = [par.end_s - par.begin_s for par in pars(out)]
    assert lasted_s == pytest.approx([CUE_SAMPLES / RATE_HZ] * len(heard(book)), abs=0.002)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>One. Two.</p>", ["One.", "Two."]),
        ("<p>One.</p>", ["One."]),
        ("<p><b>One.</b> <i>Two. Three.</i> Four.</p>", ["One.", "Two.", "Three.", "Four."]),
        ("<p>One <b>bold</b> word. <i>It<b>al</b>ic</i> too. Last.</p>", ["One bold word.", "Italic too.", "Last."]),
        ("<p>One. <i>Two</i></p>", ["One.", "Two"]),
        ("<p>A <i>b. C</i> d.</p>", ["A b. C d."]),  # markup crosses: the paragraph lights up as one
        ("<p>A <ruby>b<rt>x</rt>c<rt>y</rt></ruby>. D.</p>", ["A bxcy.", "D."]),
        ("<div>One. <p>Two. Three.</p> Four. Five.</div>", ["One.", "Two.", "Three.", "Four.", "Five."]),
        ("<table><tr><td>One. Two</td><td>three.</td></tr></table>", ["One. Twothree."]),
        ("<p>One.<!-- x --> Two<br/>lines. <span>Three</span>.</p>", ["One.", "Twolines.", "Three."]),
        ("<p id='own'>One.</p><p>So\u00adft. Two.</p>", ["One.", "So\u00adft.", "Two."]),
        ("<p>&#160; One.\n\n  Two. </p>", ["One.", "Two."]),
    ],
)
def test_spans_are_put_around_sentences_whatever_the_markup(body: str, expected: list[str], tmp_path: Path) -> None:
    source = make_epub.small(body)
    out, book, spoken = narrated(tmp_path, source)
    assert lit(out) == expected
    assert overlay_faults(out, lengths_s(spoken)) == []
    assert [b.text for b in read_book(out).chapters[0].blocks] == [b.text for b in book.chapters[0].blocks]


@given(st.data())
@settings(max_examples=300)
def test_a_span_contains_exactly_its_text_or_the_tree_is_unchanged(data: st.DataObject) -> None:
    inline = st.sampled_from(["b", "i", "a", "ruby", "span"])

    def text(depth: int) -> str:
        parts = []
        for _ in range(data.draw(st.integers(1, 4))):
            parts.append(data.draw(st.sampled_from(["x", "y z", " ", "\u00ad", "<!-- c -->", "<br/>"])))
            if depth:
                name = data.draw(inline)
                parts.append(f"<{name}>{text(depth - 1)}</{name}>")
        return "".join(parts)

    tree = parse_html(f"<p>w{text(2)}w</p>".encode())
    (run,) = prose(tree).runs
    before, said = etree.tostring(tree), run.text
    cuts = sorted(data.draw(st.sets(st.integers(0, len(said)), max_size=5)) | {0, len(said)})
    spans = [(start, end) for start, end in pairwise(cuts) if said[start:end].strip()]
    names = iter("abcdef")
    ids = wrap(run, spans, lambda: next(names))
    if ids is None:
        assert etree.tostring(tree) == before
        return
    by_id = {one.get("id"): one for one in tree.iter()}
    for name, (start, end) in zip(ids, spans, strict=True):
        shown = by_id[name].xpath("string()")
        assert "".join(settle(shown).split()) == "".join(said[start:end].split())
    (after,) = prose(tree).runs
    assert after.text == said
    for name in ids:
        by_id[name].tag = "own"
    etree.strip_tags(tree, "own")
    assert etree.tostring(tree) == before


def test_no_span_stands_between_a_ruby_and_its_readings(tmp_path: Path) -> None:
    out, _, _ = narrated(tmp_path, make_epub.small("<p>A. <ruby>b<rt>x</rt>c<rt>y</rt></ruby></p>"))
    assert lit(out) == ["A.", "bxcy"]
    assert b"<ruby>b<rt>" in zipfile.ZipFile(out).read("OEBPS/c.xhtml")


def test_a_narrated_book_can_be_narrated_again(tmp_path: Path) -> None:
    out, book, _ = narrated(tmp_path, make_epub.packed(make_epub.epub(2).entries))
    again = tmp_path / "again"
    again.mkdir()
    out, other, spoken = narrated(again, out.read_bytes())
    assert heard(other) == heard(book)
    assert overlay_faults(out, lengths_s(spoken)) == []
    assert sum(name.endswith(".smil") for name in zipfile.ZipFile(out).namelist()) == 3


def test_all_other_entries_are_copied_unchanged(tmp_path: Path) -> None:
    made = make_epub.epub(2)
    out, _, _ = narrated(tmp_path, make_epub.packed(made.entries))
    with zipfile.ZipFile(out) as archive:
        spoken = {"OEBPS/book.opf", "OEBPS/title.xhtml", "OEBPS/text/c01.xhtml", "OEBPS/text/c02.xhtml"}
        for name in set(made.entries) - spoken:
            assert archive.read(name) == made.entries[name], name


def test_the_same_book_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    source = make_epub.packed(make_epub.epub(2, version=2).entries)
    assert narrated(tmp_path / "a", source)[0].read_bytes() == narrated(tmp_path / "b", source)[0].read_bytes()


def test_chapters_that_were_not_spoken_have_no_overlay(tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    path.write_bytes(make_epub.packed(make_epub.epub(4).entries))
    book = read_book(path)
    spoken = [track for track in tracks(book) if track.number == 3]
    write_overlay(path, book, spoken, audio(tmp_path, spoken), tmp_path / "out.epub")
    assert {par.audio.rpartition("/")[2] for par in pars(tmp_path / "out.epub")} == {"chapter-003.mp3"}
    assert overlay_faults(tmp_path / "out.epub", lengths_s(spoken)) == []


def test_a_cue_without_a_place_in_the_book_belongs_to_the_clip_before_it(tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    path.write_bytes(make_epub.small("<p>One. Two. Three.</p>"))
    book = read_book(path)
    (track,) = tracks(book)
    first, second, third = track.cues
    hole = Cue(0, 5, 5, "", "", second.pos, second.end_pos, None)
    spoken = [Track(1, "x", RATE_HZ, (first, hole, third))]
    write_overlay(path, book, spoken, audio(tmp_path, spoken), tmp_path / "out.epub")
    one, two = pars(tmp_path / "out.epub")
    assert one.end_s == two.begin_s == pytest.approx(third.pos / RATE_HZ, abs=0.002)


def test_a_paragraph_that_is_split_over_two_chapters_is_highlighted_in_both(tmp_path: Path) -> None:
    sentence = "This is one sentence of a very long paragraph. "
    out, book, spoken = narrated(tmp_path, make_epub.small(f"<p>{sentence * 2_000}</p>"))
    assert len(book.chapters) == 2
    assert lit(out) == heard(book)
    assert len(heard(book)) == 2_000
    assert overlay_faults(out, lengths_s(spoken)) == []


def test_damaged_and_malicious_entries_are_left_out_and_not_listed(tmp_path: Path) -> None:
    made = make_epub.epub(2)
    entries = {**made.entries, "../evil.txt": b"x", "/etc/evil": b"x"}
    data = bytearray(make_epub.packed(entries))
    with zipfile.ZipFile(tmp_path / "x.epub", "w"):
        pass
    at = (
        data.index(make_epub.picture()[:20])
        if make_epub.picture()[:20] in data
        else data.index(b"OEBPS/cover.png") + 20
    )
    data[at] ^= 0xFF
    out, _, spoken = narrated(tmp_path, bytes(data))
    names = zipfile.ZipFile(out).namelist()
    assert "OEBPS/cover.png" not in names
    assert not [name for name in names if "evil" in name]
    assert overlay_faults(out, lengths_s(spoken)) == []


def test_a_target_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    path.write_bytes(make_epub.small("<p>One.</p>"))
    book = read_book(path)
    with pytest.raises(OutputError, match="nowhere"):
        write_overlay(path, book, [], {}, tmp_path / "nowhere" / "out.epub")
    path.write_bytes(b"no archive")
    with pytest.raises(BookError):
        write_overlay(path, book, [], {}, tmp_path / "out.epub")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["book.epub"]


def test_old_documents_lose_their_dtd_and_keep_their_characters(tmp_path: Path) -> None:
    made = make_epub.epub(3, version=2)
    name = "OEBPS/text/c01.xhtml"
    made.entries[name] = made.entries[name].replace(b"Of lamps", b"Of&nbsp;lamps")
    out, book, _ = narrated(tmp_path, make_epub.packed(made.entries))
    data = zipfile.ZipFile(out).read(name)
    assert b"<!DOCTYPE html>" in data
    assert "Of\u00a0lamps" in data.decode()
    assert etree.fromstring(data) is not None
    assert book.chapters[1].blocks[0].text == "Chapter 1: Of lamps"
