"""`spoken_form` replaces punctuation and does not change words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool_worker.engines.xtts.punctuation import spoken_form
from voxspool_worker.engines.xtts.tokenizer import LANGUAGES
from voxspool_worker.text import normalise

MARKS = [*"\"'“”„«»‘’…—–-−.,;:!?()[]{}。！？、؟،।*€$£ \t", "...", ". . .", '?"', " - ", "--"]
WORDS = [
    "Yes",
    "no",
    "a",
    "I",
    "дом",
    "你好",
    "かな",
    "한국",
    "नमस्ते",
    "مرحبا",
    "1",
    "12",
    "٣",
    "½",
    "²",
    "Ⅷ",
    "ﬁ",
    "Ａ",
    "İ",
    "1º",
]
any_character = st.characters(exclude_categories=())
texts = st.one_of(
    st.text(any_character, max_size=40),
    st.lists(st.sampled_from(MARKS + WORDS), max_size=20).map("".join),
).map(normalise)


def words(text: str) -> str:
    """Return the letters and digits of a text in a canonical form."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    digits = (str(unicodedata.decimal(c)) if c.isdecimal() else c for c in plain)
    return "".join(c for c in digits if unicodedata.category(c)[0] in "LN")


@settings(max_examples=400, derandomize=True)
@given(texts, st.sampled_from(LANGUAGES))
def test_letters_and_digits_stay_the_same_in_the_same_order(text: str, language: str) -> None:
    assert words(spoken_form(text, language)) == words(text)


@settings(max_examples=400, derandomize=True)
@given(texts, st.sampled_from(LANGUAGES))
def test_the_result_does_not_begin_or_end_with_a_pause_mark_or_space(text: str, language: str) -> None:
    form = spoken_form(text, language)
    assert form == form.strip()
    assert not form.startswith((",", ";", ":", "!", "?", ")"))
    assert not form.endswith((",", ";", ":", "-", "(", '"', "”", "»"))


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("“Really?”", "Really?"),
        ('He asked, "Why?"', "He asked, Why?"),
        ("“Go!” he cried.", "Go! he cried."),
        ("« Vraiment ? »", "Vraiment ?"),
        ("„So nicht!“", "So nicht!"),
        ("‘Yes,’ he said, and we didn’t.", "Yes, he said, and we didn't."),
        ("a “b”c", "a b c"),
    ],
)
def test_quotation_marks_are_removed(text: str, form: str) -> None:
    assert spoken_form(text, "en") == form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("What?!!", "What?"),
        ("Stop!!!", "Stop!"),
        ("Wait... what is it?", "Wait, what is it?"),
        ("Wait… What is it?", "Wait. What is it?"),
        ("Hmm . . . perhaps it is.", "Hmm, perhaps it is."),
        ("It was so…", "It was so."),
        ("…and so it was", "and so it was"),
        ("One — two—three.", "One, two, three."),
        ("— Bonjour, dit-il. — Oui.", "Bonjour, dit-il. Oui."),
        ("From 1939–1945, Paris–Roubaix", "From 1939-1945, Paris-Roubaix"),
        ("It is 5 - 3, or 5 – 3.", "It is 5 - 3, or 5 - 3."),
        ("See [en] and {x}.", "See (en) and (x)."),
    ],
)
def test_runs_of_marks_dashes_and_brackets_are_replaced(text: str, form: str) -> None:
    assert spoken_form(text, "en") == form


@pytest.mark.parametrize(
    ("text", "language", "form"),
    [
        ("Chapter One", "en", "Chapter One."),
        ("Well,", "en", "Well."),
        ("No", "de", "No."),
        ("你好", "zh-cn", "你好。"),
        ("नमस्ते", "hi", "नमस्ते।"),
        ("a clause that goes on,", "en", "a clause that goes on"),
        ("Yes?", "en", "Yes?"),
    ],
)
def test_short_texts_get_a_full_stop_and_final_commas_are_removed(text: str, language: str, form: str) -> None:
    assert spoken_form(text, language) == form


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Es kostet 3,50 € im Laden", "Es kostet 3,50€ im Laden"),
        ("It costs € 5 in shops", "It costs €5 in shops"),
        ("from 3 € 50 cents to 5", "from 3 € 50 cents to 5"),
        ("２½ ﬁne １٢ Ⅷ", "2 1/2 fine 12 VIII"),
        ("10² m² 1º İ", "10 2 m2 1º i"),
    ],
)
def test_prices_fractions_and_compatibility_characters_are_written_plainly(text: str, form: str) -> None:
    assert spoken_form(text, "xx") == form
