from __future__ import annotations

import pytest

from voxspool.books.languages import same_language, tag


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("en", "en"),
        (" pt_BR ", "pt-br"),
        ("eng", "en"),
        ("ger-CH", "de-ch"),
        ("yue", "yue"),
        ("und", None),
        ("mul-latn", None),
        ("English", None),
        ("", None),
        (None, None),
    ],
)
def test_a_declared_language_becomes_a_tag_of_voices(stated: str | None, expected: str | None) -> None:
    assert tag(stated) == expected


@pytest.mark.parametrize(
    ("text", "book", "same"),
    [("en", "en-gb", True), ("en-us", "en", True), (None, "de", True), (None, None, True), ("en", "de", False)],
)
def test_languages_are_the_same_if_their_base_languages_are(text: str | None, book: str | None, *, same: bool) -> None:
    assert same_language(text, book) is same


def test_a_stated_language_differs_from_an_unknown_one() -> None:
    assert not same_language("en", None)
