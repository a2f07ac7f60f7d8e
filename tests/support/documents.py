"""Make the Word and PDF documents of tests in memory."""

from __future__ import annotations

import io

import docx
from reportlab.pdfgen.canvas import Canvas

WORD_NAMESPACE = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
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
"""The lines of pages with a header, a page number and a paragraph that continues on the next page."""


def word_document() -> bytes:
    """Return a DOCX file with headings, a table, text inserted under change tracking, and hidden text."""
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
    wrapper = inserted._p.makeelement(f"{WORD_NAMESPACE}ins", {})
    run._r.addprevious(wrapper)
    wrapper.append(run._r)
    hidden = document.add_paragraph("Seen.")
    hidden.add_run("Hidden.").font.hidden = True
    document.add_heading("Two", 1)
    document.add_paragraph("Line\nbreak and\ttab.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def pdf_document(pages: list[list[str]], chapters: dict[int, str] | None = None) -> bytes:
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
