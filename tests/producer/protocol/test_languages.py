from __future__ import annotations

import pytest

from voxspool.protocol.languages import meant


@pytest.mark.parametrize(
    ("wanted", "languages", "expected"),
    [
        ("en-gb", ["en-us", "en-gb"], "en-gb"),
        ("EN_GB", ["en-gb"], "en-gb"),
        ("en", ["de", "en-us", "en-gb"], "en-us"),
        ("en-gb", ["en"], "en"),
        ("en-gb", ["en-us"], None),
        ("fr", ["de", "en"], None),
        ("fr", [], "fr"),
    ],
)
def test_the_nearest_language_of_a_voice_is_chosen(wanted: str, languages: list[str], expected: str | None) -> None:
    assert meant(wanted, languages) == expected
