"""The chapters that this process may speak, in order: its own, then those of other workers, the oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.support.segments import ANY_TIME, chapter_of, start_chapter
from voxspool.protocol import keys
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.narration.running_chapters import RunningChapter, RunningChapters
from voxspool_worker.narration.segment_queue import SegmentScripts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.store.segments import Store
    from voxspool_worker.narration.store_handle import StoreHandle


class Jobs:
    """The arguments of jobs by their id, and a list of the requested ids."""

    def __init__(self) -> None:
        self.arguments: dict[str, object] = {}
        self.read: list[str] = []

    def argument_of(self, job: str) -> object:
        self.read.append(job)
        return self.arguments[job]


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def chapters(db: redis.Redis, store_handle: StoreHandle, jobs: Jobs) -> RunningChapters:
    return RunningChapters(ToneEngine(), SegmentScripts(db), store_handle, jobs.argument_of)


def others(db: redis.Redis, jobs: Jobs, store: str, *names: str) -> None:
    """Start chapters of other workers, one after another."""
    for began, name in enumerate(names, 1):
        spec = chapter_of(name, [f"Chapter {name}."], store)
        jobs.arguments[name] = spec.encode()
        start_chapter(db, spec, begun=began)


def names_of(chapters: Iterable[RunningChapter]) -> list[str]:
    return [chapter.job for chapter in chapters]


def test_own_chapters_come_first_and_then_those_of_others_in_the_order_of_their_age(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, store.id, "old", "young")
    for name in ("own-2", "own-1"):
        chapters.add(start_chapter(db, chapter_of(name, ["One."]), begun=0))
    assert names_of(chapters.in_order()) == ["own-2", "own-1", "old", "young"]
    assert jobs.read == ["old", "young"], "the worker's own chapters are planned already"


def test_redis_is_read_only_after_the_own_chapters(db: redis.Redis, chapters: RunningChapters) -> None:
    own = start_chapter(db, chapter_of("own", ["One."]))
    chapters.add(own)
    db.delete(keys.narrating("tone"))
    db.set(keys.narrating("tone"), "not a sorted set")
    order = chapters.in_order()
    assert next(order) is own
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        next(order)


def test_the_chapter_of_another_worker_has_the_same_plan_as_its_owners(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, store.id, "other")
    (found,) = chapters.in_order()
    assert db.hget(keys.pool("other"), "plan") == found.plan.digest.encode()
    claim: Any = found.segment_queue.claim("me", expired_by=ANY_TIME, alone=True)
    assert claim.index == 0


def test_a_chapter_is_planned_once_while_it_runs_and_forgotten_when_it_is_over(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, store.id, "other")
    (first,) = chapters.in_order()
    (second,) = chapters.in_order()
    assert first is second
    assert jobs.read == ["other"]
    db.delete(keys.narrating("tone"))
    assert names_of(chapters.in_order()) == []
    others(db, jobs, store.id, "other")
    assert names_of(chapters.in_order()) == ["other"]
    assert jobs.read == ["other", "other"]


def test_a_chapter_that_was_removed_is_not_spoken_and_a_newer_run_of_its_job_stays(
    db: redis.Redis, chapters: RunningChapters
) -> None:
    first = start_chapter(db, chapter_of("own", ["One."]))
    second = start_chapter(db, chapter_of("own", ["One."]))
    db.delete(keys.narrating("tone"))
    chapters.add(first)
    chapters.add(second)
    chapters.remove(first)
    assert list(chapters.in_order()) == [second]
    chapters.remove(second)
    assert list(chapters.in_order()) == []


def test_an_excluded_chapter_is_not_yielded_again_while_it_runs(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, store.id, "one", "two")
    one, _ = chapters.in_order()
    chapters.exclude(one)
    assert names_of(chapters.in_order()) == ["two"]


def test_a_chapter_of_another_store_is_left_to_others(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, "f" * 32, "elsewhere")
    others(db, jobs, store.id, "here")
    assert names_of(chapters.in_order()) == ["here"]


@pytest.mark.parametrize("argument", [None, "text", {}, {"passages": []}], ids=repr)
def test_a_job_that_is_not_a_chapter_is_skipped(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store, argument: object
) -> None:
    others(db, jobs, store.id, "broken", "good")
    jobs.arguments["broken"] = argument
    assert names_of(chapters.in_order()) == ["good"]


def test_a_chapter_in_a_voice_that_this_worker_lacks_is_skipped(
    db: redis.Redis, chapters: RunningChapters, jobs: Jobs, store: Store
) -> None:
    others(db, jobs, store.id, "foreign")
    jobs.arguments["foreign"] = chapter_of("foreign", ["One."], store.id).encode() | {"voice": "nobody"}
    assert names_of(chapters.in_order()) == []
