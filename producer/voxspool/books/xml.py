"""Parse the bytes of XHTML, HTML or XML into a tree in the XHTML namespace.

Nothing is fetched from the network, and no parser sees a DTD: the document type declaration is removed first. Named
entities such as &nbsp; and simple entities that the document defines are replaced by their text, up to a limit.
Documents that are not well-formed are parsed as HTML, as a browser does. The number of elements and of attributes is
limited before a parser sees the document: a few kilobytes in an archive may unpack to millions of them.
"""

from __future__ import annotations

import codecs
import re
from html.entities import html5
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from lxml import etree

from voxspool.errors import BookError

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

XHTML: Final = "http://www.w3.org/1999/xhtml"
OPS: Final = "http://www.idpf.org/2007/ops"
TYPE: Final = f"{{{OPS}}}type"
LANGUAGE: Final = "{http://www.w3.org/XML/1998/namespace}lang"

_NAMESPACES: Final = cast("dict[str, str]", {None: XHTML, "epub": OPS})
_PREFIXES: Final = {
    "epub:type": TYPE,
    "xml:lang": LANGUAGE,
    "xlink:href": "{http://www.w3.org/1999/xlink}href",
}
"""Names of EPUB's prefixed attributes as an HTML parser returns them -> their names with namespaces."""

_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose byte order mark is the start of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
_ENCODINGS: Final = frozenset(
    str.split(
        "utf-8 utf-16 utf-16-le utf-16-be utf-32 utf-32-le utf-32-be ascii"
        " iso8859-1 iso8859-2 iso8859-3 iso8859-4 iso8859-5 iso8859-6 iso8859-7 iso8859-8 iso8859-9 iso8859-10"
        " iso8859-11 iso8859-13 iso8859-14 iso8859-15 iso8859-16 tis-620"
        " cp1250 cp1251 cp1252 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 cp437 cp850 cp852 cp855 cp862 cp866 cp874"
        " koi8-r koi8-u mac-roman mac-cyrillic mac-greek mac-latin2 mac-turkish"
        " shift_jis cp932 euc_jp iso2022_jp gb2312 gbk gb18030 hz big5 big5hkscs cp950 euc_kr cp949 johab"
    )
)
"""The encodings that a document may declare, by the names of Python's codecs: each decodes in linear time.

Python also knows encodings that are no character sets, such as punycode, which takes quadratic time.
"""
_DECLARED: Final = re.compile(rb"""(?:encoding|charset)\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE | re.ASCII)
_DECLARED_WITHIN_BYTES: Final = 2_048
_XML_DECLARATION: Final = re.compile(r"<\?xml\b")
_DOCTYPE: Final = re.compile(r"<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>", re.DOTALL | re.IGNORECASE)
_ENTITY: Final = re.compile(r"""<!ENTITY\s+([\w.-]+)\s+(?:"([^"<&%]{0,256})"|'([^'<&%]{0,256})')\s*>""")
_NAME: Final = re.compile(r"&([A-Za-z_][\w.-]{0,60});")
_NO_XML: Final = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]+"
    r"|&#(?:x0*(?:[0-8bcef]|1[0-9a-f]|fff[ef])|0*(?:[0-8]|1[124-9]|2\d|3[01]|6553[45]));",
    re.IGNORECASE,
)
"""Characters that XML does not allow, and numeric references to them."""
_XML_NAME: Final = re.compile(r"(?:\{[^}]*\})?[A-Za-z_][A-Za-z0-9_.-]*")
_XML_NAMES: Final = frozenset({"lt", "gt", "amp", "quot", "apos"})
_ENTITIES_MAY_ADD_CHARS: Final = 1_000_000
MAX_ELEMENTS: Final = 500_000
"""Limit for the elements of one document. Long novels have 30,000; the works of Shakespeare in one page 200,000."""
_MAX_DEPTHS: Final = 40_000_000
"""Limit for the sum of the depths of a document's elements, counted at their starts and ends."""
_TAG: Final = re.compile(
    r"""<[a-zA-Z][^\s/>]*+(?:[\s/]++|=?[^\s/>=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+)*+"""
)
"""A start tag with its attributes. Its repetitions are possessive, so it takes linear time."""
_ATTRIBUTE: Final = re.compile(r"""[^\s/>=]++(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+""")
_MANY_ATTRIBUTES: Final = 100
_MAX_ATTRIBUTE_PAIRS: Final = 1_000_000_000
"""Limit for the sum, over all tags, of the square of the number of attributes: libxml2 compares each with each.

A thousand million take it 1.3 s.
"""


class Parsed(NamedTuple):
    """A parsed document."""

    root: Element
    unknown: tuple[str, ...]
    """The names of undefined entities, without & and ;. They are removed from the text."""


def decode(data: bytes) -> str:
    """Decode a document by its byte order mark, else by its declared encoding, else as UTF-8, else as Windows-1252."""
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return data.decode(encoding, "replace").removeprefix("\ufeff")
    declared = _DECLARED.search(data, 0, _DECLARED_WITHIN_BYTES)
    for encoding in ([declared[1].decode("ascii")] if declared else []) + ["utf-8"]:
        try:
            if codecs.lookup(encoding).name in _ENCODINGS:
                return data.decode(encoding)
        except (LookupError, UnicodeError):
            continue
    return data.decode("cp1252", "replace")


def check_size(text: str) -> None:
    """Check that a document has no more elements and attributes than a book may have. Raises BookError."""
    count = count_elements(text)
    if count > MAX_ELEMENTS:
        raise BookError(f"it has {count:,} elements; the limit is {MAX_ELEMENTS:,}; split it into several files")
    pairs = 0
    for tag in _TAG.finditer(text):
        if tag.end() - tag.start() > _MANY_ATTRIBUTES:
            pairs += sum(1 for _ in _ATTRIBUTE.finditer(text, tag.start(), tag.end())) ** 2
    if pairs > _MAX_ATTRIBUTE_PAIRS:
        raise BookError("one of its elements has tens of thousands of attributes; save the document again")


def count_elements(text: str | bytes) -> int:
    """Return how many elements a parser may find in a document, or more."""
    return text.count("<") - text.count("</") if isinstance(text, str) else text.count(b"<") - text.count(b"</")


def parse_xml(data: bytes) -> Element:
    """Parse an XML file of an EPUB that is not prose: a package, a container, an NCX. Small errors are repaired.

    Raises BookError if the data is not XML.
    """
    source = _without_declaration(decode(data))
    check_size(source)
    text, _ = _without_entities(source)
    root = _xml(text, recover=True)
    if root is None:
        raise BookError("it is not XML")
    return root


def parse_document(data: bytes) -> Parsed:
    """Parse a document of an EPUB as XHTML, or as HTML if it is not well-formed. Raises BookError."""
    source = _without_declaration(decode(data))
    check_size(source)
    text, unknown = _without_entities(source)
    root = _xml(text)
    if root is None:
        return Parsed(_html(source), ())
    _check_depth(root)
    return Parsed(_in_xhtml(root), unknown)


def parse_html(data: bytes) -> Element:
    """Parse a page as a browser does. Raises BookError if the page is empty."""
    source = _without_declaration(decode(data))
    check_size(source)
    return _html(source)


def local(element: Element) -> str:
    """Return an element's name without its namespace; an empty string for a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def named(element: Element, *names: str) -> list[Element]:
    """Return the descendants that have one of these names, in any namespace, in document order."""
    return [one for one in element.iter(etree.Element) if one is not element and local(one) in names]


def whole_text(element: Element) -> str:
    """Return all text in an element, unchanged, without comments."""
    return str(element.xpath("string()"))


def _xml(text: str, *, recover: bool = False) -> Element | None:
    """Parse XML; return None if it is not well-formed."""
    parser = etree.XMLParser(encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False, recover=recover)
    try:
        root = etree.fromstring(text.encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        return None
    return root if root is not None and isinstance(root.tag, str) else None


def _html(text: str) -> Element:
    """Parse HTML into the XHTML namespace."""
    # huge_tree is safe, because HTML has no entities that expand. Without it elements nested deeper than 256 are lost.
    parser = etree.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
    try:
        root = etree.fromstring(_NO_XML.sub("", text).encode("utf-8", "replace"), parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    if root is None or not isinstance(root.tag, str):
        raise BookError("there is no readable text in it")
    if any("depth" in entry.message for entry in parser.error_log):
        raise BookError("its elements are nested too deeply; some of its text would be lost")
    _check_depth(root)
    return _in_xhtml(root)


def _check_depth(root: Element) -> None:
    """Check the sum of the depths of all elements: the walk keeps the path of each. Raises BookError."""
    depth = depths = 0
    for event, _ in etree.iterwalk(root, events=("start", "end")):
        depth += 1 if event == "start" else -1
        depths += depth
    if depths > _MAX_DEPTHS:
        raise BookError("too many of its elements are nested too deeply; save the document again")


def _in_xhtml(root: Element) -> Element:
    """Put elements without a namespace into the XHTML namespace, and prefixed attributes into their namespaces."""
    if str(root.tag).startswith("{"):
        return root
    new = etree.Element(f"{{{XHTML}}}{local(root)}", nsmap=_NAMESPACES)
    _move(root, new)
    for element in list(new.iter(etree.Element)):
        if not str(element.tag).startswith("{"):
            element.tag = f"{{{XHTML}}}{_sane(str(element.tag))}"
        if any(not _XML_NAME.fullmatch(name) for name in map(str, element.attrib)):
            _rename_attributes(element)
    etree.cleanup_namespaces(new, keep_ns_prefixes=["epub"])
    return new


def _move(old: Element, new: Element) -> None:
    """Move the text, attributes and children of an element into another."""
    new.text = old.text
    for name, value in old.attrib.items():
        _set(new, str(name), value)
    new.extend(list(old))


def _rename_attributes(element: Element) -> None:
    """Replace the names of an element's attributes by names that XML allows.

    An attribute whose name is not allowed, such as {, cannot be removed by its name.
    """
    attributes = [(str(name), value) for name, value in element.attrib.items()]
    element.attrib.clear()
    for name, value in attributes:
        _set(element, name, value)


def _set(element: Element, name: str, value: str | bytes) -> None:
    """Set an attribute in the namespace of its prefix; drop it if XML does not allow its name."""
    known = _PREFIXES.get(name, name)
    if _XML_NAME.fullmatch(known) and known != "xmlns":
        element.set(known, value)


def _sane(tag: str) -> str:
    """Return an element name that XML allows: HTML parsers also return names such as a:b and a"b."""
    name = tag.rpartition(":")[2]
    return name if _XML_NAME.fullmatch(name) else "span"


def _without_declaration(text: str) -> str:
    """Return a document without its first XML declaration and the white space before it."""
    end = -1
    for start in _XML_DECLARATION.finditer(text):
        if start.start() < end:
            continue  # the same > follows
        end = text.find(">", start.end())
        if end < 0:
            break
        if text[end - 1] == "?":
            return text[: start.start()].rstrip() + text[end + 1 :]
    return text


def _without_entities(text: str) -> tuple[str, tuple[str, ...]]:
    """Remove the DTD and replace entities by their characters. Return the text and the names of undefined entities."""
    own: dict[str, str] = {}
    at = text.find("<!DOCTYPE")
    declared = _DOCTYPE.match(text, at) if at >= 0 else None
    if declared:
        own = {one[1]: one[2] or one[3] or "" for one in _ENTITY.finditer(declared[1] or "")}
        text = text[:at] + text[declared.end() :]
    unknown: dict[str, None] = {}
    added = 0

    def characters(found: re.Match[str]) -> str:
        nonlocal added
        name = found[1]
        if name in _XML_NAMES:
            return found[0]
        meant = own.get(name, html5.get(f"{name};"))
        if meant is None:
            unknown[name] = None
            return ""
        added += len(meant)
        if added > _ENTITIES_MAY_ADD_CHARS:
            raise BookError(f"its entities expand to more than {_ENTITIES_MAY_ADD_CHARS} characters")
        return "".join(f"&#{ord(one)};" for one in meant)

    return _NAME.sub(characters, text), tuple(unknown)
