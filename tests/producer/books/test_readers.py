from __future__ import annotations

import io
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reportlab.pdfgen.canvas import Canvas

from tests.support import make_epub
from tests.support.in_a_file import read_bytes
from voxspool.books import Book, read_book
from voxspool.books import docx as word_reader
from voxspool.books.text import paragraphs
from voxspool.errors import BookError, MissingExtraError

if TYPE_CHECKING:
    from pathlib import Path


def outline(book: Book) -> list[tuple[str, list[str]]]:
    return [(chapter.title, [block.text for block in chapter.blocks]) for chapter in book.chapters]


def kinds(book: Book) -> list[list[str]]:
    return [[block.kind for block in chapter.blocks] for chapter in book.chapters]


def markdown(text: str) -> Book:
    return read_bytes(text.encode(), "book.md")


def plain(text: str) -> Book:
    return read_bytes(text.encode(), "book.txt")


def html(text: str) -> Book:
    return read_bytes(text.encode(), "book.html")


# Markdown


def test_each_first_level_heading_of_markdown_starts_a_chapter() -> None:
    book = markdown("# One\n\na *b* `c`\nd\n\n## Sub\n\n- e\n- f\n\n# Two\n\n| g | h |\n|---|---|\n| i | j |\n")
    assert outline(book) == [("One", ["One", "a b c d", "Sub", "e", "f"]), ("Two", ["Two", "g, h", "i, j"])]
    assert kinds(book)[0] == ["heading", "paragraph", "heading", "paragraph", "paragraph"]
    assert book.title == "One"


def test_chapters_start_at_second_level_headings_if_there_is_only_one_first_level_heading() -> None:
    book = markdown("# Book\n\n## One\n\na\n\n## Two\n\nb\n")
    assert outline(book) == [("One", ["Book", "One", "a"]), ("Two", ["Two", "b"])]
    book = markdown("# Book\n\nBefore.\n\n## One\n\na\n\n## Two\n\nb\n")
    assert [chapter.title for chapter in book.chapters] == ["Book", "One", "Two"]


def test_front_matter_of_markdown_becomes_metadata_and_is_not_spoken() -> None:
    book = markdown('---\ntitle: "A title"\nlang: pt-BR\ndate: 2024-01-02\ntags: [x]\n---\nText: here\n')
    assert (book.title, book.language, book.date) == ("A title", "pt-br", "2024-01-02")
    assert outline(book) == [("A title", ["Text: here"])]


def test_footnotes_of_markdown_are_left_out_and_other_brackets_are_kept() -> None:
    book = markdown("Said[^1] so[^x] [1].\n\n[^1]: No\n  no.\n\n    no\n\nAfter.\n")
    assert outline(book) == [("book", ["Said so[^x] [1].", "After."])]


def test_html_inside_markdown_is_read_as_html() -> None:
    assert outline(markdown("a<!-- no -->b <b>c</b> ![no](x.png)\n\n<div>d</div>\n"))[0][1] == ["ab c", "d"]


# HTML


def test_all_text_of_an_html_page_is_read_and_its_head_becomes_metadata() -> None:
    book = html(
        "<html lang=en-US><head><title>T</title><meta name=description content='D'></head><body><header>a</header>"
        "<nav>no</nav><h1>One</h1><p>b<p>c<footer>d</footer><h1>Two</h1>e</body></html>"
    )
    assert (book.title, book.language, book.description) == ("T", "en-us", "D")
    assert outline(book) == [("T", ["a"]), ("One", ["One", "b", "c", "d"]), ("Two", ["Two", "e"])]


def test_the_declared_encoding_of_an_html_page_is_used() -> None:
    assert outline(read_bytes("<meta charset=latin1><p>é".encode("latin-1"), "a.htm"))[0][1] == ["é"]


# Plain text


def test_wrapped_lines_are_joined_and_empty_lines_end_paragraphs() -> None:
    text = "One line\nand its end, well-\nknown.\n\n   Another\n one.\n\n\fThird."
    assert paragraphs(text) == ["One line and its end, well-known.", "Another one.", "Third."]
    assert paragraphs(f"{'long ' * 40}\n{'line ' * 40}\nshort") == [
        ("long " * 40).strip(),
        ("line " * 40).strip(),
        "short",
    ]
    assert paragraphs("  Indented one goes on\nhere and ends.\n  Indented two.") == [
        "Indented one goes on here and ends.",
        "Indented two.",
    ]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Chapter 1", "Chapter 2"),
        ("CHAPTER I", "CHAPTER II"),
        ("Chapter One: A Start", "Chapter Two: An End"),
        ("CHAPTER I. The Start", "CHAPTER II. The End"),
        ("Prologue", "Chapter 1"),
        ("I", "II"),
        ("I.", "II."),
        ("THE START", "THE MIDDLE PART"),
        ("Kapitel 1", "Kapitel 2"),
    ],
)
def test_lines_that_are_certainly_headings_start_chapters(first: str, second: str) -> None:
    book = plain(f"{first}\n\nSome text\nof it.\n\n{second}\n\nMore text.\n\nTHE END")
    assert outline(book) == [(first, [first, "Some text of it."]), (second, [second, "More text.", "THE END"])]
    assert kinds(book) == [["heading", "paragraph"], ["heading", "paragraph", "paragraph"]]


@pytest.mark.parametrize(
    "text",
    [
        "Chapter 3 was the longest she had read.\n\nShe slept.",
        "STOP!\n\nHe ran.\n\nNO!\n\nShe ran.",
        "I\n\nam alone.",
        "He said\nCHAPTER I\nand left.",
        "V\n\nis a letter.\n\nX\n\nis one too.",
        "Part of the house was dark.\n\nBook lovers came.",
    ],
)
def test_lines_that_may_be_prose_start_no_chapter(text: str) -> None:
    (chapter,) = plain(text).chapters
    assert chapter.title == "book"


def test_text_before_the_first_heading_is_read_with_the_table_of_contents() -> None:
    listed = "My book\n\nChapter 1\n\nChapter 2\n\nChapter 3\n\nFor you.\n\n"
    text = listed + "Chapter 1\n\na\n\nChapter 2\n\nb\n\nChapter 3\n\nc"
    assert [chapter.title for chapter in plain(text).chapters] == ["book", "Chapter 1", "Chapter 2", "Chapter 3"]
    assert plain(text).chapters[0].blocks[1].text == "Chapter 1"
    assert outline(plain("PART ONE\n\nChapter 1\n\na\n\nChapter 2\n\nb"))[0] == (
        "PART ONE",
        ["PART ONE", "Chapter 1", "a"],
    )


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=50), max_size=30))
@settings(max_examples=200)
def test_no_word_of_a_text_is_lost_or_repeated(lines: list[str]) -> None:
    text = "\n".join(lines)
    dropped = str.maketrans("", "", "\u00ad\ufeff")
    expected = "".join(text.translate(dropped).split())
    try:
        read = "".join(block.text for chapter in plain("x" + text).chapters for block in chapter.blocks)
    except BookError:
        raise AssertionError from None
    assert "".join(read.split()) == "x" + expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_each_unicode_encoding_is_recognised(encoding: str) -> None:
    data = ("\ufeff" if encoding == "utf-16-be" else "") + "naïve “text”"
    assert outline(read_bytes(data.encode(encoding), "a.txt"))[0][1] == ["naïve “text”"]


def test_text_that_is_not_utf8_is_read_as_windows_1252_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert outline(read_bytes("naïve “text”".encode("cp1252"), "a.txt"))[0][1] == ["naïve “text”"]
    assert "Windows-1252" in caplog.text


# Word


def word() -> bytes:
    document = docx.Document()
    document.core_properties.title = "A report"
    document.core_properties.author = ""
    document.add_heading("One", 1)
    document.add_paragraph("First ").add_run("bold").bold = True
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    document.add_heading("Sub", 2)
    inserted = document.add_paragraph("Sec")
    run = inserted.add_run("ond.")
    wrapper = inserted._p.makeelement("{http://schemas.openxmlformats.org/wordprocessingml/2006/main}ins", {})
    run._r.addprevious(wrapper)
    wrapper.append(run._r)
    hidden = document.add_paragraph("Seen.")
    hidden.add_run("Hidden.").font.hidden = True
    document.add_heading("Two", 1)
    document.add_paragraph("Line\nbreak and\ttab.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def test_heading_styles_of_a_word_document_start_chapters() -> None:
    book = read_bytes(word(), "x.docx")
    assert book.title == "A report"
    assert outline(book) == [
        ("One", ["One", "First bold", "a, b", "Sub", "Second.", "Seen."]),
        ("Two", ["Two", "Line break and tab."]),
    ]
    assert outline(read_bytes(word(), "stdin")) == outline(book)


def test_a_word_document_that_unpacks_to_more_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_reader, "_MOST_BYTES", 10_000)
    with pytest.raises(BookError, match="larger than"):
        read_bytes(word(), "x.docx")


# PDF


def pdf(pages: list[list[str]], chapters: dict[int, str] | None = None) -> bytes:
    """Return a PDF with these lines on its pages. `chapters` is its outline: page (from 0) -> title."""
    file = io.BytesIO()
    canvas = Canvas(file)
    for number, lines in enumerate(pages):
        if chapters and number in chapters:
            canvas.bookmarkPage(str(number))
            canvas.addOutlineEntry(chapters[number], str(number))
        for index, line in enumerate(lines):
            canvas.drawString(72, 800 - 15 * index, line)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


COLOURS = ("red", "green", "yellow", "black")
PAGES = [
    [
        "The Running Head",
        f"It was a {colour} line of words that went to the very margin of this",
        f"{colour} page and then broke, as lines do, in the mid-",
        f"dle of a word. Short {colour} end.",
        f"Another {colour} paragraph began and went on to the very end of its",
        f"Page {number}",
    ]
    for number, colour in enumerate(COLOURS, 1)
]


def test_headers_footers_and_page_numbers_of_a_pdf_are_left_out() -> None:
    text = " ".join(block.text for chapter in read_bytes(pdf(PAGES), "x.pdf").chapters for block in chapter.blocks)
    assert "Running" not in text
    assert "Page" not in text
    for colour in COLOURS:
        assert f"in the middle of a word. Short {colour} end." in text


def test_a_paragraph_of_a_pdf_may_continue_on_the_next_page() -> None:
    blocks = [block.text for block in read_bytes(pdf(PAGES), "x.pdf").chapters[0].blocks]
    assert len(blocks) == len(PAGES) + 1
    assert blocks[1].startswith("Another red paragraph began and went on to the very end of its It was a green line")


def test_the_outline_of_a_pdf_gives_its_chapters() -> None:
    pages = [["Front."], ["One", "Text of one."], ["more of one."], ["Two", "Text of two."]]
    book = read_bytes(pdf(pages, {1: "One", 3: "Two"}), "x.pdf")
    assert [chapter.title for chapter in book.chapters] == ["x", "One", "Two"]
    assert book.chapters[1].blocks[0].text == "One"
    assert book.chapters[2].blocks[-1].text == "Text of two."


def test_the_error_for_a_pdf_without_text_recommends_ocr() -> None:
    with pytest.raises(BookError, match="OCR"):
        read_bytes(pdf([[]]), "x.pdf")


# Any file


def test_a_folder_is_read_in_natural_order_and_unreadable_files_are_listed(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"{number} part.txt").write_text(f"Text {number}.")
    (tmp_path / "3 es.html").write_text("<html lang=es><h1>Tres</h1><p>Hola.</p></html>")
    (tmp_path / "0.md").write_text("---\nlang: en\n---\n# Zero\n\nText 0.\n")
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\0")
    (tmp_path / ".hidden").write_text("no")
    (tmp_path / "broken.epub").write_bytes(b"no")
    (tmp_path / "below").mkdir()
    book = read_book(tmp_path)
    assert outline(book) == [
        ("Zero", ["Zero", "Text 0."]),
        ("1 part", ["Text 1."]),
        ("2 part", ["Text 2."]),
        ("Tres", ["Tres", "Hola."]),
        ("10 part", ["Text 10."]),
    ]
    assert book.language == "en"
    assert [block.language for block in book.chapters[3].blocks] == ["es", "es"]
    assert book.title == tmp_path.name
    assert len(book.unread) == 2
    assert "below" in book.unread[0]
    assert "broken.epub" in book.unread[1]


@pytest.mark.parametrize(
    ("data", "title"),
    [
        (make_epub.packed(make_epub.epub(1).entries), "The Warm Lamp"),
        (b"<!DOCTYPE html><title>Page</title><p>x", "Page"),
        (b"Chapter 1\n\nx", "stdin"),
        (word(), "A report"),
        (pdf([["Text."]]), "stdin"),
    ],
)
def test_the_format_of_a_file_without_a_suffix_is_recognised_from_its_content(
    data: bytes, title: str, tmp_path: Path
) -> None:
    assert read_bytes(data).title == title
    path = tmp_path / "stdin"
    path.write_bytes(data)
    assert read_book(path).title == title
    assert read_book(path, name="Named").title in {title, "Named"}


@pytest.mark.parametrize("name", ["x.epub", "x.docx", "x.pdf", "x.txt", "x.md", "x.html", "x", "x.mobi"])
@pytest.mark.parametrize("data", [b"", b"\0\1\2\xff" * 50, b"PK\x03\x04\0\0", b"%PDF-1.4\n%%EOF"])
def test_the_error_for_a_file_that_is_not_a_book_is_one_line_and_names_the_file(name: str, data: bytes) -> None:
    try:
        read_bytes(data, name)
    except BookError as error:
        said = str(error)
    else:
        assert data.startswith(b"%PDF")  # these bytes are valid text, and the suffix says text
        return
    assert said.startswith(name)
    assert "\n" not in said


def test_a_missing_file_and_an_empty_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="No such file"):
        read_book(tmp_path / "no.epub")
    with pytest.raises(BookError, match="no book in it"):
        read_book(tmp_path)


@given(data=st.data())
@settings(max_examples=150)
def test_damaged_documents_are_read_or_refused(data: st.DataObject) -> None:
    kind, whole = data.draw(st.sampled_from(SAMPLES))
    damaged = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=20)):
        damaged[at] = value
    try:
        assert read_bytes(bytes(damaged), f"x.{kind}").chapters
    except BookError as error:
        said = str(error)
    else:
        return
    assert said.startswith("x.")


SAMPLES = [
    ("docx", word()),
    ("pdf", pdf(PAGES[:2], {0: "One"})),
    ("html", b"<h1>a</h1><p>b &amp; c</p>" * 5),
    ("md", b"# a\n\nb[^1]\n\n[^1]: c" * 5),
]


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("voxspool.books.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(MissingExtraError, match=r"reading PDF needs pypdf; .* pip install .*\[pdf\]'$"):
        read_bytes(b"%PDF-1.4", "x.pdf")


def test_importing_the_package_does_not_import_the_readers_libraries() -> None:
    code = (
        "import sys, voxspool.books; print([m for m in ('lxml', 'markdown_it', 'pypdf', 'docx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
