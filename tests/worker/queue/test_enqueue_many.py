"""Many jobs in one call: pipelined, within the limit of a queue, waiting for room; and one that waits for room."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import until
from tests.support.queued_jobs import QUEUE, waiting
from voxspool import AsyncClient, BusyError, Client, InvalidJobError, JobExistsError, JobSpec, Settings
from voxspool.queue.enqueuer import BATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

MANY = 2 * BATCH + 1


def specs(count: int) -> list[JobSpec]:
    return [JobSpec(f"Text {number}.", id=f"n-{number}", engine="tone", priority="batch") for number in range(count)]


@pytest.fixture
def narrow(client: Client) -> Iterator[Client]:
    """A client that lets 10 jobs wait in a queue."""
    with Client(settings=Settings(redis_url=client.url, max_waiting=10)) as narrow:
        yield narrow


def test_many_texts_are_enqueued_in_order_in_few_round_trips(db: redis.Redis, client: Client) -> None:
    client.enqueue("First.", engine="tone", priority="batch")
    db.delete(f"rq:queue:{QUEUE}")
    before = db.info("stats")["total_reads_processed"]
    speeches = client.enqueue_many((f"Text {number}." for number in range(MANY)), engine="tone", priority="batch")
    assert db.info("stats")["total_reads_processed"] - before < MANY / 4
    assert waiting(db) == [speech.id for speech in speeches]
    assert [spec.text for spec in (speeches[0].spec(), speeches[-1].spec()) if spec] == ["Text 0.", f"Text {MANY - 1}."]


def test_no_text_is_no_job(client: Client) -> None:
    assert client.enqueue_many([]) == []


def test_asyncio_enqueues_many(db: redis.Redis, client: Client) -> None:
    async def enqueue() -> list[str]:
        async with AsyncClient(client.url) as speaker:
            return [one.id for one in await speaker.enqueue_many(["One.", "Two."], engine="tone", priority="batch")]

    assert asyncio.run(enqueue()) == waiting(db)


def test_an_id_for_many_texts_is_refused(client: Client) -> None:
    with pytest.raises(InvalidJobError, match="give JobSpecs to place_many"):
        client.enqueue_many(["One."], id="a")


def test_many_jobs_may_be_placed_again(db: redis.Redis, client: Client) -> None:
    client.place_many(specs(3))
    placed = client.place_many(specs(5))
    assert [one.why == "a job with this id exists already" for one in placed] == [True] * 3 + [False] * 2
    assert waiting(db) == [f"n-{number}" for number in range(5)]


def test_an_id_of_another_speech_is_refused_after_the_others_are_enqueued(db: redis.Redis, client: Client) -> None:
    client.enqueue("Another.", id="n-1", engine="tone", priority="batch")
    with pytest.raises(JobExistsError, match="'n-1'"):
        client.place_many(specs(3))
    assert waiting(db) == ["n-1", "n-0", "n-2"]


def test_the_limit_of_a_queue_is_kept_exactly_and_the_error_says_what_was_enqueued(
    db: redis.Redis, narrow: Client
) -> None:
    with pytest.raises(BusyError, match=r"10 jobs wait already.*; the first 10 are enqueued") as busy:
        narrow.place_many(specs(12))
    assert busy.value.enqueued == 10
    assert len(waiting(db)) == 10
    with pytest.raises(BusyError) as busy:
        narrow.enqueue("One more.", engine="tone", priority="batch")
    assert busy.value.enqueued == 0
    narrow.enqueue("Elsewhere.", engine="tone")


def test_a_producer_waits_for_room(db: redis.Redis, narrow: Client) -> None:
    placed: list[str] = []
    producer = threading.Thread(
        target=lambda: placed.extend(one.speech.id for one in narrow.place_many(specs(25), wait_s=60))
    )
    producer.start()
    taken: list[str] = []
    while len(taken) < 25:
        until(lambda: waiting(db), "the producer to enqueue more")
        assert len(waiting(db)) <= 10
        taken.append(db.lpop(f"rq:queue:{QUEUE}").decode())
    producer.join(20)
    assert taken == placed == [f"n-{number}" for number in range(25)]


def test_a_producer_that_waited_in_vain_gets_the_error(db: redis.Redis, narrow: Client) -> None:
    narrow.place_many(specs(10))
    with pytest.raises(BusyError):
        narrow.enqueue("One more.", engine="tone", priority="batch", wait_s=0.3)
    assert len(waiting(db)) == 10


def test_a_redis_that_fills_up_in_between_loses_nothing(db: redis.Redis, client: Client) -> None:
    client.place_many(specs(1))
    db.config_set("maxmemory", db.info("memory")["used_memory"] // 2)
    with pytest.raises(BusyError) as busy:
        client.place_many(specs(5))
    db.config_set("maxmemory", 0)
    assert busy.value.enqueued == 1, "the first exists already"
    assert waiting(db) == ["n-0"]
    client.place_many(specs(5))
    assert len(waiting(db)) == 5
