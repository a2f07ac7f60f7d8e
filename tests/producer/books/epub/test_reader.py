from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import make_epub
from tests.support.books import outline, read_bytes
from voxspool.books import Book, Place, read_book
from voxspool.books import archive as archives
from voxspool.books.chapters import MAX_CHAPTER_CHARS
from voxspool.books.html_text import prose
from voxspool.books.xml import parse_html
from voxspool.errors import BookError

if TYPE_CHECKING:
    from pathlib import Path

MADE = make_epub.epub(4, paragraphs=2)


def read(entries: dict[str, bytes]) -> Book:
    return read_bytes(make_epub.packed(entries), "book.epub")


def texts(body: str) -> list[str]:
    """Return the texts of the blocks of an EPUB with this body."""
    book = read_bytes(make_epub.small(body), "small.epub")
    return [block.text for chapter in book.chapters for block in chapter.blocks]


def spoken(book: Book) -> str:
    return "\n".join(block.text for chapter in book.chapters for block in chapter.blocks)


def changed(name: str, old: str, new: str, version: int = 3) -> Book:
    """Read a book in which one text of an entry is replaced."""
    entries = dict(make_epub.epub(4, paragraphs=2, version=version).entries)
    assert old.encode() in entries[name]
    entries[name] = entries[name].replace(old.encode(), new.encode())
    return read(entries)


@pytest.mark.parametrize("version", [2, 3])
def test_chapters_have_the_order_of_the_spine_and_the_titles_of_the_table_of_contents(version: int) -> None:
    made = make_epub.epub(30, version=version)
    book = read(made.entries)
    assert tuple(chapter.title for chapter in book.chapters) == made.titles
    numbers = [int(found) for found in re.findall(r"Visitor (\d+)", spoken(book))]
    assert numbers == sorted(numbers)
    assert len(numbers) == 29 * 4  # all but the Spanish chapter's
    assert book.unread == ()


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_and_cover_are_read(version: int) -> None:
    book = read(make_epub.epub(2, version=version).entries)
    assert (book.title, book.authors, book.language) == ("The Warm Lamp", ("the authors of voxspool",), "en")
    assert (book.publisher, book.date, book.description) == ("voxspool", "2024-05-06", "A book that tests made.")
    assert book.cover is not None
    assert (book.cover.data, book.cover.media_type) == (make_epub.picture(), "image/png")


@pytest.mark.parametrize("version", [2, 3])
def test_footnotes_page_numbers_contents_and_pictures_are_left_out(version: int) -> None:
    text = spoken(read(make_epub.epub(4, version=version).entries))
    for silent in (make_epub.NOTE, "Notes", "Contents", "picture", "Part 1"):
        assert silent not in text
    for number in range(1, 5):
        if number != 2:
            for n in range(1, 5):
                assert text.count(make_epub.paragraph(number, n)) == 1


def test_a_block_has_the_language_of_its_markup_if_it_differs_from_the_books() -> None:
    book = read(MADE.entries)
    assert {block.language for block in book.chapters[2].blocks} == {"es"}
    assert {block.language for chapter in (book.chapters[1], book.chapters[3]) for block in chapter.blocks} == {None}
    body = '<p lang="en-GB">Same.</p><p>An <i lang="fr">autre</i> word.</p><p><i xml:lang="fr">Tout autre.</i></p>'
    blocks = read_bytes(make_epub.small(body), "x.epub").chapters[0].blocks
    assert [block.language for block in blocks] == [None, None, "fr"]


def test_a_block_has_its_position_in_the_epub() -> None:
    blocks = (
        read_bytes(make_epub.small("<!-- x --><div><p>One.</p>Two.<p>Three.</p></div>"), "x.epub").chapters[0].blocks
    )
    paths = [(block.text, block.place) for block in blocks]
    here = "OEBPS/c.xhtml"
    assert paths == [
        ("One.", Place(here, (1, 0, 0))),
        ("Two.", Place(here, (1, 0))),
        ("Three.", Place(here, (1, 0, 1))),
    ]
    body = "<div>One.<aside epub:type='footnote'>No.</aside></div>"
    (block,) = read_bytes(make_epub.small(body), "x.epub").chapters[0].blocks
    assert block.place == Place(here, (1, 0))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<p>a<b>b</b>c\n <i> d</i></p>", ["abc d"]),
        ("<p>one<br/>two</p>", ["one two"]),
        ("<p>soft\u00adly</p>", ["softly"]),
        ("<p>&nbsp;&mdash;&hellip;&#8217;&amp;</p>", ["—…’&"]),
        ("<p><ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp>字<rt>ji</rt></ruby></p>", ["漢字"]),
        ("<p>a<script>var x;</script><style>p{}</style><svg><text>no</text></svg>b</p>", ["ab"]),
        ("<p hidden=''>no</p><p style='display: none'>no</p><p>yes</p>", ["yes"]),
        ("<p><img alt='no' src='x.png'/>yes</p>", ["yes"]),
        ("<ul><li>one</li><li>two <ul><li>three</li></ul>four</li></ul>", ["one", "two", "three", "four"]),
        ("<table><tr><th>a</th><td><p>b.</p></td><td>c</td></tr><tr><td>d</td></tr></table>", ["a, b. c", "d"]),
        ("<table><tr><td><p>laid</p><p>out</p></td></tr></table>", ["laid", "out"]),
        ("bare <div>one<div>two</div>three</div> tail", ["bare", "one", "two", "three", "tail"]),
        ("<p>x</p><!-- no --><?no no?>tail", ["x", "tail"]),
        ("<div>one<aside epub:type='footnote'>no</aside>two</div>", ["one", "two"]),
        ("<h1>T<br/>s</h1><p>x</p>", ["T s", "x"]),
        ("<p>x<span epub:type='pagebreak'>12</span>y<i role='doc-pagebreak'>xii</i></p>", ["xy"]),
        ("<div epub:type='pagebreak'>All of a page by mistake.</div>", ["All of a page by mistake."]),
        (
            "<p>See <a epub:type='noteref' href='#n'>the note</a><a epub:type='noteref' href='#n'>*</a>.</p>",
            ["See the note."],
        ),
        ("<p>E = mc<sup>2</sup></p>", ["E = mc2"]),
        ("<p>On the 2<sup><a href='#x'>nd</a></sup>.</p>", ["On the 2nd."]),
        ("<p>Page <a href='#p12'>12</a>.</p>", ["Page 12."]),
    ],
)
def test_the_text_is_the_one_that_a_reader_sees(body: str, expected: list[str]) -> None:
    assert texts(body) == expected


@pytest.mark.parametrize(
    ("reference", "note"),
    [
        ("<sup><a id='r' href='#n'>1</a></sup>", "<p id='n'>1. A note.</p>"),
        ("<a id='r' href='#n'><sup>[1]</sup></a>", "<p><a id='n' href='#r'>[1]</a> A note.</p>"),
        ("<a class='footnote' href='#n'>*</a>", "<li id='n'>* A note.</li>"),
        ("<sup id='r'><a href='#n'>a</a></sup>", "<div id='n'><p>A note <a href='#r'>back</a></p></div>"),
        ("<a href='#fn1'>¹</a>", "<dl><dt id='fn1'>1</dt><dd>A note.</dd></dl>"),
    ],
)
def test_superscript_links_and_their_footnotes_are_left_out(reference: str, note: str) -> None:
    assert texts(f"<p>Said{reference} so.</p>{note}") == ["Said so."]


def test_a_link_that_may_be_prose_is_read_and_so_is_its_target() -> None:
    body = "<p>See <a href='#c2'>2</a>.</p><p id='c2'>2 is a number.</p>"
    assert texts(body) == ["See 2.", "2 is a number."]
    body = "<p>Said<sup><a href='#s'>1</a></sup>.</p><p id='s'>Something else altogether.</p>"
    assert texts(body) == ["Said.", "Something else altogether."]


@given(data=st.data())
@settings(max_examples=150)
def test_every_visible_word_is_read_exactly_once(data: st.DataObject) -> None:
    words = iter(f"w{n}" for n in range(10_000))
    inline = ("b", "i", "span", "a", "em")
    block = ("p", "div", "blockquote", "section", "li", "h2", "td", "tr", "table", "ul")

    def tree(depth: int) -> str:
        parts = []
        for _ in range(data.draw(st.integers(0, 4))):
            tag = data.draw(st.sampled_from(inline + block))
            parts.append(next(words) + data.draw(st.sampled_from([" ", "<!-- no -->", "<br/>"])) + " ")
            parts.append(f"<{tag}>{tree(depth - 1) if depth else next(words)}</{tag}>")
        return " ".join([*parts, next(words)])

    body = tree(3)
    expected = re.findall(r"w\d+", body)
    got = Counter(re.findall(r"w\d+", " ".join(texts(body))))
    assert list(got.elements()) == expected


def nav(lines: str) -> str:
    return f'<html {make_epub.XHTML} {make_epub.OPS}><body><nav epub:type="toc"><ol>{lines}</ol></nav></body></html>'


def with_nav(lines: str, pages: dict[str, str]) -> Book:
    """Read a book with these pages (name -> body) and these lines in its table of contents."""
    documents = {
        name: f"<html {make_epub.XHTML} {make_epub.OPS}><body>{body}</body></html>" for name, body in pages.items()
    }
    item = '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
    with zipfile.ZipFile(io.BytesIO(make_epub.small("", package=item, documents=documents))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    return read({**entries, "OEBPS/nav.xhtml": nav(lines).encode()})


def test_several_entries_of_the_contents_split_one_document() -> None:
    below = '<ol><li><a href="a.xhtml#x">X</a></li></ol>'
    lines = f'<li><a href="a.xhtml#two">Two</a></li><li><a href="a.xhtml">One</a>{below}</li>'
    body = "<h1>One</h1><p>1</p><h2><a id='x'></a>X</h2><p>x</p><section id='two'><h1>Two</h1><p>2</p></section>"
    assert outline(with_nav(lines, {"a.xhtml": body})) == [
        ("One", ["One", "1"]),
        ("X", ["X", "x"]),
        ("Two", ["Two", "2"]),
    ]


def test_an_anchor_at_the_end_of_a_paragraph_points_to_the_next_paragraph() -> None:
    lines = '<li><a href="a.xhtml">One</a></li><li><a href="a.xhtml#two">Two</a></li>'
    body = "<p>1 ends.<a id='two'></a></p><p>2 begins.</p>"
    assert outline(with_nav(lines, {"a.xhtml": body})) == [("One", ["1 ends."]), ("Two", ["2 begins."])]


def test_of_several_entries_for_one_position_the_one_equal_to_the_text_gives_the_title() -> None:
    lines = '<li><a href="a.xhtml">Part</a></li><li><a href="a.xhtml#one">One</a></li><li><a href="a.xhtml">X</a></li>'
    assert outline(with_nav(lines, {"a.xhtml": "<h1 id='one'>One</h1><p>1</p>"})) == [("One", ["One", "1"])]


def test_a_document_that_is_not_in_the_contents_continues_the_chapter_before_unless_it_has_a_heading() -> None:
    lines = '<li><a href="b.xhtml">B</a></li><li><a href="d.xhtml#d">D</a></li>'
    pages = {
        "a.xhtml": "<p>For you.</p>",
        "b.xhtml": "<p>b</p>",
        "c.xhtml": "<p>more b</p>",
        "e.xhtml": "<h1>E</h1><p>e</p>",
        "d.xhtml": "<p>more e</p><p id='d'>D</p><p>d</p>",
    }
    assert outline(with_nav(lines, pages)) == [
        ("Small", ["For you."]),
        ("B", ["b", "more b"]),
        ("E", ["E", "e", "more e"]),
        ("D", ["D", "d"]),
    ]
    assert with_nav(lines, pages).chapters[3].blocks[0].kind == "heading"  # a paragraph equal to the title


def test_without_a_table_of_contents_chapters_are_named_by_headings_or_numbers() -> None:
    pages = {
        f"{n}.xhtml": f"<html {make_epub.XHTML}><body>{body}</body></html>"
        for n, body in enumerate(("<h2>A</h2>", "<p>b</p>"))
    }
    book = read_bytes(make_epub.small("", documents=pages), "x.epub")
    assert [chapter.title for chapter in book.chapters] == ["A", "Chapter 2"]


def test_a_chapter_too_long_for_a_job_is_split_after_a_paragraph_or_a_sentence() -> None:
    book = read_bytes(make_epub.small("<h1>Long</h1>" + "<p>A sentence. And one more.</p>" * 6_000), "x.epub")
    assert [chapter.title for chapter in book.chapters] == ["Long (1)", "Long (2)", "Long (3)"]
    assert sum(block.text == "A sentence. And one more." for c in book.chapters for block in c.blocks) == 6_000
    book = read_bytes(make_epub.small(f"<p>{'A sentence. And one more. ' * 6_000}</p>"), "x.epub")
    assert all(chapter.characters <= MAX_CHAPTER_CHARS for chapter in book.chapters)
    assert all(chapter.blocks[0].text.endswith(".") for chapter in book.chapters)
    assert " ".join(c.blocks[0].text for c in book.chapters) == ("A sentence. And one more. " * 6_000).strip()


def test_a_spine_entry_with_linear_no_is_left_out() -> None:
    book = changed("OEBPS/book.opf", '<itemref idref="d2"/>', '<itemref idref="d2" linear="no"/>')
    assert len(book.chapters) == len(MADE.titles) - 1


def test_documents_that_are_not_well_formed_are_read_as_html() -> None:
    book = changed("OEBPS/text/c01.xhtml", "</em>", "</em><br>&copy; a & b < c")
    assert "© a & b < c" in spoken(book)
    assert make_epub.NOTE not in spoken(book)


@pytest.mark.parametrize("encoding", ["utf-16", "iso-8859-1", "cp1252"])
def test_documents_in_other_encodings_are_read(encoding: str) -> None:
    entries = dict(MADE.entries)
    page = entries["OEBPS/text/c02.xhtml"].decode().replace('encoding="utf-8"', f'encoding="{encoding}"')
    entries["OEBPS/text/c02.xhtml"] = page.encode(encoding)
    assert make_epub.SPANISH in spoken(read(entries))


def test_a_page_of_links_counts_as_contents_and_a_title_with_a_footnote_does_not() -> None:
    page = "<html xmlns='http://www.w3.org/1999/xhtml'><body>{}</body></html>"
    links = "".join(f"<p><a href='{n}.xhtml'>Go to {n}</a></p>" for n in "abc")
    pages = {
        "contents.xhtml": page.format(f"<h1>Contents</h1>{links}"),
        "a.xhtml": page.format("<h1>Part One<sup><a href='c.xhtml#n'>1</a></sup></h1>"),
        "b.xhtml": page.format("<p>Text.</p>"),
        "c.xhtml": page.format("<h1>Notes</h1><p id='n'>1. A note.</p>"),
    }
    book = read_bytes(make_epub.small("", documents=pages), "x.epub")
    assert spoken(book) == "Part One\nText."


@given(st.data())
@settings(max_examples=100)
def test_each_character_has_its_position_in_the_tree(data: st.DataObject) -> None:
    pieces = st.sampled_from(
        ["a", " ", "\u00ad", "\n ", "<b>", "</b>", "<br/>", "<!-- x -->", "é\u3000", "<td/>", "x."]
    )
    body = "".join(data.draw(st.lists(pieces, max_size=20)))
    table = f"<table><tr><td>{body}</td><td>z</td></tr></table>"
    for run in prose(parse_html(f"<p>{body}</p>{table}".encode())).runs:
        origins = run.origins()
        assert len(origins) == len(run.text)
        for one, origin in zip(run.text, origins, strict=True):
            if origin is not None:
                (owner, tail), at = origin
                there = ((owner.tail if tail else owner.text) or "")[at]
                assert one == (" " if there.isspace() else there)
            else:
                assert one in ", "


# Damaged and hostile


def test_missing_documents_are_listed_and_the_others_are_read() -> None:
    entries = dict(MADE.entries)
    del entries["OEBPS/text/c03.xhtml"]
    book = read(entries)
    assert [chapter.title for chapter in book.chapters] == [t for t in MADE.titles if "3" not in t]
    (line,) = book.unread
    assert "OEBPS/text/c03.xhtml" in line
    assert "missing" in line
    book = changed("OEBPS/book.opf", 'idref="d2"', 'idref="nowhere"')
    assert book.unread == ("nowhere: the spine names it, but the package does not list it",)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"META-INF/container.xml": None, "OEBPS/book.opf": None}, "names no package"),
        ({"OEBPS/book.opf": b""}, "package"),
        ({"OEBPS/book.opf": b"<package/>"}, "no text"),
    ],
)
def test_the_error_for_a_missing_or_empty_package_says_so(broken: dict[str, bytes | None], said: str) -> None:
    entries = {name: broken.get(name, data) for name, data in MADE.entries.items()}
    with pytest.raises(BookError, match=said) as failed:
        read({name: data for name, data in entries.items() if data is not None})
    assert "book.epub" in str(failed.value)


def test_an_epub_without_a_container_or_with_a_wrong_mimetype_is_read() -> None:
    entries = {**MADE.entries, "mimetype": b"text/plain"}
    del entries["META-INF/container.xml"]
    assert len(read(entries).chapters) == len(MADE.titles)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip", make_epub.packed(MADE.entries)[:-200]])
def test_the_error_for_a_file_that_is_not_an_archive_is_one_line(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "book.epub"
    path.write_bytes(data)
    with pytest.raises(BookError, match="damaged or cut short") as failed:
        read_book(path)
    assert str(path) in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_book_with_encrypted_text_is_refused_and_one_with_encrypted_fonts_is_read() -> None:
    lock = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData'
        ' xmlns="http://www.w3.org/2001/04/xmlenc#"><CipherData><CipherReference URI="{}"/></CipherData>'
        "</EncryptedData></encryption>"
    )
    entries = {**MADE.entries, "META-INF/encryption.xml": lock.format("OEBPS/font.otf").encode()}
    assert len(read(entries).chapters) == len(MADE.titles)
    entries["META-INF/encryption.xml"] = lock.format("OEBPS/text/c01.xhtml").encode()
    with pytest.raises(BookError, match="DRM"):
        read(entries)


def test_an_entry_that_unpacks_to_more_than_the_limit_is_refused() -> None:
    entries = {**MADE.entries, "OEBPS/text/c01.xhtml": b"<html>" + b" " * (archives.MAX_ENTRY_BYTES + 1)}
    data = make_epub.packed(entries)
    assert len(data) < 100_000
    (line,) = read_bytes(data, "x.epub").unread
    assert "16 MiB" in line


def test_an_entry_whose_declared_size_is_false_is_refused() -> None:
    entries = {**MADE.entries, "OEBPS/text/c01.xhtml": b"<html>" + b" " * (archives.MAX_ENTRY_BYTES + 1)}
    size = len(entries["OEBPS/text/c01.xhtml"]).to_bytes(4, "little")
    data = make_epub.packed(entries).replace(size, (100).to_bytes(4, "little"))
    assert [line for line in read_bytes(data, "x.epub").unread if "OEBPS/text/c01.xhtml" in line]


def test_entries_that_are_too_large_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_READ_BYTES", 3_000)
    assert read(MADE.entries).unread


def test_a_document_in_an_unsupported_format_is_listed() -> None:
    kind = 'media-type="application/xhtml+xml"'
    book = changed("OEBPS/book.opf", f'c01.xhtml" {kind}', 'c01.xml" media-type="text/dtbook"')
    assert book.unread == ("OEBPS/text/c01.xml: it is not XHTML; its media type is text/dtbook",)


def test_an_archive_entry_with_an_empty_name_is_ignored() -> None:
    name = b"OEBPS/style.css"
    before, found, after = make_epub.packed(MADE.entries).rpartition(name)
    book = read_bytes(before + found.replace(b"O", b"\0", 1) + after, "x.epub")
    assert len(book.chapters) == len(MADE.titles)


def test_an_archive_with_too_many_entries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    with pytest.raises(BookError, match="entries"):
        read(MADE.entries)


@pytest.mark.parametrize(
    "href", ["../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "%2e%2e/%2e%2e/etc/passwd"]
)
def test_a_path_that_leaves_the_archive_reads_no_file(href: str) -> None:
    book = changed("OEBPS/book.opf", 'href="text/c01.xhtml"', f'href="{href}"')
    assert "root:" not in spoken(book)
    assert len(book.unread) == 1


@pytest.mark.parametrize(
    ("dtd", "entity"),
    [
        ('<!ENTITY e SYSTEM "file:///etc/passwd">', "&e;"),
        ('<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;', ""),
        ('<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;"><!ENTITY c "&b;&b;&b;">', "&c;"),
    ],
)
def test_external_and_nested_entities_are_not_expanded(dtd: str, entity: str) -> None:
    entries = dict(MADE.entries)
    page = entries["OEBPS/text/c01.xhtml"].decode()
    page = page.replace("<!DOCTYPE html>", f"<!DOCTYPE html [{dtd}]>").replace("<p>", f"<p>{entity}", 1)
    entries["OEBPS/text/c01.xhtml"] = page.encode()
    book = read(entries)
    assert "root:" not in spoken(book)
    assert "haha" not in spoken(book)
    assert make_epub.paragraph(1, 1) in spoken(book)
    assert len(book.unread) == bool(entity)


def test_simple_entities_of_a_document_are_expanded_up_to_a_limit() -> None:
    page = f'<!DOCTYPE html [<!ENTITY who "the authors">]><html {make_epub.XHTML}><body><p>By &who;.</p></body></html>'
    book = read_bytes(make_epub.small("", documents={"a.xhtml": page}), "x.epub")
    assert book.chapters[0].blocks[0].text == "By the authors."
    page = page.replace("the authors", "x" * 250).replace("&who;", "&who;" * 10_000)
    with pytest.raises(BookError, match="expand"):
        read_bytes(make_epub.small("", documents={"a.xhtml": page}), "x.epub")


def test_deeply_nested_markup_is_read_completely_or_refused() -> None:
    deep = "<div>" * 1_000 + "<p>deep</p>" + "</div>" * 1_000
    book = read_bytes(make_epub.small(f"<p>one</p>{deep}<p>two</p>"), "x.epub")
    assert [block.text for block in book.chapters[0].blocks] == ["one", "deep", "two"]
    with pytest.raises(BookError, match="too deeply"):
        read_bytes(make_epub.small(f"<p>one</p>{'<div>' * 5_000}deep{'</div>' * 5_000}<p>two</p>"), "x.epub")


SMALL = make_epub.packed(make_epub.epub(2, paragraphs=1).entries)


def survives(data: bytes) -> None:
    """Assert that the data is read as a book or refused with a BookError of one line."""
    try:
        assert read_bytes(data, "x.epub").chapters
    except BookError as error:
        said = str(error)
    else:
        return
    assert "\n" not in said


@given(flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=30))
@settings(max_examples=300)
def test_an_archive_with_wrong_bytes_is_read_or_refused(flips: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for at, value in flips:
        data[at] = value
    survives(bytes(data))


@pytest.mark.parametrize("tag", ["h\u00b9", "a:1b", 'p"x', "x\u00e9"])
def test_elements_with_names_that_xml_does_not_allow_are_read(tag: str) -> None:
    assert " ".join(texts(f"<{tag} \u00b9='1' a:b='2'>one</{tag}><p>&two</p>")) == "one &two"


@given(length=st.integers(0, len(SMALL)))
@settings(max_examples=100)
def test_an_archive_cut_anywhere_is_read_or_refused(length: int) -> None:
    survives(SMALL[:length])


@given(data=st.data())
@settings(max_examples=300)
def test_an_epub_with_missing_or_damaged_entries_is_read_or_refused(data: st.DataObject) -> None:
    entries = dict(make_epub.epub(2, paragraphs=1, version=data.draw(st.sampled_from([2, 3]))).entries)
    for name in data.draw(st.lists(st.sampled_from(sorted(entries)), unique=True, max_size=4)):
        content = bytearray(entries[name])
        if data.draw(st.booleans()) or not content:
            del entries[name]
            continue
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=20)
        ):
            content[at] = value
        entries[name] = bytes(content[: data.draw(st.integers(0, len(content)))])
    survives(make_epub.packed(entries))
