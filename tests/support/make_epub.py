"""Create EPUBs for tests: a book of N chapters with notes, page breaks, pictures and other parts that are not read out.

`epub` returns the entries of an archive, and `packed` its bytes.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

XHTML = 'xmlns="http://www.w3.org/1999/xhtml"'
OPS = 'xmlns:epub="http://www.idpf.org/2007/ops"'
OLD_DOCTYPE = '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.1//EN" "http://www.w3.org/TR/xhtml11/DTD/xhtml11.dtd">'
CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>"""

PARTS = 3
"""The number of parts of the book. In the table of contents, chapters are nested in parts."""
SPANISH = "La casa estaba en silencio. Nadie abrió la puerta."
NOTE = "This note is not read."


@dataclass(frozen=True, slots=True)
class Made:
    """The entries of a book's archive and its titles, to compare with what is read."""

    entries: dict[str, bytes]
    titles: tuple[str, ...]
    """The titles of its chapters, in reading order."""


def paragraph(chapter: int, number: int) -> str:
    """Return a paragraph of three sentences that is different in each chapter."""
    rooms = ("hall", "kitchen", "library", "attic", "garden", "cellar")
    room, other = rooms[(chapter + number) % 6], rooms[(chapter * 2 + number + 1) % 6]
    return (
        f"Visitor {chapter * 100 + number} walked into the {room}. The lamp there was still warm."
        f" Somebody had left for the {other} a moment ago."
    )


def epub(chapters: int = 30, *, paragraphs: int = 4, version: int = 3, edited: Mapping[int, str] | None = None) -> Made:
    """Return a book with a title page, parts with chapters (one in Spanish), notes, page breaks, a picture and a cover.

    `edited` replaces the first paragraph of chapters, by number from 1.
    """
    edited = edited or {}
    bodies = {n: _chapter(n, paragraphs, version, edited.get(n)) for n in range(1, chapters + 1)}
    documents = {"title.xhtml": _document("Title", "<h1>The Warm Lamp</h1><p>By the authors of voxspool.</p>", version)}
    for number, body in bodies.items():
        language = "es" if number == 2 else "en"
        documents[f"text/c{number:02}.xhtml"] = _document(chapter_title(number), body, version, language)
    documents["text/notes.xhtml"] = _document("Notes", _notes(chapters, version), version)
    names = list(documents)
    extra = {"nav.xhtml": _nav(chapters)} if version == 3 else {"contents.xhtml": _contents(chapters)}
    entries = {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": CONTAINER.encode(),
        "OEBPS/book.opf": _package(names, version).encode(),
        "OEBPS/toc.ncx": _ncx(chapters).encode(),
        "OEBPS/style.css": b"p { text-indent: 1em; }",
        "OEBPS/cover.png": picture(),
        **{f"OEBPS/{name}": text.encode() for name, text in {**documents, **extra}.items()},
    }
    titles = ("The Warm Lamp", *(chapter_title(n) for n in range(1, chapters + 1)))
    return Made(entries, titles)


def chapter_title(number: int) -> str:
    """Return a chapter's title."""
    return f"Chapter {number}: Of lamps"


def packed(entries: Mapping[str, bytes]) -> bytes:
    """Return the bytes of an EPUB. The entry mimetype is first and not compressed."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name, (2024, 5, 6, 7, 8, 10))
            info.compress_type = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return file.getvalue()


def small(body: str, *, package: str = "", documents: Mapping[str, str] | None = None) -> bytes:
    """Return a minimal EPUB 3 with one document, or with `documents` (name -> XHTML). `package` adds manifest items."""
    pages = documents or {"c.xhtml": f"<html {XHTML} {OPS}><head><title>T</title></head><body>{body}</body></html>"}
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(pages)
    )
    refs = "".join(f'<itemref idref="i{n}"/>' for n in range(len(pages)))
    opf = f"""<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="u">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="u">urn:x</dc:identifier>
<dc:title>Small</dc:title><dc:language>en</dc:language></metadata>
<manifest>{items}{package}</manifest><spine>{refs}</spine></package>"""
    return packed(
        {
            "mimetype": b"application/epub+zip",
            "META-INF/container.xml": CONTAINER.encode(),
            "OEBPS/book.opf": opf.encode(),
            **{f"OEBPS/{name}": text.encode() for name, text in pages.items()},
        }
    )


def picture() -> bytes:
    """Return a PNG of one grey pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    )


def _document(title: str, body: str, version: int, language: str = "en") -> str:
    doctype = "<!DOCTYPE html>" if version == 3 else OLD_DOCTYPE
    lang = f'xml:lang="{language}"' + (f' lang="{language}"' if version == 3 else "")
    names = f"{XHTML} {OPS}" if version == 3 else XHTML
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n{doctype}\n<html {names} {lang}>\n<head><title>{title}</title>'
        f'<link rel="stylesheet" type="text/css" href="{"" if title == "Title" else "../"}style.css"/></head>\n'
        f"<body>{body}</body>\n</html>\n"
    )


def _chapter(number: int, paragraphs: int, version: int, edited: str | None) -> str:
    """Return a chapter with a title, a note, a page break in a sentence, inline markup and a picture with a text."""
    texts = [SPANISH if number == 2 else paragraph(number, n) for n in range(1, paragraphs + 1)]
    texts[0] = edited or texts[0]
    reference = f'<a epub:type="noteref" href="notes.xhtml#n{number}">{number}</a>'
    if version == 2:
        reference = f'<sup><a id="r{number}" href="notes.xhtml#n{number}">{number}</a></sup>'
    marked = [f"<p>{text}</p>" for text in texts]
    first, *rest = texts[0].split(". ")
    marked[0] = f"<p><em>{first}.</em>{reference} {'. '.join(rest)}</p>"
    page = f'<span epub:type="pagebreak" id="page{number}" title="{number}">{number}</span>' if version == 3 else ""
    if len(marked) > 1:
        words = texts[1].split(" ")
        marked[1] = f"<p>{' '.join(words[:3])} {page}{' '.join(words[3:])}</p>"
    aside = f'<aside epub:type="footnote" id="f{number}"><p>{NOTE}</p></aside>' if version == 3 else ""
    image = '<p><img src="../cover.png" alt="A picture that nobody reads out."/></p>'
    return f'<h2 id="top">{chapter_title(number)}</h2>{"".join(marked)}{image}{aside}'


def _notes(chapters: int, version: int) -> str:
    if version == 3:
        items = "".join(f'<p epub:type="endnote" id="n{n}">{NOTE}</p>' for n in range(1, chapters + 1))
        return f'<section epub:type="endnotes"><h2>Notes</h2>{items}</section>'
    items = "".join(f'<p id="n{n}"><a href="c{n:02}.xhtml#r{n}">{n}</a> {NOTE}</p>' for n in range(1, chapters + 1))
    return f"<h2>Notes</h2>{items}"


def _parts(chapters: int) -> list[list[int]]:
    size = -(-chapters // PARTS)
    return [list(range(first, min(first + size, chapters + 1))) for first in range(1, chapters + 1, size)]


def _nav(chapters: int) -> str:
    """Return a nested nav document: a part is an entry without a link, with its chapters below it."""
    parts = "".join(
        f"<li><span>Part {n}</span><ol>"
        + "".join(f'<li><a href="text/c{c:02}.xhtml#top">{chapter_title(c)}</a></li>' for c in part)
        + "</ol></li>"
        for n, part in enumerate(_parts(chapters), 1)
    )
    toc = f'<nav epub:type="toc"><ol><li><a href="title.xhtml">The Warm Lamp</a></li>{parts}</ol></nav>'
    pages = "".join(f'<li><a href="text/c{c:02}.xhtml#page{c}">{c}</a></li>' for c in range(1, chapters + 1))
    landmarks = '<ol><li><a epub:type="bodymatter" href="text/c01.xhtml">Text</a></li></ol>'
    body = f'{toc}<nav epub:type="page-list"><ol>{pages}</ol></nav><nav epub:type="landmarks">{landmarks}</nav>'
    return _document("Title", body, 3)


def _contents(chapters: int) -> str:
    """Return the page with the table of contents that an EPUB 2 has in its spine."""
    lines = "".join(f'<p><a href="text/c{c:02}.xhtml">{chapter_title(c)}</a></p>' for c in range(1, chapters + 1))
    return _document("Title", f"<h2>Contents</h2>{lines}", 2)


def _ncx(chapters: int) -> str:
    def point(number: int, title: str, source: str, below: str = "") -> str:
        return (
            f'<navPoint id="p{number}" playOrder="{number}"><navLabel><text>{title}</text></navLabel>'
            f'<content src="{source}"/>{below}</navPoint>'
        )

    points = [point(1, "The Warm Lamp", "title.xhtml")]
    points += [point(c + 1, chapter_title(c), f"text/c{c:02}.xhtml#top") for c in range(1, chapters + 1)]
    below = "".join(points[1:])
    head = '<head><meta name="dtb:uid" content="urn:uuid:0d5f7f4e-3b0c-4d1c-8a57-0f8c3b7a1e11"/></head>'
    return (
        '<?xml version="1.0"?><ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1">'
        f"{head}<docTitle><text>The Warm Lamp</text></docTitle><navMap>"
        f"{point(1, 'The Warm Lamp', 'title.xhtml', below)}</navMap></ncx>"
    )


def _package(names: list[str], version: int) -> str:
    items = "".join(
        f'<item id="d{n}" href="{name}" media-type="application/xhtml+xml"/>\n' for n, name in enumerate(names)
    )
    refs = "".join(f'<itemref idref="d{n}"/>' for n in range(len(names) - 1))
    notes = f'<itemref idref="d{len(names) - 1}"/>'
    if version == 3:
        items += '<item id="nav" href="nav.xhtml" properties="nav" media-type="application/xhtml+xml"/>'
        rest = refs.removeprefix('<itemref idref="d0"/>')
        refs = f'<itemref idref="d0"/><itemref idref="nav"/>{rest}'
        about = '<meta property="dcterms:modified">2024-05-06T07:08:09Z</meta><dc:date>2024-05-06</dc:date>'
    else:
        items += '<item id="contents" href="contents.xhtml" media-type="application/xhtml+xml"/>'
        refs = f'<itemref idref="contents"/>{refs}'
        about = '<dc:date opf:event="modification">2025-01-01</dc:date>'
        about += '<dc:date opf:event="publication">2024-05-06</dc:date>'
    properties = ' properties="cover-image"' if version == 3 else ""
    return f"""<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="{version}.0" unique-identifier="uid">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:opf="http://www.idpf.org/2007/opf">
<dc:identifier id="uid">urn:uuid:0d5f7f4e-3b0c-4d1c-8a57-0f8c3b7a1e11</dc:identifier>
<dc:title>The Warm Lamp</dc:title><dc:creator>the authors of voxspool</dc:creator><dc:language>en</dc:language>
<dc:publisher>voxspool</dc:publisher><dc:description>A book that tests made.</dc:description>
{about}<meta name="cover" content="cover"/></metadata>
<manifest>
{items}<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>
<item id="css" href="style.css" media-type="text/css"/>
<item id="cover" href="cover.png" media-type="image/png"{properties}/>
</manifest>
<spine toc="ncx">{refs}{notes}</spine>
</package>"""
