from __future__ import annotations

import pytest

from voxspool.books.book import Block, Place
from voxspool.books.html_text import MARK, Run, Slot, is_block, is_left_out, kinds, prose, settle, visible
from voxspool.books.xml import named, parse_document, parse_html


def runs(body: str) -> tuple[Run, ...]:
    return prose(parse_html(f"<html lang=en><body>{body}</body></html>".encode())).runs


def test_white_space_is_collapsed_and_soft_hyphens_are_removed() -> None:
    assert settle(" a\n\t b\u00a0\u00adc\ufeff\x07 ") == "a b c"


@pytest.mark.parametrize(
    ("body", "level"),
    [
        ("<h1>T</h1>", 1),
        ("<h6>T</h6>", 6),
        ("<p role=heading aria-level=3>T</p>", 3),
        ("<p epub:type=subtitle>T</p>", 7),
        ("<div role=heading aria-level=9>T</div>", 7),
        ("<span role=heading>T</span>", 0),
        ("<p>T</p>", 0),
    ],
)
def test_headings_have_the_level_that_their_markup_states(body: str, level: int) -> None:
    assert [run.level for run in runs(body)] == [level]


def test_text_inside_a_heading_has_the_level_of_the_heading() -> None:
    assert [(run.text, run.level) for run in runs("<h2>a<div>b</div></h2>c")] == [("a", 2), ("b", 2), ("c", 0)]


def test_an_anchor_points_to_the_run_at_or_after_it() -> None:
    body = "<p id=a>One<a id=b></a></p><p>Two <i id=c>x</i></p><div hidden><p id=d>no</p></div><p>Three</p><p id=e></p>"
    assert prose(parse_html(f"<html><body>{body}</body></html>".encode())).anchors == {
        "a": 0,
        "b": 1,
        "c": 2,  # after text of its paragraph: the next one
        "d": 2,
        "e": 3,
    }


def test_omitted_elements_are_left_out_and_the_text_after_them_is_read() -> None:
    root = parse_html(b"<p>One<b>two</b>three</p>")
    assert [run.text for run in prose(root, set(named(root, "b"))).runs] == ["Onethree"]


def test_each_character_has_the_slot_that_it_comes_from() -> None:
    (run,) = runs("<p>a <b>b</b> c</p>")
    (bold,) = named(run.element, "b")
    own, inside, after = Slot(run.element, tail=False), Slot(bold, tail=False), Slot(bold, tail=True)
    assert run.origins() == [(own, 0), (own, 1), (inside, 0), (after, 0), (after, 1)]


def test_a_run_becomes_a_block_with_its_own_language_and_position() -> None:
    (run,) = runs("<p lang=fr>Oui.</p>")
    assert run.block(None, "en") == Block("Oui.", "paragraph", "fr")
    assert run.block("c.xhtml", "fr-ca") == Block("Oui.", "paragraph", None, Place("c.xhtml", run.path))


def test_the_words_of_epub_type_and_role_mark_what_is_left_out() -> None:
    page = (
        b'<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><body>'
        b'<p epub:type="Footnote x" role="doc-tip">a</p><nav>b</nav><p role="doc-endnotes">c</p><i>d</i></body></html>'
    )
    root = parse_document(page).root
    first, third = named(root, "p")
    assert kinds(first) == {"footnote", "x", "doc-tip"}
    assert [is_left_out(one) for one in (first, third, *named(root, "nav", "i"))] == [True, True, True, False]
    assert [is_block(one) for one in (first, *named(root, "nav", "i"))] == [True, True, False]
    assert visible(root) == "abcd"


@pytest.mark.parametrize("text", ["1", "[12]", "(iv)", "*", "†", "a", "²", "note 3", "1."])
def test_footnote_marks_are_recognised(text: str) -> None:
    assert MARK.fullmatch(text)


@pytest.mark.parametrize("text", ["", "12345", "see", "1st", "a b", "the note"])
def test_other_link_texts_are_not_footnote_marks(text: str) -> None:
    assert not MARK.fullmatch(text)
