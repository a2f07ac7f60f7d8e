"""Chapters are encoded and decoded without loss, and any other data is refused with one clear line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.errors import InvalidJobError
from voxspool.protocol.jobs import MAX_TEXT_CHARS
from voxspool.protocol.narration import BETWEEN, MAX_PASSAGES, ChapterSpec, Passage, chapter

STORE = "0123456789abcdef" * 2
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


def encoded(**changed: object) -> dict[str, Any]:
    """Return the decoded JSON of a chapter, with some fields changed."""
    return sent(chapter("a", [Passage("One.", 0.5), Passage("Two.", voice="joe")], STORE, engine="tone")) | changed


def sent(spec: ChapterSpec) -> dict[str, Any]:
    """Return the decoded JSON of a chapter."""
    fields: dict[str, Any] = json.loads(json.dumps(spec.encode()))
    return fields


def read(data: object) -> ChapterSpec | None:
    """Return the decoded chapter; None if it is refused. Assert that the error is one short printable line."""
    try:
        return ChapterSpec.decode(data)
    except InvalidJobError as error:
        said = str(error)
    assert said.isprintable()
    assert len(said) < 400
    return None


@given(st.lists(st.builds(Passage, st.text(max_size=50), st.floats(0, 60)), max_size=5), st.integers(0, 99))
def test_a_chapter_is_unchanged_by_encoding_and_decoding(passages: list[Passage], seed: int) -> None:
    spec = chapter("a", passages, STORE, engine="tone", seed=seed)
    assert ChapterSpec.decode(sent(spec)) == spec
    assert spec.speech.text == BETWEEN.join(passage.text for passage in passages)
    assert spec.speech.priority == "batch"


@given(JSON)
def test_json_that_is_not_a_chapter_is_refused(data: object) -> None:
    with pytest.raises(InvalidJobError):
        ChapterSpec.decode(data)


@given(st.sampled_from(sorted(encoded())), JSON)
def test_a_chapter_with_any_value_in_a_field_is_decoded_or_refused(name: str, value: object) -> None:
    spec = read(encoded(**{name: value}))
    assert spec is None or ChapterSpec.decode(sent(spec)) == spec


@given(st.lists(JSON, max_size=5))
def test_a_passage_with_any_fields_is_decoded_or_refused(fields: list[object]) -> None:
    spec = read(encoded(passages=[fields]))
    assert spec is None or isinstance(fields[0], str)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"passages": None}, "passages"),
        ({"passages": [["One.", 0.0, None]]}, "a passage is a list of text"),
        ({"passages": [["One.", -1, None, None]]}, "a pause is -1"),
        ({"passages": [["One.", float("nan"), None, None]]}, "a pause is nan"),
        ({"passages": [["One.", 61, None, None]]}, "0 to 60"),
        ({"passages": [[7, 0, None, None]]}, "text is int"),
        ({"passages": [["x" * MAX_TEXT_CHARS, 0, None, None], ["x", 0, None, None]]}, "100,003"),
        ({"text": "One."}, "no text beside them"),
        ({"store": None}, "store"),
        ({"store": "../../etc"}, "32 hexadecimal"),
        ({"engine": "auto"}, "needs a named engine"),
        ({"version": 2}, "version 2"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_names_what_is_wrong(changed: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidJobError, match=said):
        ChapterSpec.decode(encoded(**changed))


def test_more_passages_than_a_text_can_have_are_refused_before_any_is_looked_at() -> None:
    spec = ChapterSpec.decode(chapter("a", [Passage("")] * MAX_PASSAGES, STORE, engine="tone").encode())
    assert len(spec.passages) == MAX_PASSAGES
    with pytest.raises(InvalidJobError, match=f"{MAX_PASSAGES + 1:,} passages"):
        ChapterSpec.decode(spec.encode() | {"passages": [None] * (MAX_PASSAGES + 1)})
