from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from voxspool.errors import ProtocolError
from voxspool.protocol.stream import (
    START,
    STATES,
    TERMINAL,
    Audio,
    Begin,
    Cancelled,
    End,
    Entry,
    EntryId,
    Failed,
    Mark,
    decode,
    encode_data,
)

Pos = st.integers(0, 2**40)
Text = st.text(max_size=30)
Seconds = st.floats(0, 1e6)
Maybe = st.none() | Seconds
Entries = st.one_of(
    st.builds(Begin, Pos, st.integers(1, 192_000), Text, Text, Text, Text, Pos),
    st.builds(Audio, Pos, st.binary(max_size=20).map(lambda raw: raw[: len(raw) // 2 * 2])),
    st.builds(Mark, Pos, Pos, Pos, Pos, Pos, Pos, Pos, Text),
    st.builds(End, Pos, Seconds, Pos, Maybe, Maybe, Maybe, Maybe, Pos, Text, Maybe, Pos, Pos),
    st.builds(Failed, Pos, Text, Text, st.booleans()),
    st.builds(Cancelled, Pos, Text),
)
Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KINDS = [b"begin", b"audio", b"mark", b"end", b"failed", b"cancelled"]

BEGIN = {
    "sample_rate": 24000,
    "engine": "tone",
    "model": "sine-1",
    "voice": "sine",
    "language": "en",
    "seed": 0,
    "protocol": 1,
    "channels": 1,
    "format": "s16le",
}
MARK = {"end_pos": 8640, "segment": 0, "start": 0, "end": 6, "seed": 1}

WIRE: list[tuple[Entry, bytes]] = [  # any change here but an added field needs a new protocol version
    (
        Begin(0, 24_000, "tone", "sine-1", "sine", "en", 7),
        (
            b'{"sample_rate":24000,"engine":"tone","model":"sine-1","voice":"sine","language":"en","seed":7,'
            b'"protocol":1,"channels":1,"format":"s16le"}'
        ),
    ),
    (
        Begin(0, 24_000, "tone", "sine-1", "sine", "en", 7, meta={"page": 3}),
        (
            b'{"sample_rate":24000,"engine":"tone","model":"sine-1","voice":"sine","language":"en","seed":7,'
            b'"meta":{"page":3},"protocol":1,"channels":1,"format":"s16le"}'
        ),
    ),
    (Audio(1200, b"\x01\x00\xff\x7f"), b"\x01\x00\xff\x7f"),
    (
        Mark(1200, 8640, 3, 10, 16, 4_294_967_295, 2, "rate"),
        b'{"end_pos":8640,"segment":3,"start":10,"end":16,"seed":4294967295,"tries":2,"fault":"rate"}',
    ),
    (
        End(8640, 0.36, 1, 0.25, 0.04, 0.0144, 416.7, 8, "memory", 2.5, 1, 1),
        (
            b'{"duration_s":0.36,"segments":1,"first_chunk_s":0.25,"real_time_factor":0.04,"elapsed_s":0.0144,'
            b'"characters_per_s":416.7,"chunks":8,"voice_source":"memory","rows":2.5,"spoken_again":1,"faults":1}'
        ),
    ),
    (
        End(0, 0.0, 0, None, None),
        (
            b'{"duration_s":0.0,"segments":0,"first_chunk_s":null,"real_time_factor":null,"elapsed_s":null,'
            b'"characters_per_s":null,"chunks":0,"voice_source":"","rows":null,"spoken_again":0,"faults":0}'
        ),
    ),
    (
        Failed(8640, "timeout", "zu langsam für Zoë", retryable=True),
        '{"code":"timeout","sentence":"zu langsam für Zoë","retryable":true}'.encode(),
    ),
    (Cancelled(0, "alice"), b'{"by":"alice"}'),
]
OBJECTS = [(entry, data) for entry, data in WIRE if not isinstance(entry, Audio)]
EARLIER: list[tuple[Entry, bytes]] = [  # entries of workers from before fields were added
    (Mark(1200, 8640, 3, 10, 16, 7), b'{"end_pos":8640,"segment":3,"start":10,"end":16,"seed":7}'),
    (
        End(8640, 0.36, 1, 0.25, 0.004),
        b'{"duration_s":0.36,"segments":1,"first_chunk_s":0.25,"real_time_factor":0.004}',
    ),
]


def wire(entry: Entry) -> dict[bytes, bytes]:
    """Return an entry's fields as Redis returns them."""
    return {b"type": entry.type.encode(), b"pos": str(entry.pos).encode(), b"data": encode_data(entry)}


def fields(kind: str, pos: str, data: object) -> dict[bytes, bytes]:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return {b"type": kind.encode(), b"pos": pos.encode(), b"data": raw}


# Entries


@pytest.mark.parametrize(("entry", "data"), WIRE, ids=[entry.type for entry, _ in WIRE])
def test_the_bytes_of_an_entry_do_not_change(entry: Entry, data: bytes) -> None:
    assert encode_data(entry) == data
    assert decode({b"type": entry.type.encode(), b"pos": str(entry.pos).encode(), b"data": data}) == entry


def test_the_bytes_of_every_type_are_tested() -> None:
    assert {entry.type.encode() for entry, _ in WIRE} == set(KINDS)


@settings(max_examples=150)
@given(Entries)
def test_every_entry_is_unchanged_by_encoding_and_decoding(entry: Entry) -> None:
    assert decode(wire(entry)) == entry


@pytest.mark.parametrize(("entry", "data"), OBJECTS, ids=[entry.type for entry, _ in OBJECTS])
def test_a_field_of_a_later_minor_version_is_ignored(entry: Entry, data: bytes) -> None:
    assert decode(fields(entry.type, str(entry.pos), json.loads(data) | {"novelty": 1})) == entry


@pytest.mark.parametrize(("entry", "data"), OBJECTS, ids=[entry.type for entry, _ in OBJECTS])
def test_the_error_for_a_missing_field_names_it(entry: Entry, data: bytes) -> None:
    values: dict[str, object] = json.loads(data)
    later = {field.name for field in dataclasses.fields(entry) if field.default is not dataclasses.MISSING}
    for name in set(values) - later:
        less = {other: value for other, value in values.items() if other != name}
        with pytest.raises(ProtocolError, match=name):
            decode(fields(entry.type, "0", less))


@pytest.mark.parametrize(("entry", "data"), EARLIER, ids=[entry.type for entry, _ in EARLIER])
def test_an_entry_of_an_older_worker_is_decoded(entry: Entry, data: bytes) -> None:
    assert decode({b"type": entry.type.encode(), b"pos": str(entry.pos).encode(), b"data": data}) == entry


@pytest.mark.parametrize(("entry", "data"), OBJECTS, ids=[entry.type for entry, _ in OBJECTS])
def test_an_optional_field_of_a_wrong_type_is_refused(entry: Entry, data: bytes) -> None:
    for field in dataclasses.fields(entry):
        if field.default is not dataclasses.MISSING:
            with pytest.raises(ProtocolError, match=field.name):
                decode(fields(entry.type, "0", json.loads(data) | {field.name: []}))


@pytest.mark.parametrize("name", [b"type", b"pos", b"data"])
@pytest.mark.parametrize("entry", [entry for entry, _ in WIRE], ids=lambda entry: entry.type)
def test_an_entry_without_one_of_its_fields_is_refused(entry: Entry, name: bytes) -> None:
    raw = wire(entry)
    del raw[name]
    with pytest.raises(ProtocolError, match="not valid in protocol version 1"):
        decode(raw)


@pytest.mark.parametrize(
    ("name", "value"),
    [("protocol", 2), ("protocol", 0), ("protocol", "1"), ("channels", 2), ("format", "f32le"), ("format", None)],
)
def test_a_begin_with_an_unsupported_format_is_refused_and_the_error_shows_it(name: str, value: object) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(fields("begin", "0", BEGIN | {name: value}))
    assert repr(value) in str(caught.value)
    assert "(1, 1, 's16le')" in str(caught.value)


@pytest.mark.parametrize("kind", ["Begin", "", "pause", "audio ", "\xff"])
def test_an_unknown_type_is_refused(kind: str) -> None:
    with pytest.raises(ProtocolError):
        decode({b"type": kind.encode("latin-1"), b"pos": b"0", b"data": b"{}"})


@pytest.mark.parametrize("data", [b"", b"[]", b"[1]", b"null", b"1", b'"x"', b"{", b"\xff\xfe", b"{}", b"NaN"])
@pytest.mark.parametrize("kind", ["begin", "mark", "end", "failed", "cancelled"])
def test_data_that_is_not_an_object_of_the_type_is_refused(kind: str, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(fields(kind, "0", data))


@pytest.mark.parametrize("pos", ["", "x", "1.0", "0x10", "\u0661", "9" * 5000])
@pytest.mark.parametrize("entry", [entry for entry, _ in WIRE], ids=lambda entry: entry.type)
def test_a_position_that_is_not_a_number_is_refused(entry: Entry, pos: str) -> None:
    with pytest.raises(ProtocolError):
        decode(wire(entry) | {b"pos": pos.encode()})


@pytest.mark.parametrize(("pos", "size"), [(-1, 2), (-(2**63), 0), (0, 1), (7, 4801)])
def test_audio_with_part_of_a_sample_or_a_negative_position_is_refused(pos: int, size: int) -> None:
    with pytest.raises(ProtocolError, match="whole"):
        decode(fields("audio", str(pos), bytes(size)))


def test_a_very_large_position_is_accepted() -> None:
    assert decode(fields("audio", str(2**62), b"")) == Audio(2**62, b"")


def test_an_error_does_not_contain_the_whole_audio() -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(fields("audio", "0", b"\x01" * 48_001))
    assert len(str(caught.value)) < 500


@settings(max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from([b"type", b"pos", b"data"]) | st.binary(max_size=5),
        st.sampled_from(KINDS) | st.integers().map(lambda n: str(n).encode()) | st.binary(max_size=20),
    )
)
@example({})
def test_any_fields_are_decoded_or_refused(raw: dict[bytes, bytes]) -> None:
    try:
        assert decode(raw).type.encode() in KINDS
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS),
    st.integers(),
    Json | st.dictionaries(st.sampled_from([*BEGIN, *MARK]), Json),
    st.sampled_from([{}, BEGIN, MARK, {"by": "a"}, {"code": "a", "sentence": "b", "retryable": True}]),
)
def test_any_json_is_decoded_or_refused(kind: bytes, pos: int, odd: object, good: dict[str, object]) -> None:
    value = good | odd if isinstance(odd, dict) else odd
    try:
        assert decode({b"type": kind, b"pos": str(pos).encode(), b"data": json.dumps(value).encode()})
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused


@given(st.sampled_from(KINDS), st.binary(max_size=60))
def test_any_data_is_decoded_or_refused(kind: bytes, data: bytes) -> None:
    try:
        assert decode({b"type": kind, b"pos": b"0", b"data": data})
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_json_that_is_nested_too_deeply_is_refused(opening: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(fields("mark", "0", opening * 100_000))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("mark", MARK | {"end_pos": "8640"}),
        ("mark", MARK | {"end_pos": None}),
        ("mark", MARK | {"end_pos": -1}),
        ("mark", MARK | {"end": 1.5}),
        ("begin", BEGIN | {"sample_rate": "24000"}),
        ("begin", BEGIN | {"sample_rate": 0}),
        ("end", {"duration_s": "x", "segments": 1, "first_chunk_s": None, "real_time_factor": None}),
        ("failed", {"code": 7, "sentence": "b", "retryable": True}),
        ("failed", {"code": "a", "sentence": None, "retryable": True}),
        ("cancelled", {"by": ["alice"]}),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(kind: str, values: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(fields(kind, "0", values))


@pytest.mark.parametrize("kind", ["begin", "mark", "end", "failed", "cancelled"])
def test_a_negative_position_is_refused_in_every_type(kind: str) -> None:
    (entry, *_) = (entry for entry, _ in WIRE if entry.type == kind)
    with pytest.raises(ProtocolError):
        decode(wire(entry) | {b"pos": b"-1"})


@pytest.mark.parametrize("entry", [Failed(0, "internal", "no file \udcff", retryable=False), Cancelled(0, "\ud800")])
def test_a_terminal_entry_with_text_that_utf_8_cannot_encode_can_be_written(entry: Failed | Cancelled) -> None:
    assert decode(wire(entry)).type == entry.type


def test_each_terminal_type_sets_a_state() -> None:
    assert {cls.type for cls in TERMINAL} == set(STATES)
    assert sorted(STATES.values()) == ["cancelled", "ended", "failed"]


# Ids


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_an_id_is_unchanged_by_formatting_and_parsing(attempt: int, seq: int) -> None:
    assert EntryId.parse(str(EntryId(attempt, seq))) == (attempt, seq)


def test_ids_are_ordered_by_attempt_then_by_number() -> None:
    texts = ["0-0", "1-1", "1-2", "1-9", "1-10", "2-1", "10-1"]
    ids = [EntryId.parse(text) for text in texts]
    assert sorted(["2-1", "1-10", "0-0", "10-1", "1-9", "1-1", "1-2"], key=EntryId.parse) == texts
    assert ids[0] == START
    assert [str(one) for one in ids] == texts


@pytest.mark.parametrize(
    "text",
    ["", "-", "1", "1-", "-1", "1-1-1", "1--1", "a-1", "1-a", " 1-1", "1-1\n", "1-+1", "1_0-1", "\u0661-1", "1-²", "$"],
)
def test_the_error_for_a_malformed_id_shows_an_example(text: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        EntryId.parse(text)
    assert str(caught.value) == f"{text!r} is not an entry's id; an id looks like 1-17"


@pytest.mark.parametrize("text", ["1-" + "9" * 5000, "9" * 5000 + "-1", f"1-{2**64}", f"{2**64}-1"])
def test_an_id_with_a_number_that_redis_cannot_store_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        EntryId.parse(text)


@given(st.text(alphabet="0123456789-+_ \n\u0661²ax", max_size=12) | st.text())
def test_any_text_is_parsed_as_an_id_or_refused(text: str) -> None:
    try:
        assert EntryId.parse(text) >= START
    except ProtocolError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most are refused
