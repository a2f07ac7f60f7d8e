"""A stream's rules, without Redis: what may follow what, where a job is, each sample once. tests/system asks Redis."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool.errors import (
    DeadlineError,
    ProtocolError,
    SpeechCancelledError,
    SpeechFailedError,
    StreamGapError,
    UnknownJobError,
)
from voxspool.protocol.stream import (
    START,
    Audio,
    Begin,
    Cancelled,
    End,
    Entry,
    EntryId,
    Failed,
    Mark,
    encode_data,
    position_after,
)
from voxspool.reading.reader import (
    Cursor,
    JobState,
    Received,
    ended_without_entry,
    judge,
    raise_for,
    silent_too_long,
)
from voxspool.speech import Chunk, Listener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RATE_HZ = 24_000
Raw = tuple[bytes, dict[bytes, bytes]]


def begin(pos: int = 0) -> Begin:
    return Begin(pos, RATE_HZ, "tone", "tone", "a", "en", 0)


def mark(pos: int, end_pos: int) -> Mark:
    return Mark(pos, end_pos, 0, 0, 1, 0)


def end(pos: int) -> End:
    return End(pos, pos / RATE_HZ, 1, None, None)


def pcm(start: int, stop: int) -> bytes:
    """Samples that tell their position."""
    return b"".join((n % 65_536).to_bytes(2, "little") for n in range(start, stop))


def audio(start: int, stop: int) -> Audio:
    return Audio(start, pcm(start, stop))


FAILED = Failed(0, "timeout", "too slow", retryable=True)
CANCELLED = Cancelled(0, "alice")


def raw(entry_id: str, entry: Entry) -> Raw:
    """Return an entry as Redis gives it."""
    fields = {b"type": entry.type.encode(), b"pos": str(entry.pos).encode(), b"data": encode_data(entry)}
    return entry_id.encode(), fields


def resp2(entries: list[Raw]) -> Any:  # noqa: ANN401 - redis-py's reply
    return [[b"voxspool:{a}:audio", entries]] if entries else []


def resp3(entries: list[Raw]) -> Any:  # noqa: ANN401 - redis-py's reply
    return {b"voxspool:{a}:audio": [entries]} if entries else {}


def reply(*ids: str) -> Any:  # noqa: ANN401 - redis-py's reply
    """Return a reply of plain entries, a begin wherever an attempt starts."""
    return resp2([raw(one, begin() if one.endswith("-1") else audio(0, 0)) for one in ids])


def taken(cursor: Cursor, *ids: str) -> list[str]:
    return [str(received.id) for received in cursor.take(reply(*ids))]


# Cursor


@pytest.mark.parametrize(
    "ids",
    [
        ["1-1"],
        ["1-1", "1-2", "1-3"],
        ["1-1", "1-2", "2-1", "2-2"],
        ["1-1", "3-1"],  # attempt 2 was claimed and died before its begin
        ["2-1"],
        [],
    ],
)
def test_consecutive_entries_are_accepted(ids: list[str]) -> None:
    cursor = Cursor()
    assert taken(cursor, *ids) == ids
    assert str(cursor.after) == (ids[-1] if ids else "0-0")


@pytest.mark.parametrize(
    ("ids", "before", "offender"),
    [
        (["1-2"], "0-0", "1-2"),  # the start of the stream is missing
        (["0-2"], "0-0", "0-2"),
        (["1-1", "1-3"], "1-1", "1-3"),
        (["1-1", "1-2", "2-2"], "1-2", "2-2"),  # a new attempt's begin is missing
        (["1-1", "1-2", "1-2"], "1-2", "1-2"),
        (["1-1", "1-2", "1-1"], "1-2", "1-1"),
        (["2-1", "2-2", "1-3"], "2-2", "1-3"),
        (["2-1", "1-1"], "2-1", "1-1"),
        (["1-1", "1-2", "1-3", "1-4", "1-5", "1-6", "1-7", "1-8", "1-9", "1-11"], "1-9", "1-11"),
    ],
)
@pytest.mark.parametrize("shape", [resp2, resp3])
def test_a_missing_entry_is_an_error_that_names_both_ids(
    ids: list[str], before: str, offender: str, shape: Callable[[list[Raw]], Any]
) -> None:
    entries = [raw(one, begin() if one.endswith("-1") else audio(0, 0)) for one in ids]
    cursor = Cursor()
    with pytest.raises(StreamGapError, match=f"^entry {offender} follows {before}: .*enqueue the text again"):
        cursor.take(shape(entries))
    assert str(cursor.after) == before


def test_a_missing_entry_between_two_replies_is_an_error() -> None:
    cursor = Cursor()
    taken(cursor, "1-1", "1-2")
    with pytest.raises(StreamGapError):
        taken(cursor, "1-4")


@pytest.mark.parametrize(
    ("after", "ids"), [("1-7", ["1-8"]), ("1-7", ["2-1"]), ("1-7", ["1-8", "1-9", "2-1"]), ("3-1", ["3-2"])]
)
def test_a_returning_reader_continues_after_its_last_id(after: str, ids: list[str]) -> None:
    assert taken(Cursor(EntryId.parse(after)), *ids) == ids


@pytest.mark.parametrize("following", ["1-9", "1-7", "2-2"])
def test_a_returning_reader_finds_a_missing_entry_at_once(following: str) -> None:
    with pytest.raises(StreamGapError, match="follows 1-7"):
        taken(Cursor(EntryId.parse("1-7")), following)


@pytest.mark.parametrize("shape", [resp2, resp3])
def test_both_shapes_of_a_reply_give_the_same_entries(shape: Callable[[list[Raw]], Any]) -> None:
    entries: list[Entry] = [begin(), audio(0, 5), mark(0, 5), end(5)]
    received = Cursor().take(shape([raw(f"1-{seq}", entry) for seq, entry in enumerate(entries, 1)]))
    assert received == [Received(EntryId(1, seq), entry) for seq, entry in enumerate(entries, 1)]


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_a_reply_without_entries_changes_nothing(nothing: object) -> None:
    cursor = Cursor(EntryId(1, 3))
    assert cursor.take(nothing) == []
    assert (cursor.after, cursor.closed) == (EntryId(1, 3), False)


@pytest.mark.parametrize("last", [end(0), FAILED, CANCELLED])
def test_a_terminal_entry_closes_the_cursor_and_no_other_does(last: Entry) -> None:
    cursor = Cursor()
    cursor.take(resp2([raw("1-1", begin()), raw("1-2", audio(0, 5)), raw("1-3", mark(0, 5))]))
    assert not cursor.closed
    cursor.take(resp2([raw("1-4", last)]))
    assert cursor.closed


def test_a_job_that_nobody_ran_is_a_lone_cancelled() -> None:
    cursor = Cursor()
    assert cursor.take(resp2([raw("1-1", CANCELLED)])) == [Received(EntryId(1, 1), CANCELLED)]
    assert cursor.closed


@pytest.mark.parametrize(
    ("entry_id", "fields"),
    [
        (b"1-1", {b"type": b"audio", b"pos": b"0", b"data": b"\0"}),
        (b"1-1", {}),
        (b"1", {b"type": b"audio", b"pos": b"0", b"data": b""}),
        (b"a-1", {b"type": b"audio", b"pos": b"0", b"data": b""}),
    ],
)
def test_an_unreadable_entry_is_not_skipped(entry_id: bytes, fields: dict[bytes, bytes]) -> None:
    cursor = Cursor()
    with pytest.raises(ProtocolError):
        cursor.take(resp2([(entry_id, fields)]))
    assert (cursor.after, cursor.closed) == (START, False)


# Where a job is


NOW_S = 1_000
LEASE = {"lease_until": str(NOW_S * 1000 + 1)}


def judged(
    control: dict[str, str] | None = None, status: str | None = None, origin: str | None = "voxspool-auto-batch"
) -> JobState:
    fields = {name.encode(): value.encode() for name, value in (control or {}).items()}
    return judge("a", [fields, [text.encode() if text else None for text in (status, origin)], (NOW_S, 0)])


CONTROL = {
    "state": "running",
    "attempt": "2",
    "seq": "9",
    "pos": "36000",
    "segments": "4",
    "marked_segments": "3",
    "worker": "w1",
    "engine": "tone",
    "voice": "sine",
    "sample_rate": "24000",
}


def test_the_state_of_a_running_job_has_its_progress() -> None:
    assert judged(CONTROL | LEASE, "started") == JobState(
        id="a",
        state="running",
        queue="voxspool-auto-batch",
        attempt=2,
        worker="w1",
        engine="tone",
        voice="sine",
        spoken_s=1.5,
        segments=4,
        segments_done=3,
    )


def test_unknown_fields_of_a_state_are_empty() -> None:
    assert judged({"state": "running"} | LEASE, "started") == JobState("a", "running", "voxspool-auto-batch")


@pytest.mark.parametrize(
    ("state", "status", "said", "over"),
    [
        (None, "queued", "queued", False),
        (None, "started", "queued", False),  # taken, and its worker has not begun it
        (None, "deferred", "queued", False),
        (None, "scheduled", "queued", False),
        (None, "failed", "failed", True),
        (None, "canceled", "cancelled", True),
        (None, "stopped", "cancelled", True),
        ("running", "started", "running", False),
        ("running", "failed", "failed", True),  # the stream knows better than RQ
        ("running", None, "running", False),
        ("ended", "started", "ended", True),
        ("ended", None, "ended", True),
        ("failed", "finished", "failed", True),
        ("cancelled", "queued", "cancelled", True),
    ],
)
def test_the_state_comes_from_the_stream_and_before_it_from_rq(
    state: str | None, status: str | None, said: str, *, over: bool
) -> None:
    found = judged({"state": state} | LEASE if state else {}, status)
    assert (found.state, found.over) == (said, over)


@pytest.mark.parametrize("lease_until", [{}, {"lease_until": str(NOW_S * 1000)}], ids=["handed back", "dead"])
@pytest.mark.parametrize(("status", "state"), [("queued", "queued"), ("started", "queued"), ("failed", "failed")])
def test_a_job_whose_run_is_gone_waits_for_another(lease_until: dict[str, str], status: str, state: str) -> None:
    found = judged(CONTROL | lease_until, status)
    assert (found.state, found.spoken_s) == (state, 1.5)


def test_a_job_whose_run_is_gone_and_that_rq_has_forgotten_is_unknown() -> None:
    with pytest.raises(UnknownJobError):
        judged(CONTROL, None)


@pytest.mark.parametrize(("control", "status"), [({}, None), ({}, "finished"), ({"cancel": "alice"}, None)])
def test_a_job_that_has_expired_is_unknown(control: dict[str, str], status: str | None) -> None:
    with pytest.raises(UnknownJobError, match=r"no job 'a', or its stream has expired; check the id"):
        judged(control, status)


def test_a_cancel_request_before_the_begin_leaves_the_job_queued() -> None:
    assert judged({"cancel": "alice"}, "queued").state == "queued"


def test_a_job_without_a_record_in_rq_has_no_queue() -> None:
    assert judged({"state": "ended"}, None, None).queue == ""


# How a reading ends


def test_a_failed_entry_raises_the_workers_error() -> None:
    with pytest.raises(SpeechFailedError, match=r"^too slow$") as caught:
        raise_for(FAILED)
    assert (caught.value.code, caught.value.retryable) == ("timeout", True)
    with pytest.raises(SpeechCancelledError, match="by alice"):
        raise_for(CANCELLED)


@pytest.mark.parametrize("entry", [begin(), audio(0, 5), mark(0, 5), end(5)], ids=lambda entry: entry.type)
def test_any_other_entry_raises_nothing(entry: Entry) -> None:
    raise_for(entry)


@pytest.mark.parametrize(
    ("entry", "position"),
    [
        (begin(7), 7),
        (audio(7, 12), 12),
        (audio(7, 7), 7),
        (mark(7, 12), 12),
        (end(12), 12),
        (Failed(12, "a", "b", retryable=False), 12),
        (Cancelled(12, "a"), 12),
    ],
)
def test_each_entry_gives_the_position_of_the_next_sample(entry: Entry, position: int) -> None:
    assert position_after(entry) == position


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("failed", SpeechFailedError, "failed before it was spoken"),
        ("cancelled", SpeechCancelledError, "cancelled before it was spoken"),
        ("ended", UnknownJobError, "has expired; enqueue the text again"),
    ],
)
def test_a_job_that_ended_without_an_entry_raises_the_reason(state: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"job a .*{said}"):
        ended_without_entry(JobState("a", state), Cursor(), there=False)


@pytest.mark.parametrize("state", ["failed", "cancelled", "ended"])
def test_a_reader_with_the_last_id_has_nothing_left_to_read(state: str) -> None:
    ended_without_entry(JobState("a", state), Cursor(EntryId(1, 9)), there=True)


def test_a_reader_of_an_expired_stream_gets_an_error() -> None:
    with pytest.raises(UnknownJobError, match="has expired"):
        ended_without_entry(JobState("a", "ended"), Cursor(EntryId(1, 9)), there=False)


@pytest.mark.parametrize(("silence_s", "timeout_s"), [(0.0, None), (1e9, None), (0.99, 1.0), (0.0, 0.1)])
def test_a_silence_within_the_limit_is_accepted(silence_s: float, timeout_s: float | None) -> None:
    silent_too_long(JobState("a", "queued"), silence_s, timeout_s)


@pytest.mark.parametrize(("silence_s", "timeout_s", "said"), [(1.0, 1.0, "1 s"), (2.5, 1.5, "1.5 s"), (0.0, 0, "0 s")])
def test_a_longer_silence_is_an_error_with_the_jobs_state(silence_s: float, timeout_s: float, said: str) -> None:
    with pytest.raises(DeadlineError, match=f"from job a for {said}; it is running"):
        silent_too_long(JobState("a", "running"), silence_s, timeout_s)


# Each sample once


def heard(listener: Listener, entries: Iterable[Received]) -> list[Chunk]:
    return [chunk for received in entries if (chunk := listener.hear(received))]


def numbered(*attempts: list[Entry]) -> list[Received]:
    """Return entries with ids."""
    return [
        Received(EntryId(attempt, seq), entry)
        for attempt, entries in enumerate(attempts, 1)
        for seq, entry in enumerate(entries, 1)
    ]


CRASHED = numbered(
    [begin(), audio(0, 10), audio(10, 20), mark(0, 20), audio(20, 30), audio(30, 40)],
    [begin(20), audio(20, 25), audio(25, 45), mark(20, 45), end(45)],
)


def test_a_repeated_segment_is_heard_once() -> None:
    chunks = heard(Listener(), CRASHED)
    assert chunks == [
        Chunk("1-2", 0, RATE_HZ, pcm(0, 10)),
        Chunk("1-3", 10, RATE_HZ, pcm(10, 20)),
        Chunk("1-5", 20, RATE_HZ, pcm(20, 30)),
        Chunk("1-6", 30, RATE_HZ, pcm(30, 40)),
        Chunk("2-3", 40, RATE_HZ, pcm(40, 45)),
    ]


def test_a_listener_that_returns_within_a_segment_hears_the_rest() -> None:
    chunks = heard(Listener(30, RATE_HZ), CRASHED[5:])  # after 1-5
    assert chunks == [Chunk("1-6", 30, RATE_HZ, pcm(30, 40)), Chunk("2-3", 40, RATE_HZ, pcm(40, 45))]


def test_a_returning_listener_knows_the_rate_without_a_begin() -> None:
    (chunk,) = heard(Listener(10, 22_050), CRASHED[2:3])
    assert chunk.sample_rate == 22_050


def test_a_listener_takes_the_rate_of_the_begin_it_hears() -> None:
    assert {chunk.sample_rate for chunk in heard(Listener(), CRASHED)} == {RATE_HZ}


@pytest.mark.parametrize("missing", [2, 3])
def test_missing_audio_is_an_error_even_if_no_id_is_missing(missing: int) -> None:
    entries: list[Entry] = [begin(), audio(0, 10), audio(10, 20), audio(20, 30), mark(0, 30), end(30)]
    del entries[missing]
    with pytest.raises(StreamGapError, match="audio is missing"):
        heard(Listener(), numbered(entries))


def test_an_attempt_that_begins_too_late_is_an_error() -> None:
    with pytest.raises(StreamGapError):
        heard(Listener(), numbered([begin(), audio(0, 10)], [begin(20)]))


@pytest.mark.parametrize(("last", "error"), [(FAILED, SpeechFailedError), (CANCELLED, SpeechCancelledError)])
def test_a_failed_or_cancelled_entry_raises_at_any_position(last: Entry, error: type[Exception]) -> None:
    with pytest.raises(error):
        heard(Listener(), numbered([begin(), audio(0, 10), last]))


@dataclass(frozen=True)
class Told:
    """A speech as its stream tells it, crashes and all."""

    entries: list[Received]
    pcm: bytes

    def replies(self, after: EntryId = START) -> Any:  # noqa: ANN401 - redis-py's reply
        return resp2([raw(str(one.id), one.entry) for one in self.entries if one.id > after])


@st.composite
def told(draw: st.DrawFn) -> Told:
    """A speech of a few segments; attempts die anywhere, and the next one goes on at the last mark, cut otherwise."""
    borders = [0, *accumulate(draw(st.lists(st.integers(0, 12), max_size=4)))]
    segments = list(pairwise(borders))
    attempts: list[list[Entry]] = []
    marked = 0  # segments whose mark stands in the stream
    for lived in [*draw(st.lists(st.integers(1, 8), max_size=3)), None]:
        entries: list[Entry] = [begin(borders[marked])]
        for start, stop in segments[marked:]:
            cuts = sorted(draw(st.lists(st.integers(start, stop), max_size=3)))
            entries += [audio(*piece) for piece in pairwise([start, *cuts, stop])]
            entries.append(mark(start, stop))
        if lived is not None:
            del entries[lived:]
        marked += sum(isinstance(entry, Mark) for entry in entries)
        attempts.append(entries)
    attempts[-1].append(end(borders[-1]))
    return Told(numbered(*attempts), pcm(0, borders[-1]))


def joined(chunks: list[Chunk]) -> bytes:
    return b"".join(chunk.pcm for chunk in chunks)


@settings(max_examples=100)
@given(told())
def test_after_any_crashes_each_sample_is_heard_once_and_in_order(speech: Told) -> None:
    cursor = Cursor()
    chunks = heard(Listener(), cursor.take(speech.replies()))
    assert cursor.closed
    assert joined(chunks) == speech.pcm
    assert [chunk.pos for chunk in chunks] == [0, *accumulate(len(chunk.pcm) // 2 for chunk in chunks)][: len(chunks)]


@settings(max_examples=100)
@given(told(), st.data())
def test_a_listener_that_returns_with_a_chunks_id_hears_the_rest(speech: Told, data: st.DataObject) -> None:
    chunks = heard(Listener(), speech.entries)
    had = data.draw(st.integers(0, len(chunks)))
    after = EntryId.parse(chunks[had - 1].id) if had else START
    listener = back(speech, after) if had else Listener()
    assert joined(chunks[:had] + heard(listener, Cursor(after).take(speech.replies(after)))) == speech.pcm


@settings(max_examples=100)
@given(told(), st.data())
def test_a_listener_that_returns_after_any_entry_has_every_sample(speech: Told, data: st.DataObject) -> None:
    last = data.draw(st.sampled_from(speech.entries))
    kept = joined(heard(Listener(), [one for one in speech.entries if one.id <= last.id]))
    rest = heard(back(speech, last.id), Cursor(last.id).take(speech.replies(last.id)))
    assert kept[: 2 * position_after(last.entry)] + joined(rest) == speech.pcm


def back(speech: Told, after: EntryId) -> Listener:
    """Come back after an entry, as Speech.listener does: from that entry and its attempt's begin."""
    found = {one.id: one.entry for one in speech.entries}
    first = found[EntryId(after.attempt, 1)]
    assert isinstance(first, Begin)
    return Listener(position_after(found[after]), first.sample_rate)


@settings(max_examples=100)
@given(told().filter(lambda speech: len(speech.entries) > 2), st.data())
def test_a_lost_entry_is_an_error(speech: Told, data: st.DataObject) -> None:
    """Any but the last of an attempt: a death there looks the same, and loses nothing."""
    losable = [one.id for one, following in pairwise(speech.entries) if one.id.attempt == following.id.attempt]
    if not losable:
        return
    lost = data.draw(st.sampled_from(losable))
    entries = [raw(str(one.id), one.entry) for one in speech.entries if one.id != lost]
    with pytest.raises(StreamGapError, match=f"entry {lost.attempt}-{lost.seq + 1} follows "):
        Cursor().take(resp2(entries))


@pytest.mark.parametrize("field", ["attempt", "pos", "sample_rate", "segments", "marked_segments", "lease_until"])
def test_a_number_of_any_length_is_accepted(field: str) -> None:
    control = {b"state": b"running", b"sample_rate": b"24000", field.encode(): b"9" * 5000}
    assert judge("a", [control, [b"started", b"q"], (1_795_000_000, 0)]).id == "a"
