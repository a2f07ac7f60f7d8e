"""Which workers count as live when a job fails without another one: cards that are missing are waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.queued_jobs import remove_card, write_card
from voxspool_worker.speech.live_workers import CARD_WAIT_S, live_workers

if TYPE_CHECKING:
    import redis


def engines(db: redis.Redis, *, comes_back: str = "") -> tuple[list[str], list[float]]:
    """Return the engines of live workers, and the waits. During a wait the card of one engine is renewed."""
    waits: list[float] = []

    def wait(wait_s: float) -> None:
        waits.append(wait_s)
        if comes_back:
            write_card(db, comes_back, {})

    return [card.engine for card in live_workers(db, wait)], waits


def test_without_a_missing_card_nobody_waits(db: redis.Redis) -> None:
    assert engines(db) == ([], [])
    for engine in ("piper", "tone"):
        write_card(db, engine, {})
    assert engines(db) == (["piper", "tone"], [])


def test_a_worker_whose_card_expired_in_a_jump_of_the_clock_is_live_after_its_next_beat(db: redis.Redis) -> None:
    for engine in ("piper", "tone"):
        write_card(db, engine, {})
    remove_card(db, "piper")
    assert engines(db, comes_back="piper") == (["piper", "tone"], [CARD_WAIT_S])


def test_a_dead_worker_is_waited_for_once(db: redis.Redis) -> None:
    write_card(db, "piper", {})
    remove_card(db, "piper")
    assert engines(db) == ([], [CARD_WAIT_S])
