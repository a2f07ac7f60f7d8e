"""Speaking one segment of a chapter, checking it, repeating it and storing it, with tone and a real store."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.processes import until
from tests.support.segments import ControlledTone, chapter_of, run_in_thread, start_chapter
from voxspool.errors import UnknownVoiceError
from voxspool.protocol.jobs import AUDIO_BASE_S, AUDIO_PER_CHAR_S
from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError, SpokenSegment
from voxspool_worker.engines.tone import CHAR_S, sine
from voxspool_worker.narration import audio_checks, segment_speaker, store_handle
from voxspool_worker.narration.segment_plan import seed_of
from voxspool_worker.narration.segment_queue import SegmentClaim, SegmentOutcome
from voxspool_worker.narration.segment_speaker import (
    MAX_ATTEMPTS,
    ClaimedSegment,
    SegmentDroppedError,
    SegmentSpeaker,
)
from voxspool_worker.speech.scheduler import EngineLostError, Scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt
    import redis

    from voxspool.store.segments import Store, Stored
    from voxspool_worker.engines.base import SpeechSegment
    from voxspool_worker.monitoring.metrics import Metrics
    from voxspool_worker.narration.store_handle import StoreHandle
    from voxspool_worker.voices.catalog import Voice

    Samples = npt.NDArray[np.int16]

TEXT = "The keeper counted every lamp."
RATE = ControlledTone.sample_rate


class SpeakerTone(ControlledTone):
    """Tone whose voices may be slow to prepare or gone, and which may say that it has checked its segments."""

    def __init__(self) -> None:
        super().__init__(rows=2)
        self.prepared: Callable[[Voice], Prepared] = lambda _: Prepared()
        self.spoken: SpokenSegment | None = None

    def prepare(self, voice: Voice) -> Prepared:
        return self.prepared(voice)

    def step(self) -> list[AudioChunk]:
        return [replace(chunk, spoken=self.spoken) if chunk.last else chunk for chunk in super().step()]


class Waits(threading.Event):
    """The event that ends the process; records the waits between attempts instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self.on_wait: Callable[[], object] = lambda: None

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        self.on_wait()
        return self.is_set()


@pytest.fixture
def engine() -> SpeakerTone:
    return SpeakerTone()


@pytest.fixture
def scheduler(engine: SpeakerTone) -> Iterator[Scheduler]:
    scheduler = Scheduler(engine)
    run_in_thread(scheduler)
    yield scheduler
    engine.gate.set()
    scheduler.stop()


@pytest.fixture
def stopping() -> Waits:
    return Waits()


@pytest.fixture
def speaker(
    engine: SpeakerTone, scheduler: Scheduler, store_handle: StoreHandle, metrics: Metrics, stopping: Waits
) -> SegmentSpeaker:
    return SegmentSpeaker(engine, scheduler, store_handle, metrics, "a-worker", stopping)


@pytest.fixture
def claimed(db: redis.Redis, store: Store) -> ClaimedSegment:
    """Return the second segment of a chapter, claimed."""
    chapter = start_chapter(db, chapter_of("chapter", ["Before it.", TEXT], store.id))
    return ClaimedSegment(chapter, SegmentClaim(1, 0), "a-claim")


def stored(store: Store, claimed: ClaimedSegment) -> Stored:
    found = store.check(claimed.key)
    assert found, "the segment is not in the store"
    return found


def faint(samples: Samples) -> Samples:
    """Return samples with the fault `level`."""
    return (samples * 0.02).astype(np.int16)


def faint_and_long(samples: Samples) -> Samples:
    """Return samples with the faults `rate` and `level`."""
    return faint(np.tile(samples, 10))


def attempt_seeds(segment: SpeechSegment) -> list[int]:
    """Return the seed of each attempt to speak a segment."""
    again = [seed_of(segment.seed, segment.voice.name, segment.text, number) for number in range(1, MAX_ATTEMPTS)]
    return [segment.seed, *again]


# Speaking and storing


def test_a_segment_is_spoken_and_its_audio_and_facts_are_in_the_store(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, store: Store, metrics: Metrics
) -> None:
    outcome = speaker.speak(claimed)
    pcm = sine(claimed.segment, RATE)
    assert outcome == SegmentOutcome(1, "spoken", len(pcm), claimed.segment.seed, 1, "")
    assert np.array_equal(store.read(claimed.key), pcm)
    facts = stored(store, claimed)
    assert (facts.engine, facts.model, facts.voice, facts.language) == ("tone", "sine-1", "sine", "en")
    assert (facts.seed, facts.tries, facts.fault, facts.worker) == (claimed.segment.seed, 1, "", "a-worker")
    assert facts.level_dbfs == pytest.approx(-15.05, abs=0.1)
    assert facts.elapsed_s > 0
    counts = metrics.counts()
    assert (counts.segments, counts.characters) == (1, len(TEXT))
    assert counts.audio_s == pytest.approx(len(TEXT) * CHAR_S)


def test_a_segment_that_the_store_has_is_not_spoken(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, metrics: Metrics
) -> None:
    first = speaker.speak(claimed)
    assert speaker.speak(claimed) == first._replace(kind="found")
    assert engine.spoken_texts == [TEXT]
    assert metrics.counts().segments == 1


def test_a_segment_whose_audio_in_the_store_is_damaged_is_spoken_again(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store, tmp_path: Path
) -> None:
    speaker.speak(claimed)
    (audio,) = tmp_path.glob("store/**/*.flac")
    audio.write_bytes(audio.read_bytes()[:-1] + b"\0")
    assert speaker.speak(claimed).kind == "spoken"
    assert engine.spoken_texts == [TEXT] * 2
    assert np.array_equal(store.read(claimed.key), sine(claimed.segment, RATE))


def test_a_segment_that_another_worker_stores_meanwhile_is_stored_once_and_its_facts_are_returned(
    speaker: SegmentSpeaker,
    claimed: ClaimedSegment,
    engine: SpeakerTone,
    store: Store,
    store_handle: StoreHandle,
    metrics: Metrics,
    tmp_path: Path,
) -> None:
    other_engine = SpeakerTone()
    other_scheduler = Scheduler(other_engine)
    run_in_thread(other_scheduler)
    other = SegmentSpeaker(other_engine, other_scheduler, store_handle, metrics, "another-worker", Waits())
    other_engine.spoken = SpokenSegment(seed=5, tries=3)

    def let_the_other_finish_first(_: SpeechSegment) -> None:
        if not other_engine.admitted:
            other.speak(replace(claimed, lane=None))

    engine.before_step = let_the_other_finish_first
    outcome = speaker.speak(claimed)
    other_scheduler.stop()
    assert engine.spoken_texts == other_engine.spoken_texts == [TEXT]
    assert (outcome.kind, outcome.seed, outcome.tries) == ("spoken", 5, 3)
    assert stored(store, claimed).worker == "another-worker"
    assert len(list(tmp_path.glob("store/**/*.json"))) == 2, "the segment, and the store's own file"


def test_a_voice_that_took_work_to_prepare_is_counted_and_one_from_memory_is_not(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, metrics: Metrics
) -> None:
    engine.prepared = lambda _: Prepared("memory", 0.0)
    speaker.speak(claimed)
    assert metrics.counts().voices == {}
    engine.prepared = lambda _: Prepared("disk", 0.5)
    speaker.speak(replace(claimed, claim=SegmentClaim(0, 0)))
    assert metrics.counts().voices == {"disk": 1}


# Faults


def test_a_faulty_segment_is_spoken_again_with_another_seed_until_it_has_no_fault(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    seeds = attempt_seeds(claimed.segment)
    engine.sound = lambda segment, samples: samples if segment.seed == seeds[1] else faint(samples)
    outcome = speaker.speak(claimed)
    assert [segment.seed for segment in engine.admitted] == seeds[:2]
    assert (outcome.kind, outcome.seed, outcome.tries, outcome.fault) == ("spoken", seeds[1], 2, "")
    assert np.array_equal(store.read(claimed.key), sine(replace(claimed.segment, seed=seeds[1]), RATE))


def test_a_segment_that_stays_faulty_is_stored_with_the_fault_of_the_best_attempt(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    seeds = attempt_seeds(claimed.segment)
    engine.sound = lambda segment, samples: (faint if segment.seed == seeds[1] else faint_and_long)(samples)
    outcome = speaker.speak(claimed)
    assert [segment.seed for segment in engine.admitted] == seeds
    assert (outcome.kind, outcome.seed, outcome.tries, outcome.fault) == ("spoken", seeds[1], MAX_ATTEMPTS, "level")
    facts = stored(store, claimed)
    assert (facts.seed, facts.tries, facts.fault) == (seeds[1], MAX_ATTEMPTS, "level")


def test_of_two_attempts_with_as_many_faults_the_first_is_kept_and_the_worst_fault_named(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone
) -> None:
    engine.sound = lambda _, samples: faint_and_long(samples)
    outcome = speaker.speak(claimed)
    assert (outcome.seed, outcome.fault) == (claimed.segment.seed, "rate")


def test_an_engine_that_ignores_the_seed_is_not_asked_a_third_time(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone
) -> None:
    engine.sound = lambda _, samples: samples * 0
    outcome = speaker.speak(claimed)
    assert (outcome.fault, outcome.tries) == ("empty", 2)


def test_an_engine_that_has_repeated_a_segment_itself_is_not_asked_again(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    engine.spoken = SpokenSegment(seed=7, tries=4, fault="noise")
    outcome = speaker.speak(claimed)
    assert len(engine.admitted) == 1
    assert (outcome.seed, outcome.tries, outcome.fault) == (7, 4, "noise")
    assert stored(store, claimed).tries == 4


def test_a_fault_that_the_engine_found_comes_before_those_of_the_checks_and_once(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio_checks, "faults", lambda *_: ["rate", "noise"])
    engine.spoken = SpokenSegment(seed=7, tries=2, fault="noise")
    (attempt,) = speaker._attempts(claimed)
    assert attempt.faults == ["noise", "rate"]


# Failures of the engine


def fail_times(count: int) -> Callable[[SpeechSegment], None]:
    """Return a function that makes an engine fail with a segment a number of times."""
    failed: list[SpeechSegment] = []

    def act(segment: SpeechSegment) -> None:
        if len(failed) < count:
            failed.append(segment)
            raise SegmentError(segment, "no token came out")

    return act


def test_a_segment_with_which_the_engine_fails_once_is_repeated_with_the_same_seed(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, caplog: pytest.LogCaptureFixture
) -> None:
    engine.before_step = fail_times(1)
    outcome = speaker.speak(claimed)
    assert (outcome.kind, outcome.tries, outcome.fault) == ("spoken", 1, "")
    assert [segment.seed for segment in engine.admitted] == [claimed.segment.seed] * 2
    assert caplog.messages == ["segment.again job=chapter segment=1 error=no token came out"]


def test_a_segment_with_which_the_engine_fails_twice_is_not_stored(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store, metrics: Metrics
) -> None:
    engine.before_step = fail_times(2)
    assert speaker.speak(claimed) == SegmentOutcome(1, "engine", seed=claimed.segment.seed, tries=2)
    assert store.find(claimed.key) is None
    assert metrics.counts().segments == 0


def test_a_faulty_attempt_is_kept_if_the_engine_fails_with_the_next(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone
) -> None:
    engine.sound = lambda _, samples: faint(samples)

    def fail_again(segment: SpeechSegment) -> None:
        if segment.seed != claimed.segment.seed:
            raise SegmentError(segment, "no token came out")

    engine.before_step = fail_again
    outcome = speaker.speak(claimed)
    assert (outcome.kind, outcome.tries, outcome.fault) == ("spoken", 1, "level")


def test_an_engine_that_does_not_stop_is_a_failure_and_its_row_is_free_again(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, caplog: pytest.LogCaptureFixture
) -> None:
    limit_s = AUDIO_BASE_S + AUDIO_PER_CHAR_S * len(TEXT)
    engine.sound = lambda _, samples: np.resize(samples, round((limit_s + 1) * RATE))
    assert speaker.speak(claimed).kind == "engine"
    assert "longer than the text can explain: over 120 s" in caplog.messages[0]
    until(lambda: engine.free == engine.rows, "the rows to be free")


def test_an_engine_that_breaks_ends_the_thread(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    def fail(_: SpeechSegment) -> None:
        raise RuntimeError("the device is gone")

    engine.before_step = fail
    with pytest.raises(EngineLostError, match="the device is gone"):
        speaker.speak(claimed)
    assert store.find(claimed.key) is None


def test_a_missing_voice_ends_the_chapter_with_its_message(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone
) -> None:
    def fail(_: Voice) -> Prepared:
        raise UnknownVoiceError("the voice was removed")

    engine.prepared = fail
    assert speaker.speak(claimed) == SegmentOutcome(1, "unknown-voice", fault="the voice was removed")


# Failures of the store


def obstruct(claimed: ClaimedSegment, tmp_path: Path) -> Path:
    """Create a file where the store would create the folder of a segment; return it."""
    obstacle = tmp_path / "store" / claimed.key[:2]
    obstacle.write_text("not a folder")
    return obstacle


def test_a_store_that_refuses_twice_and_then_works_has_the_segment_which_is_spoken_once(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, stopping: Waits, store: Store, tmp_path: Path
) -> None:
    obstacle: list[Path] = []

    def obstruct_the_store(_: SpeechSegment) -> None:
        if not obstacle:
            obstacle.append(obstruct(claimed, tmp_path))

    def mend_the_store_at_the_second_wait() -> None:
        if len(stopping.seconds) == 2:
            obstacle[0].unlink()

    engine.before_step = obstruct_the_store
    stopping.on_wait = mend_the_store_at_the_second_wait
    assert speaker.speak(claimed).kind == "spoken"
    assert stopping.seconds == [0.5, 1.0]
    assert engine.spoken_texts == [TEXT]
    assert stored(store, claimed)


def test_a_store_that_refuses_to_the_end_ends_the_chapter_with_its_message(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, stopping: Waits, tmp_path: Path
) -> None:
    obstruct(claimed, tmp_path)
    outcome = speaker.speak(claimed)
    assert outcome.kind == "store"
    assert outcome.fault.startswith("the segment store failed (")
    assert stopping.seconds == list(store_handle.RETRY_WAITS_S)


# Ending early


@pytest.fixture
def long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a thread that waits for audio continue only if it is woken."""
    monkeypatch.setattr(segment_speaker, "CHUNK_WAIT_S", 3600.0)


def speak_in_thread(speaker: SegmentSpeaker, claimed: ClaimedSegment) -> tuple[threading.Thread, list[object]]:
    """Speak a segment in a thread, which adds its outcome or its error to the list."""
    came: list[object] = []

    def act() -> None:
        try:
            came.append(speaker.speak(claimed))
        except (SegmentDroppedError, EngineLostError) as error:
            came.append(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    return thread, came


@pytest.mark.usefixtures("long_waits")
def test_a_segment_that_is_dropped_while_it_is_spoken_ends_at_once_and_is_not_stored(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    engine.gate.clear()
    thread, came = speak_in_thread(speaker, claimed)
    until(lambda: engine.admitted, "the segment to have a row")
    claimed.drop()
    thread.join(10)
    assert [type(one) for one in came] == [SegmentDroppedError]
    until(lambda: engine.free == engine.rows, "the row to be free")
    assert store.find(claimed.key) is None


@pytest.mark.usefixtures("long_waits")
def test_a_segment_that_was_dropped_before_it_was_submitted_is_not_spoken(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, store: Store
) -> None:
    engine.gate.clear()
    claimed.drop()
    thread, came = speak_in_thread(speaker, claimed)
    thread.join(10)
    assert [type(one) for one in came] == [SegmentDroppedError]
    assert store.find(claimed.key) is None


def test_a_process_that_ends_gives_up_the_segment_that_it_speaks(
    speaker: SegmentSpeaker, claimed: ClaimedSegment, engine: SpeakerTone, stopping: Waits, store: Store
) -> None:
    engine.gate.clear()
    thread, came = speak_in_thread(speaker, claimed)
    until(lambda: claimed.lane, "the segment to be submitted")
    stopping.set()
    assert claimed.lane
    claimed.lane.wake()
    thread.join(10)
    assert [type(one) for one in came] == [EngineLostError]
    assert store.find(claimed.key) is None
