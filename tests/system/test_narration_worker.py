"""Workers narrate chapters of books: alone and together, despite crashes, faulty segments and Redis outages."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import FAULTY, Supervisor, deaths_of, freeze, thaw
from tests.support.narrated import LIVE, book_of, check, held, long_book, marked, narrate, place, sounding
from tests.support.processes import until
from tests.support.reference import SENTENCE
from voxspool import SpeechCancelledError, SpeechFailedError
from voxspool.protocol import keys
from voxspool.protocol.narration import Passage
from voxspool.protocol.stream import Begin, Mark
from voxspool.store.segments import Store
from voxspool_worker.narration.segment_queue import LEASE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Open the segment store that the workers of `start_worker` use."""
    return Store(tmp_path / "store")


def spoken_by(store: Store, marks: list[Mark]) -> set[str]:
    """Return the names of the workers that spoke these segments."""
    found = [store.find(mark.key) for mark in marks]
    return {one.worker for one in found if one}


def assert_no_segment_queue_is_left(db: redis.Redis) -> None:
    """Assert that no lease and no key of a chapter's segment queue remains in Redis."""
    until(lambda: not db.keys("rq:wip:*"), "all leases to be released")
    for pattern in ("voxspool:narrating:*", "voxspool:*:pool", "voxspool:*:unspoken", "voxspool:*:results"):
        assert db.keys(pattern) == [], pattern


# The result of a chapter


def test_a_chapter_is_marked_in_order_and_its_audio_is_in_the_store(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    worker = start_worker()
    twice = Passage("A word.", 0.25, voice="sine")
    chapter = place(client, store, "one", [Passage(SENTENCE * 3, 1.5), Passage("***", 0.5), twice, twice])
    marks = narrate(client, chapter)
    check(chapter, marks, store)
    assert [mark.reused for mark in marks] == [False, True, True, False, True], "a repeated text is spoken once"
    assert chapter.speech.text[marks[3].start : marks[3].end] == "A word."
    assert marks[3].key == marks[4].key
    end = client.speech("one").end()
    assert end is not None
    assert (end.pos, end.segments, end.faults) == (marks[-1].end_pos, 5, 0)
    assert_no_segment_queue_is_left(db)
    assert "chapter.end job=one" in worker.said()
    assert "spoken=2 found=3" in worker.said()
    (info,) = client.workers()
    assert info.store == store.id
    assert info.speech_rate is not None
    assert info.speech_rate > 1


def test_a_chapter_without_words_ends_at_once(client: Client, start_worker: StartWorker, store: Store) -> None:
    start_worker()
    chapter = place(client, store, "empty", [Passage("***", 2.0), Passage("")])
    assert narrate(client, chapter) == []


def test_a_second_narration_speaks_only_edited_segments(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    start_worker()
    book = book_of(12)
    first = narrate(client, place(client, store, "first", book))
    second = narrate(client, place(client, store, "second", book))
    assert all(mark.reused for mark in second)
    assert [replace(mark, reused=False) for mark in second] == first
    edited = [*book[:5], Passage("Another sentence stands here.", 0.1), *book[6:]]
    chapter = place(client, store, "edited", edited)
    marks = narrate(client, chapter)
    assert [mark.segment for mark in marks if not mark.reused] == [5]
    check(chapter, marks, store)


def test_a_chapter_with_an_unknown_voice_fails(client: Client, start_worker: StartWorker, store: Store) -> None:
    start_worker()
    place(client, store, "nobody", book_of(1), voice="nobody")
    with pytest.raises(SpeechFailedError) as failed:
        client.speech("nobody").wait(timeout_s=20)
    assert failed.value.code == "unknown-voice"


# Many workers


def test_two_workers_share_one_chapter(client: Client, start_worker: StartWorker, store: Store) -> None:
    workers = [start_worker(), start_worker()]
    chapter = place(client, store, "shared", book_of(30), voice=LIVE)
    marks = narrate(client, chapter)
    check(chapter, marks, store)
    assert spoken_by(store, marks) == {worker.name for worker in workers}


def test_another_worker_finishes_the_chapter_of_a_killed_owner_without_a_gap(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    owner = start_worker()
    chapter = place(client, store, "orphan", book_of(20), voice=LIVE)
    until(lambda: marked(db, "orphan") >= 2, "progress of the chapter")
    successor = start_worker()
    owner.kill()
    marks = narrate(client, chapter)
    check(chapter, marks, store)
    assert spoken_by(store, marks) == {owner.name, successor.name}
    attempts = [one.id.attempt for one in client.speech("orphan").entries() if isinstance(one.entry, Begin)]
    assert attempts == [1, 2]
    assert_no_segment_queue_is_left(db)


def test_segments_claimed_by_a_killed_helper_are_spoken_again(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    owner = start_worker()
    chapter = place(client, store, "helped", book_of(40), voice=LIVE)
    until(lambda: held(db, "helped") == 7, "the owner's segment workers to be busy")
    helper = start_worker()
    until(lambda: held(db, "helped") > 7, "the helper to have a segment")
    helper.kill()
    marks = narrate(client, chapter)
    check(chapter, marks, store)
    assert "segment.quarantined" in owner.said()
    assert deaths_of(db, "helped") == 0


def test_the_first_sigterm_returns_a_chapter_to_its_queue_after_the_current_segments(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    first = start_worker()
    chapter = place(client, store, "handed", book_of(24), voice=LIVE)
    until(lambda: held(db, "handed") == 7, "all its segment workers to be busy")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(10) == 0
    assert "job.handed_back" in first.said()
    assert held(db, "handed") == 0, "no segment waits until a lease expires"
    assert client.speech("handed").status().state == "queued"
    second = start_worker()
    check(chapter, narrate(client, chapter), store)
    assert "quarantined" not in second.said()
    assert deaths_of(db, "handed") == 0


def test_after_the_grace_period_a_chapter_and_its_segments_return_without_a_death(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    first = start_worker("tone", "--grace", "0")
    chapter = place(client, store, "handed", long_book(10), voice=LIVE)
    until(lambda: held(db, "handed") == 7, "all its segment workers to be busy")
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(5) == 0
    assert held(db, "handed") == 0
    second = start_worker()
    check(chapter, narrate(client, chapter), store)
    assert "quarantined" not in second.said()
    assert deaths_of(db, "handed") == 0


def test_the_second_sigterm_returns_a_chapter_to_its_queue_at_once(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    first = start_worker()
    chapter = place(client, store, "handed", long_book(10), voice=LIVE)
    until(lambda: held(db, "handed") == 7, "all its segment workers to be busy")
    for _ in range(2):
        first.process.send_signal(signal.SIGTERM)
        until(lambda: "worker.stopping" in first.said(), "the worker to handle the signal")
    assert first.wait() == 0
    assert db.zcard(keys.unspoken("handed")) == 10, "no segment was completed"
    until(lambda: held(db, "handed") == 0, "all segments to be released")
    start_worker()
    check(chapter, narrate(client, chapter), store)


def test_a_burst_worker_narrates_all_queued_chapters_and_exits(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    chapters = [place(client, store, f"burst-{number}", book_of(3, 10 * number)) for number in range(5)]
    assert start_worker("tone", "--burst", wait=False).wait() == 0
    for chapter in chapters:
        check(chapter, narrate(client, chapter), store)


# Beside other jobs


def test_an_interactive_job_overtakes_chapters_that_occupy_the_whole_worker(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    start_worker("tone", "--jobs", "1")
    books = [place(client, store, f"book-{number}", book_of(40, 100 * number), voice=LIVE) for number in range(3)]
    states = [client.speech(book.speech.id) for book in books]
    until(
        lambda: [speech.status().state for speech in states] == ["running", "running", "queued"],
        "two chapters to start",
    )
    client.enqueue("A short word.", voice=LIVE).wait(timeout_s=5)
    assert [speech.status().state for speech in states] == ["running", "running", "queued"]


def test_a_cancelled_chapter_ends_promptly_and_leaves_no_keys(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis, tmp_path: Path
) -> None:
    for _ in range(2):
        start_worker()
    place(client, store, "cancelled", long_book(60), voice=LIVE)
    until(lambda: held(db, "cancelled") == 14, "all segment workers to be busy")
    client.speech("cancelled").cancel()
    with pytest.raises(SpeechCancelledError):
        client.speech("cancelled").wait(timeout_s=10)
    assert list(tmp_path.glob("store/**/*.flac")) == [], "no segment was completed"
    assert_no_segment_queue_is_left(db)
    chapter = place(client, store, "after", book_of(2))
    check(chapter, narrate(client, chapter), store)
    assert db.keys("voxspool:*cancelled*:pool") == [], "a helper that learns of the cancellation late restores no keys"


# Stores


def test_a_chapter_whose_store_no_worker_has_fails_with_a_clear_error(
    client: Client, start_worker: StartWorker, tmp_path: Path
) -> None:
    start_worker()
    place(client, Store(tmp_path / "elsewhere"), "lost", book_of(1))
    with pytest.raises(SpeechFailedError, match="VOXSPOOL_STORE") as failed:
        client.speech("lost").wait(timeout_s=20)
    assert failed.value.code == "store"


def test_a_worker_with_another_store_leaves_a_chapter_to_a_worker_with_the_right_store(
    client: Client, start_worker: StartWorker, store: Store, tmp_path: Path
) -> None:
    other = start_worker(environ={"VOXSPOOL_STORE": str(tmp_path / "elsewhere")})
    right = start_worker()
    until(lambda: {info.store for info in client.workers()} > {store.id}, "both stores to be open")
    chapters = [place(client, store, f"book-{number}", book_of(4, 10 * number), voice=LIVE) for number in range(5)]
    for chapter in chapters:
        marks = narrate(client, chapter)
        check(chapter, marks, store)
        assert spoken_by(store, marks) == {right.name}
    assert other.said().count("job.not_here") < 5


def test_a_worker_whose_store_cannot_be_opened_still_speaks_other_jobs(
    client: Client, start_worker: StartWorker, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    worker = start_worker(environ={"VOXSPOOL_STORE": str(tmp_path / "file" / "store")})
    client.enqueue("A short word.").wait(timeout_s=20)
    until(lambda: "store.away" in worker.said(), "a warning")
    place(client, store, "book", book_of(1))
    with pytest.raises(SpeechFailedError) as failed:
        client.speech("book").wait(timeout_s=20)
    assert failed.value.code == "store"


# Faulty segments


def test_a_segment_that_crashes_two_workers_is_skipped_and_the_chapter_completes(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    passages = [*book_of(3), Passage("After this word workers vanish.", 0.5), *book_of(3, 3)]
    supervisor = Supervisor(lambda: start_worker(program=FAULTY))
    chapter = place(client, store, "poison", passages)
    supervisor.until(lambda: client.speech("poison").status().state == "ended", "the chapter", 90)
    marks = narrate(client, chapter)
    assert [mark.fault for mark in marks] == [""] * 3 + ["poison"] + [""] * 3
    assert (marks[3].key, marks[3].end_pos - marks[3].pos) == ("", 12_000)
    assert 2 <= len(supervisor.exits) <= 4, (
        "on one host, a death counts for sure only of a worker that had done other work"
    )
    assert_no_segment_queue_is_left(db)


def test_a_segment_on_which_the_engine_fails_is_marked_and_the_chapter_completes(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    worker = start_worker(program=FAULTY)
    chapter = place(client, store, "hard", [*book_of(2), Passage("This is unspeakable.", 0.5), *book_of(2, 2)])
    marks = narrate(client, chapter)
    assert [mark.fault for mark in marks] == ["", "", "engine", "", ""]
    assert (marks[2].key, marks[2].end_pos - marks[2].pos) == ("", 12_000)
    assert worker.said().count("segment.again") == 1
    end = client.speech("hard").end()
    assert end is not None
    assert end.faults == 1


def test_a_faulty_segment_is_spoken_again_with_another_seed_and_the_best_try_is_kept(
    client: Client, start_worker: StartWorker, store: Store
) -> None:
    start_worker(program=FAULTY)
    passages = [
        sounding("hoarse", 0, 1),
        sounding("hoarse", 0, 0, 0),
        sounding("mute"),
        sounding("worn", 0, 1, 0),
        Passage("This one is clear."),
    ]
    marks = narrate(client, place(client, store, "tried", passages))
    assert [(mark.fault, mark.tries) for mark in marks] == [("", 2), ("level", 3), ("empty", 2), ("level", 3), ("", 1)]
    found = [store.find(mark.key) for mark in marks]
    assert [(one.seed, one.tries, one.fault) for one in found if one] == [(m.seed, m.tries, m.fault) for m in marks]
    assert [mark.seed % 2 for mark in marks[:2]] == [1, 0]
    assert marks[3].seed % 2 == 1, "tries with an even seed are also too long"
    again = narrate(client, place(client, store, "again", passages))
    assert all(mark.reused for mark in again), "the best of several faulty tries is also reused"


def test_a_chapter_fails_with_a_clear_error_if_its_store_refuses_every_write(
    client: Client, start_worker: StartWorker, store: Store, tmp_path: Path
) -> None:
    start_worker()
    until(lambda: client.workers()[0].store, "the store to be open")
    for number in range(256):
        (tmp_path / "store" / f"{number:02x}").write_text("no folder")
    place(client, store, "refused", book_of(3))
    with pytest.raises(SpeechFailedError, match="segment store failed") as failed:
        client.speech("refused").wait(timeout_s=60)
    assert failed.value.code == "store"


# Redis outages


def test_a_chapter_survives_a_redis_outage_and_no_segment_is_quarantined(
    client: Client, start_worker: StartWorker, store: Store, redis_server: RedisServer, db: redis.Redis
) -> None:
    workers = [start_worker(), start_worker()]
    chapter = place(client, store, "frozen", book_of(40), voice=LIVE)
    until(lambda: marked(db, "frozen") >= 4, "progress of the chapter")
    freeze(redis_server)
    with pytest.raises(subprocess.TimeoutExpired):
        workers[0].process.wait(LEASE_S + 3)
    thaw(redis_server)
    marks = narrate(client, chapter)
    check(chapter, marks, store)
    assert not any("quarantined" in worker.said() for worker in workers)


@pytest.mark.parametrize("redis_server", [("--appendonly", "yes")], indirect=True, ids=["append-only"])
def test_a_chapter_survives_a_restart_of_redis(
    client: Client, start_worker: StartWorker, store: Store, redis_server: RedisServer, db: redis.Redis
) -> None:
    start_worker()
    chapter = place(client, store, "restarted", book_of(30), voice=LIVE)
    until(lambda: marked(db, "restarted") >= 4, "progress of the chapter")
    redis_server.stop()
    redis_server.start()
    check(chapter, narrate(client, chapter), store)


def test_a_segment_queue_that_redis_lost_is_rebuilt(
    client: Client, start_worker: StartWorker, store: Store, db: redis.Redis
) -> None:
    start_worker()
    chapter = place(client, store, "lost", book_of(20), voice=LIVE)
    until(lambda: marked(db, "lost") >= 4, "progress of the chapter")
    db.delete(keys.pool("lost"), keys.unspoken("lost"), keys.results("lost"))
    check(chapter, narrate(client, chapter), store)
