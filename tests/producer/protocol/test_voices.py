"""The names of voices, the mixes of voices, and the stored descriptions of cloned voices."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voxspool.errors import InvalidJobError, ProtocolError, UnknownLanguageError, VoiceError, VoxspoolError
from voxspool.protocol.voices import (
    LANGUAGES,
    MAX_PARTS,
    ClonedVoice,
    StoredClip,
    check_languages,
    check_name,
    decode_all,
    parse,
)

ALICE = ClonedVoice("alice", ("de", "en"), "2026-01-31T08:09:44Z", (StoredClip("0f" * 32, 9.5, 24_000, 12.0),))


# Names and mixes


@pytest.mark.parametrize(
    ("written", "canonical", "parts"),
    [
        ("alice", "alice", {"alice": 1.0}),
        ("  Claribel Dervla ", "Claribel Dervla", {"Claribel Dervla": 1.0}),
        ("alice(7)", "alice", {"alice": 1.0}),
        ("a(2)+b(1)", "a(2)+b(1)", {"a": 2 / 3, "b": 1 / 3}),
        ("b + a ( 2 )", "a(2)+b(1)", {"a": 2 / 3, "b": 1 / 3}),
        ("a(0.5)+b(0.25)+c(0.25)", "a(2)+b(1)+c(1)", {"a": 0.5, "b": 0.25, "c": 0.25}),
        ("a+b+a", "a(2)+b(1)", {"a": 2 / 3, "b": 1 / 3}),
        ("a+a", "a", {"a": 1.0}),
        ("en_US-x#3+Ana Florence", "Ana Florence(1)+en_US-x#3(1)", {"Ana Florence": 0.5, "en_US-x#3": 0.5}),
        ("Alma Mari\u0301a", "Alma Mar\u00eda", {"Alma Mar\u00eda": 1.0}),
    ],
)
def test_a_name_or_a_mix_is_parsed(written: str, canonical: str, parts: dict[str, float]) -> None:
    found = parse(written)
    assert (found.canonical, dict(found.parts)) == (canonical, pytest.approx(parts))
    assert found.mixed == (len(parts) > 1)


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "+", "a+", "+a", "a(", "a)", "a()", "(2)", "a(0)", "a(0.0)+b", "a(-1)", "a(1e3)", "a(nan)", "a(2)(3)",
        "a(2)b", "a((2))", "a(.5)", "a(²)", "a(٣)", "a(1234567890)", "+".join("abcdefghi"), "a(999999999)+b(0.1)",
    ],
)  # fmt: skip
def test_the_error_for_a_malformed_mix_shows_the_right_form(written: str) -> None:
    with pytest.raises(InvalidJobError, match=r"write|mix at most"):
        parse(written)


@given(st.text() | st.text("ab+()12. ", max_size=24))
@example("a(")
@example("\ud800+b")
def test_any_text_is_parsed_as_a_voice_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidJobError:
        return
    assert found.parts
    assert math.isclose(sum(weight for _, weight in found.parts), 1)


NAMES = st.text(min_size=1).filter(lambda name: name.strip() and not set("+()") & set(name))
WEIGHTS = st.decimals(min_value="0.001", max_value=1000, places=3)


@given(st.lists(st.tuples(NAMES, WEIGHTS), min_size=1, max_size=MAX_PARTS), st.randoms())
def test_a_mix_has_the_same_canonical_name_in_every_spelling(parts: list[tuple[str, object]], random: object) -> None:
    written = [f"{name}({weight})" for name, weight in parts]
    found = parse("+".join(written))
    assert parse(found.canonical) == found
    random.shuffle(written)  # type: ignore[attr-defined] - hypothesis's random.Random
    assert parse("+".join(written)) == found


@pytest.mark.parametrize("name", ["a", "alice-2", "A_b", "x" * 64])
def test_a_valid_name_of_a_cloned_voice_is_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a+b", "é", "a/b", "a\n", "../a"])
def test_an_invalid_name_of_a_cloned_voice_is_refused(name: str) -> None:
    with pytest.raises(VoiceError, match="use 1 to 64 letters"):
        check_name(name)


def test_languages_are_converted_to_the_tags_of_xtts() -> None:
    assert check_languages(["DE", "pt_BR", "zh", "en-us", "de"]) == ("de", "pt", "zh-cn", "en")
    assert check_languages(LANGUAGES) == LANGUAGES
    assert len(LANGUAGES) == 17
    with pytest.raises(UnknownLanguageError, match="'dk'"):
        check_languages(["en", "dk"])


# Descriptions


def test_a_description_is_unchanged_by_encoding_and_decoding() -> None:
    assert ClonedVoice.decode("alice", ALICE.encode().encode()) == ALICE


def test_unknown_fields_of_a_description_are_ignored() -> None:
    fields = json.loads(ALICE.encode())
    fields["mood"] = fields["clips"][0]["mood"] = "calm"
    assert ClonedVoice.decode("alice", json.dumps(fields).encode()) == ALICE


def test_a_clip_without_the_duration_of_its_recording_counts_as_the_whole_recording() -> None:
    fields = json.loads(ALICE.encode())
    del fields["clips"][0]["recording_s"]
    assert ClonedVoice.decode("alice", json.dumps(fields).encode()).clips[0].recording_s == 9.5


CHANGES: list[dict[str, object]] = [
    {"version": 2},
    {"version": "1"},
    {"languages": "de"},
    {"languages": ["dk"]},
    {"languages": [["de"]]},
    {"added": 7},
    {"clips": []},
    {"clips": {}},
    {"clips": [{}]},
    {"clips": [{"sha256": "0", "duration_s": 1, "sample_rate": 1}]},
    {"clips": [{"sha256": "0f" * 32, "duration_s": float("inf"), "sample_rate": 1}]},
    {"clips": [{"sha256": "0f" * 32, "duration_s": 1, "sample_rate": 0}]},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_malformed_description_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError, match="'alice'"):
        ClonedVoice.decode("alice", json.dumps(json.loads(ALICE.encode()) | change).encode())


@given(
    st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_data_that_is_not_a_description_is_refused(data: bytes) -> None:
    with pytest.raises(VoxspoolError):
        ClonedVoice.decode("alice", data)


def test_descriptions_that_cannot_be_read_are_skipped() -> None:
    good = ALICE.encode().encode()
    stored = {b"zoe": good, b"broken": b"{", b"\xff": good, b"alice": good, b"a b": good}
    assert list(decode_all(stored)) == ["alice", "zoe"]
