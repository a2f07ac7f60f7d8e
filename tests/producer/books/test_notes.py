from __future__ import annotations

import pytest

from voxspool.books.html_text import visible
from voxspool.books.notes import notes, resolve
from voxspool.books.xml import parse_html


@pytest.mark.parametrize(
    ("href", "target"),
    [
        ("#n1", ("text/c1.xhtml", "n1")),
        ("notes.xhtml#n1", ("text/notes.xhtml", "n1")),
        ("../end/no%20tes.xhtml#n%201", ("end/no tes.xhtml", "n 1")),
        ("c2.xhtml", ("text/c2.xhtml", "")),
    ],
)
def test_a_link_is_resolved_against_the_document_that_contains_it(href: str, target: tuple[str, str]) -> None:
    assert resolve("text/c1.xhtml", href) == target


def left_out(**pages: str) -> list[str]:
    """Return the texts of the elements that are left out of these documents (name -> body)."""
    return sorted(visible(one) for one in notes({name: parse_html(body.encode()) for name, body in pages.items()}))


def test_a_footnote_in_another_document_is_left_out_with_its_reference() -> None:
    page = "<p>Text<sup><a href='b#n'>1</a></sup>.</p>"
    assert left_out(a=page, b="<p id=n>1. Note.</p><p>2. Text.</p>") == ["1", "1. Note."]


def test_a_reference_whose_target_may_be_prose_is_left_out_alone() -> None:
    assert left_out(a="<p>Text<sup><a href='#n'>1</a></sup>.</p><p id=n>Prose.</p>") == ["1"]
    assert left_out(a="<p>Text<sup><a href='#n'>1</a></sup>.</p><h2 id=n>1. Chapter</h2>") == ["1"]


def test_a_target_that_is_too_long_for_a_footnote_is_kept() -> None:
    long = "word " * 1_001
    assert left_out(a=f"<p>Text<sup><a href='#n'>1</a></sup>.</p><p id=n>1. {long}</p>") == ["1"]


@pytest.mark.parametrize(
    "link",
    [
        "<p>See <a href='#n'>1</a>.</p>",
        "<p>See <a class=note href='#n'>chapter one</a>.</p>",
        "<p><a class=note href='#n'>1</a> An index.</p>",
        "<p><sup><a href='#n'>1</a></sup></p>",
    ],
)
def test_a_link_that_may_be_prose_is_kept(link: str) -> None:
    assert left_out(a=f"{link}<p id=n>1. Text.</p>") == []
