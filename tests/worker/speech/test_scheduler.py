"""Which segment gets the next free row: fairness, priority, drops and errors, with tone, one tick at a time."""

from __future__ import annotations

import math
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment
from voxspool_worker.engines.tone import CHAR_S, FAST, STEP_S, ToneEngine, sine
from voxspool_worker.jobs.cancellation import CancelToken, RowClock
from voxspool_worker.speech import scheduler as module
from voxspool_worker.speech.scheduler import (
    BACKLOG_CHUNKS,
    BACKLOG_S,
    LEAD_S,
    RESERVED_SHARE,
    EngineLostError,
    Lane,
    LaneEvent,
    Scheduler,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from voxspool.protocol.jobs import Priority

DEADLINE_S = 10.0
"""Longest wait of a test for another thread, in seconds; normally it takes milliseconds."""


class Watched(ToneEngine):
    """Tone that records the calls, and fails the test if it is used in a way that the interface does not allow."""

    def __init__(self, rows: int = 8) -> None:
        super().__init__(rows)
        self.admitted: list[tuple[str, int]] = []
        self.acts: list[str] = []
        self.moved: Counter[str] = Counter()
        """Number of rows of each job in the last step."""

    def admit(self, segment: SpeechSegment) -> None:
        assert self.free, "a segment was admitted and no row was free"
        self.admitted.append((segment.job, segment.index))
        self.acts.append(f"admit {segment.job}")
        super().admit(segment)

    def step(self) -> list[AudioChunk]:
        self.acts.append("step")
        self.moved = self.held
        return super().step()

    def drop(self, job: str) -> None:
        self.acts.append(f"drop {job}")
        super().drop(job)

    @property
    def held(self) -> Counter[str]:
        """Number of rows of each job now."""
        return Counter(row.segment.job for row in self._rows)


class Fragile(Watched):
    """Tone that raises SegmentError for the text `choke`, and RuntimeError for `break`."""

    def step(self) -> list[AudioChunk]:
        for row in self._rows:
            if row.segment.text == "choke":
                self._rows.remove(row)
                raise SegmentError(row.segment, "it cannot be spoken")
            if row.segment.text == "break":
                raise RuntimeError("the device is gone")
        return super().step()


class Stepping(Watched):
    """Tone that calls `look` during a step and stores the result."""

    look: Callable[[], float | None]
    saw: float | None = None

    def step(self) -> list[AudioChunk]:
        self.saw = self.look()
        return super().step()


def segment(job: str, index: int = 0, text: str = "four") -> SpeechSegment:
    return SpeechSegment(job, index, text, 0, len(text), 0.0, FAST, "en", 1.0, index)


def segments(job: str, count: int, text: str = "four") -> list[SpeechSegment]:
    return [segment(job, index, text) for index in range(count)]


def steps_of(one: SpeechSegment) -> int:
    """Return the number of steps that tone needs for a segment."""
    return math.ceil(round(len(one.text) * CHAR_S / STEP_S, 6))


STEPS = steps_of(segment("any"))


def taken(lane: Lane) -> list[LaneEvent]:
    """Return all events that are in a lane."""
    heard = []
    while (one := lane.get(0)) is not None:
        heard.append(one)
    return heard


def chunks(heard: Iterable[LaneEvent]) -> list[AudioChunk]:
    """Assert that all events are chunks, and return them."""
    found = list(heard)
    assert all(isinstance(one, AudioChunk) for one in found), found
    return [one for one in found if isinstance(one, AudioChunk)]


def ticks_until_done(scheduler: Scheduler, lane: Lane, others: Iterable[Lane] = (), *, most: int = 1000) -> int:
    """Tick until the lane's first segment is complete, and empty all lanes at each tick; return the number of ticks."""
    for tick in range(1, most + 1):
        scheduler.tick()
        for other in others:
            taken(other)
        if any(chunk.last for chunk in chunks(taken(lane))):
            return tick
    pytest.fail(f"nothing was complete after {most} ticks")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("head_start", [0, 1, 12])
def test_a_job_with_many_segments_does_not_starve_a_short_one(rows: int, head_start: int) -> None:
    scheduler = Scheduler(Watched(rows))
    book = scheduler.submit("book", "interactive", segments("book", 100))
    for _ in range(head_start):
        scheduler.tick()
        taken(book)
    word = scheduler.submit("word", "interactive", segments("word", 1))
    # In the worst case: the segments that run, then one turn of the book, then its own segment.
    assert ticks_until_done(scheduler, word, [book]) <= 3 * STEPS


@pytest.mark.parametrize("rows", [1, 8])
def test_several_long_jobs_do_not_starve_a_short_one(rows: int) -> None:
    scheduler = Scheduler(Watched(rows))
    books = [scheduler.submit(f"book-{n}", "interactive", segments(f"book-{n}", 100)) for n in range(10)]
    for _ in range(20):
        scheduler.tick()
        for book in books:
            taken(book)
    word = scheduler.submit("word", "interactive", segments("word", 1))
    # One turn of each of the ten books, `rows` at a time, then its own segment.
    assert ticks_until_done(scheduler, word, books) <= (math.ceil(10 / rows) + 2) * STEPS


@pytest.mark.parametrize(("jobs", "rows"), [(1, 8), (2, 8), (3, 8), (4, 8), (3, 6), (8, 8)])
def test_rows_are_shared_equally(jobs: int, rows: int) -> None:
    engine = Watched(rows)
    scheduler = Scheduler(engine)
    for job in "abcdefgh"[:jobs]:
        scheduler.submit(job, "interactive", segments(job, 20))
    scheduler.tick()
    held = engine.held
    assert engine.free == 0
    assert len(held) == jobs
    assert max(held.values()) - min(held.values()) <= 1


def test_each_job_gets_a_row_before_one_gets_two() -> None:
    engine = Watched(8)
    scheduler = Scheduler(engine)
    for job in "abc":
        scheduler.submit(job, "interactive", segments(job, 20))
    scheduler.tick()
    assert [job for job, _ in engine.admitted] == [*"abc", *"abc", *"ab"]


def test_a_new_job_gets_its_share_as_rows_become_free() -> None:
    engine = Watched(8)
    scheduler = Scheduler(engine)
    lengths = [segment("book", index, "x" * (2 + index % 5)) for index in range(100)]
    book = scheduler.submit("book", "interactive", lengths)
    scheduler.tick()
    assert engine.held == {"book": 8}
    paper = scheduler.submit("paper", "interactive", segments("paper", 100, "a longer text"))
    for _ in range(8):
        scheduler.tick()
        taken(book), taken(paper)
    assert engine.moved == {"book": 4, "paper": 4}


def test_a_job_with_long_segments_gets_no_more_rows_than_others() -> None:
    engine = Watched(4)
    scheduler = Scheduler(engine)
    book = scheduler.submit("book", "interactive", segments("book", 100, "x" * 200))
    note = scheduler.submit("note", "interactive", segments("note", 100))
    for _ in range(20 * STEPS):
        scheduler.tick()
        taken(book), taken(note)
        assert engine.moved == {"book": 2, "note": 2}


def test_a_continuous_flow_of_new_jobs_does_not_starve_an_old_one() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    lanes = [scheduler.submit("book", "interactive", segments("book", 100))]
    for number in range(40):
        lanes.append(scheduler.submit(f"word-{number}", "interactive", segments(f"word-{number}", 1)))
        for _ in range(STEPS):
            scheduler.tick()
            for lane in lanes:
                taken(lane)
    seated = Counter(job for job, _ in engine.admitted)
    assert seated["book"] >= 5
    assert seated.total() - seated["book"] >= 5


def test_on_one_row_jobs_take_turns() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    lanes = [scheduler.submit(job, "interactive", segments(job, 4)) for job in "abc"]
    for _ in range(12 * STEPS):
        scheduler.tick()
        for lane in lanes:
            taken(lane)
    assert [job for job, _ in engine.admitted] == [*"abc"] * 4


def test_the_segments_of_a_job_are_admitted_in_the_order_of_its_text() -> None:
    engine = Watched(3)
    scheduler = Scheduler(engine)
    lane = scheduler.submit("a", "interactive", segments("a", 10))
    while scheduler.tick():
        taken(lane)
    assert [index for _, index in engine.admitted] == list(range(10))


@dataclass
class Clock:
    """Time as the scheduler sees it; it passes when the test says so."""

    now_s: float = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def perf_counter(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


LONG = "x" * 100
"""Six seconds of tone."""


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("rows", [1, 2])
def test_a_job_that_has_not_begun_comes_before_those_whose_listeners_have_audio_left(rows: int) -> None:
    engine = Watched(rows)
    scheduler = Scheduler(engine)
    books = [scheduler.submit(f"book-{n}", "interactive", segments(f"book-{n}", 9, LONG)) for n in range(8)]
    while len(engine.admitted) < 8 + rows:
        scheduler.tick()
        for book in books:
            taken(book)
    before = len(engine.admitted)
    words = [scheduler.submit(f"word-{n}", "interactive", segments(f"word-{n}", 2)) for n in range(3)]
    while len(engine.admitted) < before + 3:
        scheduler.tick()
        for lane in (*books, *words):
            taken(lane)
    assert engine.admitted[before : before + 3] == [("word-0", 0), ("word-1", 0), ("word-2", 0)]


def test_a_listener_with_little_audio_left_is_overtaken_by_the_length_of_a_segment_at_most(clock: Clock) -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    book = scheduler.submit("book", "interactive", segments("book", 3, LONG))
    other = scheduler.submit("other", "interactive", segments("other", 3, LONG))
    for _ in range(2 * steps_of(segment("book", 0, LONG)) + 1):
        scheduler.tick()
        taken(book), taken(other)
    assert engine.admitted == [("book", 0), ("other", 0), ("book", 1)]
    clock.now_s += len(LONG) * CHAR_S - LEAD_S + 0.1  # both have heard all but that
    words = [scheduler.submit(f"word-{n}", "interactive", segments(f"word-{n}", 1, "x" * 50)) for n in range(4)]
    while len(engine.admitted) < 6:
        scheduler.tick()
        for lane in (book, other, *words):
            taken(lane)
    assert [job for job, _ in engine.admitted[3:]] == ["word-0", "word-1", "other"]


@pytest.mark.usefixtures("clock")
def test_a_job_is_overtaken_by_four_times_the_length_of_its_segment_at_most() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    lanes = [scheduler.submit(book, "interactive", segments(book, 9, "x" * 40)) for book in ("a", "b", "c")]
    while len(engine.admitted) < 3:
        scheduler.tick()
    lanes += [scheduler.submit(f"word-{n}", "interactive", segments(f"word-{n}", 1, "x" * 20)) for n in range(20)]
    while len(engine.admitted) < 26:
        scheduler.tick()
        for lane in lanes:
            taken(lane)
    order = [job.partition("-")[0] for job, _ in engine.admitted]
    assert order == [*"abc", *["word"] * 8, "a", *["word"] * 8, "b", *["word"] * 4, "c"]


def test_the_first_segment_of_a_suspect_waits_for_no_interactive_job() -> None:
    engine = Watched(4)
    scheduler = Scheduler(engine)
    lanes = [scheduler.submit("book", "batch", segments("book", 50))]
    lanes += [scheduler.submit("speech", "interactive", segments("speech", 50))]
    scheduler.tick()
    scheduler.submit("suspect", "batch", segments("suspect", 2), suspect=True)
    for _ in range(2 * STEPS):
        scheduler.tick()
        for lane in lanes:
            taken(lane)
    order = [job for job, _ in engine.admitted[4:]]
    assert order[0] == "suspect"
    assert "suspect" not in order[1:], "the rest of it is batch work"


def test_a_job_has_its_clock_run_while_it_has_a_row() -> None:
    scheduler = Scheduler(Watched(1))
    token = CancelToken(60.0)
    first = scheduler.submit("first", "interactive", segments("first", 1))
    with RowClock(token) as rows:
        lane = scheduler.submit("second", "interactive", segments("second", 3), clock=rows)
        scheduler.tick()
        assert token.remaining_s == math.inf
        ticks_until_done(scheduler, first)
        scheduler.tick()
        assert token.remaining_s < 60.0
        while scheduler.tick():
            taken(lane)
        assert token.remaining_s == math.inf
        again = scheduler.submit("second", "interactive", segments("second", 3), clock=rows)
        scheduler.tick()
        assert token.remaining_s < 60.0
        scheduler.drop("second")
        assert token.remaining_s == math.inf
        taken(again)


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_interactive_comes_before_batch(rows: int) -> None:
    engine = Watched(rows)
    scheduler = Scheduler(engine)
    book = scheduler.submit("book", "batch", segments("book", 20))
    word = scheduler.submit("word", "interactive", segments("word", 20))
    while not scheduler.tick() or ("word", 19) not in engine.admitted:
        taken(book), taken(word)
    order = [job for job, _ in engine.admitted]
    assert order[:20] == ["word"] * 20


@pytest.mark.parametrize(("rows", "kept"), [(1, 0), (2, 0), (3, 0), (4, 1), (5, 1), (7, 1), (8, 2), (12, 3)])
def test_a_quarter_of_the_rows_stays_free_of_batch_work(rows: int, kept: int) -> None:
    assert RESERVED_SHARE == 4
    engine = Watched(rows)
    scheduler = Scheduler(engine)
    books = [scheduler.submit(f"book-{n}", "batch", segments(f"book-{n}", 50)) for n in range(2)]
    for _ in range(3 * STEPS):
        scheduler.tick()
        assert engine.free in (kept, rows)  # all rows are free if the step ended every segment
        for book in books:
            taken(book)
    scheduler.submit("word", "interactive", segments("word", rows))
    scheduler.tick()
    assert engine.held["word"] >= kept


def test_interactive_work_may_take_every_row() -> None:
    engine = Watched(8)
    scheduler = Scheduler(engine)
    scheduler.submit("word", "interactive", segments("word", 20))
    scheduler.tick()
    assert engine.free == 0


def test_batch_work_continues_beside_a_little_interactive_work() -> None:
    engine = Watched(8)
    scheduler = Scheduler(engine)
    book = scheduler.submit("book", "batch", segments("book", 50))
    scheduler.submit("word", "interactive", segments("word", 1))
    scheduler.tick()
    assert engine.held == {"word": 1, "book": 6}
    assert chunks(taken(book))


def test_on_one_row_interactive_work_comes_first_at_the_next_segment() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    book = scheduler.submit("book", "batch", segments("book", 100))
    scheduler.tick()
    word = scheduler.submit("word", "interactive", segments("word", 3))
    for _ in range(3):
        ticks_until_done(scheduler, word, [book], most=2 * STEPS)
    assert engine.admitted == [("book", 0), ("word", 0), ("word", 1), ("word", 2)]
    scheduler.tick()
    assert engine.admitted[-1] == ("book", 1)


def test_a_dropped_job_frees_its_rows_before_the_next_step() -> None:
    engine = Watched(4)
    scheduler = Scheduler(engine)
    gone = scheduler.submit("gone", "interactive", segments("gone", 20))
    scheduler.tick()
    scheduler.submit("next", "interactive", segments("next", 4))
    assert engine.held == {"gone": 4}
    engine.acts.clear()
    scheduler.drop("gone")
    taken(gone)
    scheduler.tick()
    assert engine.acts == ["drop gone", *["admit next"] * 4, "step"]
    assert engine.held == {"next": 4}
    while scheduler.tick():
        pass
    assert taken(gone) == []
    assert scheduler.rows_in_use == 0


def test_a_job_that_is_dropped_before_its_first_row_is_not_spoken() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    scheduler.submit("first", "interactive", segments("first", 1))
    gone = scheduler.submit("gone", "interactive", segments("gone", 5))
    scheduler.drop("gone")
    while scheduler.tick():
        pass
    assert engine.admitted == [("first", 0)]
    assert taken(gone) == []


def test_dropping_an_ended_or_unknown_job_does_nothing() -> None:
    engine = Watched()
    scheduler = Scheduler(engine)
    lane = scheduler.submit("a", "interactive", segments("a", 1))
    ticks_until_done(scheduler, lane)
    scheduler.drop("a")
    scheduler.drop("nobody")
    assert not scheduler.tick()
    assert "drop a" not in engine.acts
    assert "drop nobody" not in engine.acts


def test_the_name_of_a_dropped_job_can_be_used_again_at_once() -> None:
    scheduler = Scheduler(Watched(2))
    scheduler.submit("a", "interactive", segments("a", 5, "the first text"))
    scheduler.tick()
    scheduler.drop("a")
    lane = scheduler.submit("a", "interactive", segments("a", 1))
    while scheduler.tick():
        pass
    assert sum(len(chunk.pcm) for chunk in chunks(taken(lane))) == len(sine(segment("a"), 24_000))


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_a_job_whose_thread_is_behind_gets_no_row(priority: Priority) -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    slow = scheduler.submit("slow", priority, segments("slow", 100))
    while scheduler.tick():
        pass
    assert slow.full
    seated = len(engine.admitted)
    assert BACKLOG_CHUNKS <= seated * STEPS < BACKLOG_CHUNKS + STEPS
    # Meanwhile, other jobs use its rows.
    other = scheduler.submit("other", priority, segments("other", 3))
    for _ in range(3):
        assert ticks_until_done(scheduler, other) == STEPS
    assert not scheduler.tick()
    assert len(engine.admitted) == seated + 3
    # It continues when its backlog is smaller.
    while slow.full:
        assert slow.get(0)
    assert scheduler.tick()
    assert engine.admitted[-1] == ("slow", seated)


def test_a_job_with_a_minute_of_audio_to_publish_gets_no_row() -> None:
    lane = Lane(24_000)
    second = AudioChunk("a", 0, np.zeros(24_000, np.int16), last=True)
    for _ in range(round(BACKLOG_S) - 1):
        lane.put(second)
    assert not lane.full
    lane.put(second)
    assert lane.full
    assert lane.get(0) is second
    assert not lane.full


def test_a_job_with_a_window_is_spoken_no_further_ahead_of_its_reader() -> None:
    engine = Watched(4)
    scheduler = Scheduler(engine)
    one = len(sine(segment("any"), engine.sample_rate))
    lane = scheduler.submit("read", "interactive", segments("read", 100), window_samples=2 * one)
    while scheduler.tick():
        assert engine.held["read"] <= 1, "the length of a segment is known only at its end"
    assert len(engine.admitted) == 3, "two within the window, and the one that exceeded it"
    lane.read_samples += one
    while scheduler.tick():
        pass
    assert len(engine.admitted) == 4
    lane.silent_samples += one  # pauses count, too
    lane.read_samples += one
    assert not scheduler.tick()


def test_a_job_that_waits_for_its_reader_leaves_its_rows_to_others() -> None:
    engine = Watched(1)
    scheduler = Scheduler(engine)
    scheduler.submit("read", "interactive", segments("read", 9), window_samples=0)
    while scheduler.tick():
        pass
    other = scheduler.submit("other", "batch", segments("other", 2))
    assert ticks_until_done(scheduler, other) == STEPS


def test_the_start_of_a_step_is_known_during_the_step() -> None:
    scheduler = Scheduler(Stepping())
    stepping: Stepping = scheduler._engine
    stepping.look = lambda: scheduler.step_began
    assert scheduler.step_began is None
    scheduler.submit("a", "interactive", segments("a", 1))
    scheduler.tick()
    assert stepping.saw is not None
    assert scheduler.step_began is None


def test_give_up_ends_every_job_with_an_error() -> None:
    scheduler = Scheduler(Watched(1))
    lanes = [scheduler.submit(job, "interactive", segments(job, 2)) for job in "ab"]
    scheduler.give_up("it hangs")
    for lane in lanes:
        (error,) = taken(lane)
        assert isinstance(error, EngineLostError)
        assert "it hangs" in str(error)


def test_tick_returns_false_if_no_row_is_in_use() -> None:
    engine = Watched()
    scheduler = Scheduler(engine)
    assert not scheduler.tick()
    scheduler.submit("empty", "interactive", [])
    assert not scheduler.tick()
    assert "step" not in engine.acts


def test_a_segment_that_cannot_be_spoken_ends_only_its_own_job() -> None:
    engine = Fragile(4)
    scheduler = Scheduler(engine)
    ill = scheduler.submit("ill", "interactive", [segment("ill", 0, "choke"), *segments("ill", 20)[1:]])
    well = scheduler.submit("well", "interactive", segments("well", 3))
    while scheduler.tick():
        pass
    heard = taken(ill)
    assert isinstance(heard[-1], SegmentError)
    assert heard[-1].segment.text == "choke"
    assert not [one for one in heard[:-1] if not isinstance(one, AudioChunk)]
    assert sum(chunk.last for chunk in chunks(taken(well))) == 3
    assert scheduler.rows_in_use == 0
    assert "drop ill" in engine.acts


@dataclass
class EngineThread:
    """A thread that runs the loop of a scheduler, as in a worker."""

    scheduler: Scheduler
    lost: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.scheduler.run, args=(lambda: self.lost.append("lost"),))
        self.thread.start()

    def ended(self) -> bool:
        self.thread.join(DEADLINE_S)
        return not self.thread.is_alive()


def hear(lane: Lane) -> AudioChunk | Exception:
    """Wait for the next event in a lane and return it."""
    heard = lane.get(DEADLINE_S)
    assert heard is not None, "no event arrived"
    return heard


def test_an_engine_that_breaks_ends_every_job_and_is_reported_once() -> None:
    scheduler = Scheduler(Fragile(2))
    jobs: list[Lane] = [scheduler.submit("a", "interactive", [segment("a", 0, "break")])]
    jobs += [scheduler.submit(job, "interactive", segments(job, 5)) for job in "bc"]
    jobs += [scheduler.submit("d", "batch", segments("d", 5))]
    engine = EngineThread(scheduler)
    assert engine.ended()
    assert engine.lost == ["lost"]
    for lane in jobs:
        *before, error = taken(lane)
        assert isinstance(error, EngineLostError)
        assert "the device is gone" in str(error)
        chunks(before)


def test_the_loop_speaks_jobs_that_arrive_while_it_waits_and_stops_on_request() -> None:
    scheduler = Scheduler(Watched(2))
    engine = EngineThread(scheduler)
    try:
        for job in "ab":
            lane = scheduler.submit(job, "interactive", segments(job, 1))
            heard = [hear(lane) for _ in range(STEPS)]
            assert [chunk.last for chunk in chunks(heard)] == [False] * (STEPS - 1) + [True]
    finally:
        scheduler.stop()
        assert engine.ended()
    assert engine.lost == []


class Looked(Watched):
    """Tone that sets `looked_often` after the scheduler has read `free` several times."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows)
        self.looks = 0
        self.looked_often = threading.Event()

    @property
    def free(self) -> int:
        self.looks += 1
        if self.looks > 10:
            self.looked_often.set()
        return super().free


def test_the_loop_continues_a_job_whose_thread_was_behind() -> None:
    engine = Looked(1)
    scheduler = Scheduler(engine)
    lane = scheduler.submit("slow", "interactive", segments("slow", 30))
    while scheduler.tick():
        pass
    assert lane.full
    engine.looks = 0
    engine.looked_often.clear()
    loop = EngineThread(scheduler)
    try:
        # Reading from a lane does not wake the loop: it checks the lanes at intervals.
        assert engine.looked_often.wait(DEADLINE_S)
        heard = [hear(lane) for _ in range(30 * STEPS)]
        assert sum(chunk.last for chunk in chunks(heard)) == 30
    finally:
        scheduler.stop()
        assert loop.ended()


def test_the_speech_rate_is_audio_per_second_of_work() -> None:
    assert Work().speech_rate(24_000) is None
    assert Work(busy_s=1.5, admission_s=0.5, samples=96_000).speech_rate(24_000) == 2.0


def test_a_lane_has_the_time_of_the_first_row_of_its_job() -> None:
    scheduler = Scheduler(ToneEngine(rows=1))
    first, second = (scheduler.submit(job, "batch", segments(job, 1)) for job in "ab")
    scheduler.tick()
    assert first.first_row_at is not None
    assert second.first_row_at is None, "there is only one row"


def test_a_lane_wakes_its_job() -> None:
    lane = Lane(24_000)
    lane.wake()
    assert lane.get(DEADLINE_S) is None
    assert lane.get(0) is None
    assert not lane.full
    error = EngineLostError("gone")
    lane.put(error)
    assert lane.get(0) is error


# Random jobs in any order


@dataclass
class Job:
    """A random job for the scheduler."""

    priority: Priority
    lengths: list[int]
    at_tick: int
    drop_after: int | None
    """Number of ticks after its start; None: it is not dropped."""
    takes_every: int
    """Interval, in ticks, at which its thread empties its lane."""


jobs_wanted = st.lists(
    st.builds(
        Job,
        priority=st.sampled_from(["interactive", "batch"]),
        lengths=st.lists(st.integers(1, 30), max_size=12),
        at_tick=st.integers(0, 40),
        drop_after=st.none() | st.none() | st.integers(0, 60),
        takes_every=st.sampled_from([1, 1, 3, 90]),
    ),
    min_size=1,
    max_size=8,
)


@dataclass
class Play:
    """Runs random jobs through a scheduler, and asserts its guarantees at every tick."""

    wanted: list[Job]
    rows: int

    def __post_init__(self) -> None:
        self.engine = Watched(self.rows)
        self.scheduler = Scheduler(self.engine)
        self.lanes: dict[str, Lane] = {}
        self.heard: dict[str, list[AudioChunk]] = defaultdict(list)
        self.dropped: set[str] = set()
        self.passed_over: Counter[str] = Counter()

    def segments(self, name: str) -> list[SpeechSegment]:
        return [segment(name, index, "x" * length) for index, length in enumerate(self.wanted[int(name)].lengths)]

    def play(self) -> None:
        tick, busy = 0, True
        while busy or tick <= 101 or not self.over:
            assert tick < 20_000, "the jobs do not end"
            self.come_and_go(tick)
            ready = self.ready()
            seated = len(self.engine.admitted)
            busy = self.scheduler.tick()
            self.count_turns(ready, [job for job, _ in self.engine.admitted[seated:]])
            self.take(tick)
            tick += 1
        self.take(0)

    def come_and_go(self, tick: int) -> None:
        for number, job in enumerate(self.wanted):
            name = str(number)
            if tick == job.at_tick:
                self.lanes[name] = self.scheduler.submit(name, job.priority, self.segments(name))
            if job.drop_after is not None and tick == job.at_tick + job.drop_after:
                self.scheduler.drop(name)
                self.dropped.add(name)
                self.heard[name] += chunks(taken(self.lanes[name]))

    def take(self, tick: int) -> None:
        for name, lane in self.lanes.items():
            if name in self.dropped:
                assert taken(lane) == [], "a dropped job has got an event"
            elif tick % self.wanted[int(name)].takes_every == 0:
                self.heard[name] += chunks(taken(lane))

    @property
    def over(self) -> bool:
        """True if every segment of every job that was not dropped has been admitted."""
        return not any(self.waiting(name) for name in map(str, range(len(self.wanted))))

    def waiting(self, name: str) -> int:
        if name in self.dropped:
            return 0
        return len(self.wanted[int(name)].lengths) - sum(job == name for job, _ in self.engine.admitted)

    def ready(self) -> list[str]:
        """Return the jobs that could use a row and have none."""
        held = self.engine.held
        return [
            name for name, lane in self.lanes.items() if self.waiting(name) and not lane.full and not held.get(name)
        ]

    def count_turns(self, ready: list[str], seated: list[str]) -> None:
        """Assert that each job of the same priority overtakes a waiting job at most once, and no batch job does."""
        for name in ready:
            before = seated[: seated.index(name)] if name in seated else seated
            rank = self.wanted[int(name)].priority
            self.passed_over[name] += sum(self.wanted[int(job)].priority == rank for job in before)
            assert self.passed_over[name] < len(self.wanted), f"job {name} waits too long"
            if rank == "interactive":
                assert not [job for job in before if self.wanted[int(job)].priority == "batch"]
        for name in [*seated, *(set(self.lanes) - set(ready))]:
            self.passed_over[name] = 0


@settings(max_examples=80, derandomize=True)
@given(wanted=jobs_wanted, rows=st.sampled_from([1, 2, 3, 4, 8]))
def test_every_chunk_arrives_once_and_in_order_and_no_job_starves(wanted: list[Job], rows: int) -> None:
    play = Play(wanted, rows)
    play.play()
    assert play.engine.free == rows
    for number in range(len(wanted)):
        name = str(number)
        heard: dict[int, list[AudioChunk]] = defaultdict(list)
        for chunk in play.heard[name]:
            assert chunk.job == name
            heard[chunk.segment].append(chunk)
        asked = play.segments(name)
        if name not in play.dropped:
            assert sorted(heard) == [one.index for one in asked]
        for index, parts in heard.items():
            whole = sine(asked[index], play.engine.sample_rate)
            said = np.concatenate([chunk.pcm for chunk in parts])
            assert not any(chunk.last for chunk in parts[:-1])
            if name in play.dropped:
                assert np.array_equal(said, whole[: len(said)])
            else:
                assert parts[-1].last
                assert np.array_equal(said, whole)
