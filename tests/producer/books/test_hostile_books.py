"""Books made to be slow or large: reading takes time in proportion to their size, and what is too much is refused."""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import TYPE_CHECKING

import docx as python_docx
import pytest

from tests.support import make_epub
from tests.support.books import read_bytes
from tests.support.cpu_time import growth
from tests.support.documents import pdf_document
from voxspool.books import docx, markdown, pdf, text, xml
from voxspool.books.epub import reader as epub_reader
from voxspool.books.xml import decode, parse_html
from voxspool.errors import BookError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from voxspool.books import Book

TIMES = 4
LINEAR = 1.9 * TIMES
"""Between the growth of linear and of quadratic time, for an input that is TIMES as large."""


def page(body: str) -> bytes:
    return f"<html><head><title>T</title></head><body>{body}</body></html>".encode()


def links(count: int) -> str:
    """An index: one paragraph with links to places in itself, and back."""
    return "".join(
        f'<a class="note" id="r{n}" href="#n{n}">{n % 1000}</a> word<b id="n{n}">x</b> ' for n in range(count)
    )


def word_file(body: str, parts: dict[str, str] | None = None) -> bytes:
    """Return a DOCX file with this XML at the start of its body; `parts` are replaced."""
    made = io.BytesIO()
    python_docx.Document().save(made)
    with zipfile.ZipFile(made) as source:
        entries = {name: source.read(name) for name in source.namelist()}
    document = entries["word/document.xml"].decode()
    entries["word/document.xml"] = document.replace("<w:body>", f"<w:body>{body}", 1).encode()
    entries |= {name: part.encode() for name, part in (parts or {}).items()}
    return make_epub.packed(entries)


def styles(count: int) -> str:
    """A chain of styles, each based on the next."""
    made = "".join(
        f'<w:style w:type="paragraph" w:styleId="S{n}"><w:name w:val="n{n}"/><w:basedOn w:val="S{n + 1}"/></w:style>'
        for n in range(count)
    )
    return f'<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">{made}</w:styles>'


def styled(count: int) -> bytes:
    paragraph = '<w:p><w:pPr><w:pStyle w:val="S0"/></w:pPr><w:r><w:t>a</w:t></w:r></w:p>'
    return word_file(paragraph * count, {"word/styles.xml": styles(count)})


def listed(count: int) -> bytes:
    """An EPUB whose table of contents names `count` places in one paragraph."""
    marks = "".join(f'<b id="h{n}">word {n}</b> ' for n in range(count))
    entries = "".join(f'<li><a href="d.xhtml#h{n}">H{n}</a></li>' for n in range(count))
    opf = (
        '<package xmlns="http://www.idpf.org/2007/opf"><manifest>'
        '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        '<item id="d" href="d.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="d"/></spine></package>'
    )
    xhtml = make_epub.XHTML
    documents = {
        "OEBPS/book.opf": opf,
        "OEBPS/nav.xhtml": f"<html {xhtml} {make_epub.OPS}><body><nav epub:type='toc'>{entries}</nav></body></html>",
        "OEBPS/d.xhtml": f"<html {make_epub.XHTML}><body><p>{marks}</p></body></html>",
    }
    return make_epub.packed(
        {"META-INF/container.xml": make_epub.CONTAINER.encode()}
        | {name: part.encode() for name, part in documents.items()}
    )


GROWING: dict[str, tuple[str, Callable[[int], bytes], int]] = {
    "an index of links": ("a.html", lambda n: page(f"<p>{links(n)}</p>"), 400),
    "an index of links to one note": ("a.html", lambda n: page(links(n) + "<p id=n>" + "w " * n), 400),
    "links in an EPUB": ("a.epub", lambda n: make_epub.small(f"<p>{links(n)}</p>"), 400),
    "a table of contents of one paragraph": ("a.epub", listed, 700),
    "headings of a text": ("a.txt", lambda n: b"Chapter 7\n\nText.\n\n" * n, 2_500),
    "headings of a page": ("a.html", lambda n: page("<h1>One</h1><p>Text.</p>" * n), 700),
    "white space before an element": ("a.html", lambda n: b"<html>" + b" " * n + b"x", 200_000),
    "XML declarations without an end": ("a.html", lambda n: b"<p>x" + b"<?xml " * n, 20_000),
    "XML declarations with one end": ("a.html", lambda n: b"<p>x" + b"<?xml " * n + b">", 20_000),
    "attributes whose names XML does not allow": ("a.html", lambda n: page("<p {a=1>x</p>" * n), 1_200),
    "page breaks inside each other": (
        "a.html", lambda n: page("<div>" + "<i role=doc-pagebreak>" * 200 + "word " * n), 10_000,
    ),
    "texts in a run": ("a.docx", lambda n: word_file(f"<w:p><w:r>{'<w:t>a</w:t>' * n}</w:r></w:p>"), 3_000),
    "styles that are based on each other": ("a.docx", styled, 200),
    "a text of one line": ("a.txt", lambda n: b"word " * n, 100_000),
    "a text of one word": ("a.txt", lambda n: b"w" * n, 500_000),
    "references to a footnote without an end": ("a.md", lambda n: b"x[^a" * n + b"\n\n[^b]: c\n", 2_000),
    "lines of one paragraph in Markdown": ("a.md", lambda n: b"a\n" * n, 1_500),
}  # fmt: skip


@pytest.mark.parametrize("what", GROWING)
def test_time_grows_with_the_size(what: str) -> None:
    name, make, count = GROWING[what]
    small, large = make(count), make(TIMES * count)

    def read(data: bytes) -> Book | None:
        with contextlib.suppress(BookError):  # there may be no text
            return read_bytes(data, name)
        return None

    assert growth(lambda: read(small), lambda: read(large)) < LINEAR


def test_an_outline_takes_time_in_proportion_to_its_entries() -> None:
    def outlined(count: int) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        return [(n // 5, f"Line {n}") for n in range(count)], [(n // 5, f"line {n}.") for n in range(count)]

    small, large = outlined(1_000), outlined(TIMES * 1_000)
    assert [chapter.title for chapter in pdf._outlined(*small, "T")][:2] == ["Line 0", "Line 1"]
    assert growth(lambda: pdf._outlined(*small, "T"), lambda: pdf._outlined(*large, "T")) < LINEAR


# Limits


@pytest.mark.parametrize("name", ["a.html", "a.md", "a.epub"])
@pytest.mark.parametrize("element", ["<b></b>", "<br>", "<p>"])
def test_a_document_with_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, element: str) -> None:
    monkeypatch.setattr(xml, "MAX_ELEMENTS", 100)
    few, many = f"<p>Text.</p>{element * 50}", f"<p>Text.</p>{element * 200}"
    made = make_epub.small if name == "a.epub" else page
    assert read_bytes(made(few), name).chapters
    with pytest.raises(BookError, match="elements; the limit is 100; split it"):
        read_bytes(made(many), name)


def test_the_documents_of_an_epub_have_a_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epub_reader, "_MAX_ELEMENTS", 300)
    book = read_bytes(make_epub.packed(make_epub.epub(30).entries), "a.epub")
    assert book.chapters
    assert any("more than the limit of 300 elements" in line for line in book.unread)


def test_a_word_document_with_too_many_elements_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docx, "_MAX_ELEMENTS", 20_000)
    assert read_bytes(word_file("<w:p><w:r><w:t>a</w:t></w:r></w:p>" + "<w:p/>" * 1_000), "a.docx").chapters
    with pytest.raises(BookError, match="elements; the limit is 20,000; split it"):
        read_bytes(word_file("<w:p>" + "<w:r/>" * 30_000 + "</w:p>"), "a.docx")


@pytest.mark.parametrize(("name", "reader"), [("a.md", markdown), ("a.txt", text)])
def test_a_text_with_too_many_lines_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, reader: ModuleType) -> None:
    monkeypatch.setattr(reader, "_MAX_LINES", 100)
    with pytest.raises(BookError, match="200 lines; the limit is 100; split it"):
        read_bytes(b"a\n" * 200, name)


def test_a_pdf_with_too_many_instructions_or_pages_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pdf_document([[f"These are the words of page {n}, and they are enough."] for n in "ABCDEF"])
    monkeypatch.setattr(pdf, "_MAX_CONTENT_BYTES", 500)
    book = read_bytes(data, "a.pdf")
    assert book.chapters
    assert "page 6 cannot be read (the pages up to it have more than the limit" in book.unread[-1]
    monkeypatch.setattr(pdf, "_MAX_PAGES", 5)
    with pytest.raises(BookError, match="it has 6 pages; the limit is 5"):
        read_bytes(data, "a.pdf")


@pytest.mark.parametrize("name", ["a.html", "a.epub"])
def test_an_element_with_tens_of_thousands_of_attributes_is_refused(name: str) -> None:
    body = "<p " + " ".join(f'a{n}="1"' for n in range(40_000)) + ">Text.</p>"
    with pytest.raises(BookError, match="attributes"):
        read_bytes(make_epub.small(body) if name == "a.epub" else page(body), name)


def test_many_elements_that_are_nested_deeply_are_refused() -> None:
    with pytest.raises(BookError, match="nested too deeply"):
        parse_html(page("<div>" * 1_000 + "<p>a</p>" * 30_000))


# Encodings and names


@pytest.mark.parametrize(
    "encoding", ["punycode", "idna", "utf-7", "unicode_escape", "raw_unicode_escape", "rot13", "hex"]
)
def test_an_encoding_that_is_no_character_set_is_not_used(encoding: str) -> None:
    page_text = f'<meta charset="{encoding}"><p>caf\u00e9 bcher-kva +AAA- \\u0041'
    assert decode(page_text.encode()) == page_text


@pytest.mark.parametrize(
    "encoding",
    ["iso-8859-1", "Windows-1251", "latin2", "Shift_JIS", "GB18030", "koi8-r", "euc-kr", "us-ascii", "macintosh"],
)
def test_a_character_set_of_books_is_used(encoding: str) -> None:
    page_text = f'<meta charset="{encoding}"><p>Text.'
    assert decode(page_text.encode(encoding)) == page_text
    assert "\ufffd" not in decode(f'<meta charset="{encoding}">'.encode() + "Text".encode(encoding))


def test_a_declared_encoding_changes_what_is_read() -> None:
    for encoding, word in (("windows-1251", "Лампа"), ("shift_jis", "灯台"), ("big5", "燈塔"), ("iso-8859-2", "łódź")):
        assert decode(f'<meta charset="{encoding}">'.encode() + word.encode(encoding)).endswith(word)


@pytest.mark.parametrize("name", ["a.html", "a.epub"])
@pytest.mark.parametrize(
    "element",
    [
        "<e {>Text.</e>",
        "<p {a}=1 }b {x{y {}>Text.</p>",
        "<e{a>Text.</e{a>",
        "<a}b>Text.</a}b>",
        "<a:{b>Text.",
        "<p {{{=}}}>Text.",
    ],
)
def test_names_with_braces_are_no_error(name: str, element: str) -> None:
    data = make_epub.small(f"{element}<br>") if name == "a.epub" else page(element)
    assert [block.text for block in read_bytes(data, name).chapters[0].blocks] == ["Text."]
