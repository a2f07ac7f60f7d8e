from __future__ import annotations

import pytest
from lxml import etree

from voxspool.books.html_text import visible
from voxspool.books.xml import LANGUAGE, TYPE, XHTML, decode, local, named, parse_document, parse_html, parse_xml
from voxspool.errors import BookError


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("é".encode(), "é"),
        ("\ufeffé".encode(), "é"),
        ("\ufeffé".encode("utf-16-le"), "é"),
        ("\ufeffé".encode("utf-32-be"), "é"),
        ("<é>".encode("utf-16-be"), "<é>"),
        ("<?xml encoding='koi8-r'?>д".encode("koi8-r"), "<?xml encoding='koi8-r'?>д"),
        ("<meta charset=nonsense>é".encode(), "<meta charset=nonsense>é"),
        ("“é”".encode("cp1252"), "“é”"),
    ],
)
def test_bytes_are_decoded_by_byte_order_mark_declaration_or_guess(data: bytes, text: str) -> None:
    assert decode(data) == text


def test_broken_xml_is_repaired_and_other_data_is_refused() -> None:
    assert [one.text for one in named(parse_xml(b"<a><b>1</b><b>2</a>"), "b")] == ["1", "2"]
    with pytest.raises(BookError, match="it is not XML"):
        parse_xml(b"plain text")


def test_a_document_that_is_not_well_formed_is_parsed_as_html() -> None:
    root, unknown = parse_document(b'<p epub:type="a" xml:lang="fr">One<br>&two</p>')
    (paragraph,) = named(root, "p")
    assert (paragraph.tag, paragraph.get(TYPE), paragraph.get(LANGUAGE)) == (f"{{{XHTML}}}p", "a", "fr")
    assert visible(paragraph) == "One&two"
    assert unknown == ()


def test_entities_are_replaced_and_undefined_ones_are_reported() -> None:
    page = b'<!DOCTYPE p [<!ENTITY own "&#38;x">]><p>&nbsp;&eacute;&own;&amp;&nope;.</p>'
    assert parse_document(page.replace(b"&#38;", b"y")).unknown == ("nope",)
    assert visible(parse_document(page.replace(b"&#38;", b"y")).root) == "éyx&."


def test_an_entity_that_refers_to_a_file_is_undefined() -> None:
    page = b'<!DOCTYPE p [<!ENTITY own SYSTEM "file:///etc/passwd">]><p>a&own;b</p>'
    root, unknown = parse_document(page)
    assert (visible(root), unknown) == ("ab", ("own",))


def test_an_empty_page_is_refused() -> None:
    with pytest.raises(BookError, match="no readable text"):
        parse_html(b"")


def test_names_are_compared_without_their_namespaces() -> None:
    root = etree.fromstring('<a xmlns:x="urn:x"><x:b/><!-- b --><b/><c/></a>')
    assert [local(one) for one in root] == ["b", "", "b", "c"]
    assert len(named(root, "b", "c")) == 3
