"""Cards of workers that no worker wrote: each is skipped and named, and hides no other."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.exceptions import NoPermissionError, ResponseError
from rich.console import Console

from voxspool.cli.jobs import _show_workers
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec
from voxspool.queue import admission
from voxspool.queue.admission import Pressure
from voxspool.queue.routing import route
from voxspool.workers import MAX_CARD_BYTES, read_cards

if TYPE_CHECKING:
    from voxspool.workers import WorkerCard

CARD: dict[str, Any] = {
    "engine": "tone", "model": "m", "device": "cpu", "sample_rate": 24_000, "voices": {"sine": ["en"], "any": []},
    "queues": "voxspool-tone-interactive,voxspool-tone-batch", "jobs": 8, "running": 1, "rows": 8, "rows_in_use": 0,
    "host": "h", "pid": 7, "fallback_from": "", "clones": 0, "jobs_ended": 3, "jobs_failed": 1, "spoken_again": 0,
    "voice_hit_rate": 0.5, "first_chunk_s": 0.1, "real_time_factor": 0.2, "jobs_per_minute": 9.5, "speech_rate": 5.1,
    "store": "",
}  # fmt: skip
"""A card; the voices are decoded JSON."""


def stored(card: dict[Any, Any]) -> dict[bytes, bytes]:
    """Return a card as Redis returns its hash."""
    return {encoded(name): encoded(value) for name, value in card.items()}


def encoded(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    text = json.dumps(value) if isinstance(value, dict | list | bool) or value is None else str(value)
    return text.encode(errors="surrogatepass")


def test_a_card_is_read() -> None:
    found = read_cards(["w"], [stored(CARD)])
    (card,) = found.live
    assert (card.engine, card.voices, card.jobs, card.speech_rate) == ("tone", {"sine": ["en"], "any": []}, 8, 5.1)
    assert found.spoilt == []


def test_the_card_of_an_older_worker_is_read_and_an_expired_one_is_no_fault() -> None:
    later = ("jobs_ended", "jobs_failed", "spoken_again", "voice_hit_rate", "speech_rate", "store", "clones")
    old = {name: value for name, value in CARD.items() if name not in later}
    found = read_cards(["old", "gone"], [stored(old), {}])
    assert [card.name for card in found.live] == ["old"]
    assert found.spoilt == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"voices": "{"}, "Expecting"), ({"voices": [1]}, "voices"), ({"voices": {"a": 1}}, "voices"),
        ({"voices": {"a": [1]}}, "voices"), ({"voices": "[" * 100_000}, "recursion"), ({"jobs": "many"}, "many"),
        ({"jobs": -1}, "-1"), ({"jobs": "9" * 18}, "jobs is larger"), ({"sample_rate": "9" * 5000}, "digits"),
        ({"host": b"\xff"}, "utf-8"), ({"engine": "Two Words"}, "engine"), ({"speech_rate": "nan"}, "nan"),
        ({"speech_rate": "1e400"}, "1e400"), ({"jobs_per_minute": "1e-320"}, "1e-320"), ({"first_chunk_s": -1}, "-1"),
        ({"model": "x" * MAX_CARD_BYTES}, "bytes"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_a_malformed_card_is_skipped_and_named_in_one_line(changed: dict[str, object], said: str) -> None:
    found = read_cards(["good", "bad"], [stored(CARD), stored(CARD | changed)])
    assert [card.name for card in found.live] == ["good"]
    (sentence,) = found.spoilt
    assert keys.worker("bad") in sentence
    assert said in sentence
    assert len(sentence) < 300
    assert "\n" not in sentence


@pytest.mark.parametrize("name", ["engine", "voices", "queues", "jobs", "host", "pid", "sample_rate"])
def test_a_card_without_a_field_is_skipped_and_named(name: str) -> None:
    found = read_cards(["w"], [stored({field: value for field, value in CARD.items() if field != name})])
    assert (found.live, name in found.spoilt[0]) == ([], True)


def test_a_card_of_another_type_is_skipped_and_any_other_error_is_raised() -> None:
    wrong = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    found = read_cards(["bad", "good"], [wrong, stored(CARD)])
    assert ([card.name for card in found.live], len(found.spoilt)) == (["good"], 1)
    with pytest.raises(NoPermissionError):
        read_cards(["w"], [NoPermissionError("no")])


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
EXTREMES = st.sampled_from(["nan", "inf", "-1", "1e-320", "1e308", "9" * 30, "", "\0", "\x1b[2J", "٣", " 7", "0x7"])
JSON = st.recursive(
    SCALARS | EXTREMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:  # noqa: ANN401 - JSON
    """Return the path of each value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, one in inner for place in places(one, (*path, name)))]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Return the card after some of its JSON values were replaced, removed or added."""
    card = copy.deepcopy(CARD)
    for _ in range(draw(st.integers(1, 4))):
        *path, name = draw(st.sampled_from([place for place in places(card) if place]))
        holder: Any = card
        for step in path:
            holder = holder[step]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del holder[name]
        elif change == "add" and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(JSON)
        else:
            holder[name] = draw(JSON)
        if not card:
            break
    return card


@settings(max_examples=1000, derandomize=True, database=None)
@given(mutated())
def test_any_mutation_of_a_card_is_used_everywhere_or_skipped_and_named(card: dict[str, Any]) -> None:
    found = read_cards(["good", "mutated"], [stored(CARD), stored(card)])
    assert len(found.live) + len(found.spoilt) == (2 if card else 1)
    assert found.live[0].name == "good"
    use(found.live)


def use(cards: list[WorkerCard]) -> None:
    """Do with the cards what enqueueing, `status` and `voices` do."""
    for spec in (JobSpec("Hello."), JobSpec("Hello.", voice="sine", language="en"), JobSpec("x", voice="a+b")):
        route(spec, cards)
        for card in cards:
            card.could_speak(spec)
    for pressure in (Pressure(1, 0, 0.0, 10**9), Pressure(9, 10, 1.0, 0)):
        admission.turned_away(pressure, "interactive", cards)
    json.dumps([dataclasses.asdict(card) for card in cards])
    _show_workers(Console(quiet=True), cards)
