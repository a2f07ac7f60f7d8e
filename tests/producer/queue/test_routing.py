"""The routing table, compared with its documentation, and properties that hold for any job and any workers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.protocol.jobs import AUTO, ENGINES, PRIORITIES, JobSpec, Priority, queue_name, queue_names
from voxspool.queue.routing import SHORT_CHARS, TABLE, Route, route
from voxspool.workers import LAST, WorkerCard, is_mix

DOCS = (Path(__file__).parents[3] / "docs" / "routing.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| (.*) \| .* \| `(\{.*\})` with (?:nobody|`(.*)`) \| `(\w+)` \|$", DOCS, re.MULTILINE)
VOICES: dict[str, dict[str, list[str]]] = json.loads(re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)[0])

VOICE_NAMES = ("joe", "ana", "sine", "anna(2)+bert(1)", "clara")
LANGUAGES = ("en", "en-us", "de", "pl")


def card(engine: str, voices: dict[str, list[str]] | None = None, *, stopping: bool = False) -> WorkerCard:
    return WorkerCard(
        name=f"{engine}-worker", engine=engine, model="m", device="cpu", sample_rate=24_000,
        voices=VOICES[engine] if voices is None else voices, queues=[] if stopping else queue_names(engine),
        jobs=8, running=0, rows=8, rows_in_use=0, host="h", pid=1,
    )  # fmt: skip


Voices = st.dictionaries(st.sampled_from(VOICE_NAMES[:3]), st.lists(st.sampled_from(LANGUAGES), max_size=2), min_size=1)
OTHERS = ("able", "xtts-2")
"""Engines of other distributions; their names come before and after ours."""
Cards = st.lists(st.builds(card, st.sampled_from((*ENGINES, *OTHERS)), Voices, stopping=st.booleans()), max_size=5)
Jobs = st.builds(
    JobSpec,
    st.sampled_from(["Hello.", "x" * SHORT_CHARS, "x" * (SHORT_CHARS + 1)]),
    voice=st.none() | st.sampled_from(VOICE_NAMES),
    language=st.none() | st.sampled_from(LANGUAGES),
    priority=st.sampled_from(PRIORITIES),
)


# The table


def test_the_documented_table_is_the_table() -> None:
    assert [(int(number), when) for number, when, *_ in ROWS] == list(enumerate((rule.when for rule in TABLE), 1))


@pytest.mark.parametrize(("number", "when", "job", "workers", "engine"), ROWS, ids=[row[1] for row in ROWS])
def test_each_documented_example_is_routed_as_documented(
    number: str, when: str, job: str, workers: str, engine: str
) -> None:
    options: dict[str, Any] = json.loads(job)
    cards = [card(name) for name in workers.split()]
    assert route(JobSpec("Hello.", **options), cards) == Route(engine, when), number


@pytest.mark.parametrize(
    ("characters", "priority", "engine"),
    [
        (SHORT_CHARS, "interactive", "piper"),
        (SHORT_CHARS + 1, "interactive", "xtts"),
        (1, "batch", "xtts"),
    ],
)
def test_short_interactive_texts_go_to_piper_and_others_to_xtts(
    characters: int,
    priority: Priority,
    engine: str,
) -> None:
    job = JobSpec("x" * characters, priority=priority)
    assert route(job, [card("xtts"), card("piper")]).engine == engine


@pytest.mark.parametrize("engines", [("piper", "tone"), ("xtts", "tone")])
def test_tone_is_left_out_beside_an_engine_that_can_speak(engines: tuple[str, str]) -> None:
    for job in (JobSpec("Hello."), JobSpec("x" * 999), JobSpec("Hello.", language="de")):
        assert route(job, map(card, engines)).engine == engines[0]


@pytest.mark.parametrize(
    ("engines", "short", "long"),
    [
        (("piper", "able"), "piper", "piper"),
        (("xtts", "able"), "xtts", "xtts"),
        (("able", "xtts-2"), "able", "able"),
        (("piper", "xtts", "able"), "piper", "xtts"),
        (("tone", "able"), "able", "able"),
    ],
)
def test_an_engine_of_another_distribution_comes_after_ours(engines: tuple[str, ...], short: str, long: str) -> None:
    cards = [card(name, {"joe": ["en"]}) for name in engines]
    assert route(JobSpec("Hello."), cards).engine == short
    assert route(JobSpec("Hello.", priority="batch"), cards).engine == long


def test_a_job_that_only_another_distributions_engine_can_speak_goes_to_it() -> None:
    cards = [card("able", {"lena": ["is"]}), card("piper"), card("xtts")]
    assert route(JobSpec("Hello.", voice="lena"), cards).engine == "able"
    assert route(JobSpec("Hello.", language="is"), cards).engine == "able"


def test_tones_own_voice_goes_to_tone() -> None:
    assert route(JobSpec("Hello.", voice="sine"), map(card, ENGINES)).engine == "tone"


def test_a_cloned_voice_goes_to_xtts_even_if_no_card_lists_it() -> None:
    job = JobSpec("Hello.", voice="clara")
    for engines in ((), ("piper",), ("piper", "xtts")):
        assert route(job, map(card, engines), cloned={"clara"}).engine == "xtts"
    assert route(job, [card("piper"), card("xtts")]).engine == AUTO


def test_a_name_like_a_mix_goes_to_the_worker_that_lists_it() -> None:
    piper = card("piper", {"anna(2)+bert(1)": []})
    job = JobSpec("Hello.", voice="anna(2)+bert(1)")
    assert route(job, [piper, card("xtts", {"ana": []})], cloned={"anna(2)+bert(1)"}).engine == "piper"
    assert route(job, [piper], cloned={"anna(2)+bert(1)"}).engine == AUTO


def test_a_worker_that_takes_no_more_jobs_is_ignored() -> None:
    leaving = card("xtts", stopping=True)
    assert route(JobSpec("x" * 999), [leaving, card("piper"), card("tone")]).engine == "piper"
    assert route(JobSpec("x" * 999), [leaving]).why == "no worker is live"


def test_a_job_in_a_language_that_no_worker_speaks_goes_to_the_engine_of_its_voice() -> None:
    job = JobSpec("Hello.", voice="joe", language="ja")
    assert route(job, [card("piper"), card("xtts")]).engine == "piper"


@pytest.mark.parametrize("name", ["a(2)+b(1)", "Ana Florence(0.5)+joe", "a+b", "joe(1)"])
def test_a_mix_is_recognised_by_its_form(name: str) -> None:
    assert is_mix(name)


@pytest.mark.parametrize("name", ["joe", "en_US-joe-medium", "en_GB-vctk-medium#p225", "Ana Florence", "anna (old)"])
def test_a_plain_name_is_not_a_mix(name: str) -> None:
    assert not is_mix(name)


# Properties for any job and any workers


@given(Jobs, Cards)
def test_a_job_goes_where_a_live_worker_can_speak_it_if_there_is_one(job: JobSpec, cards: list[WorkerCard]) -> None:
    queue = queue_name(route(job, cards).engine, job.priority)
    if any(one.could_speak(job) for one in cards):
        assert any(one.could_speak(job) for one in cards if queue in one.queues)


@given(Jobs, Cards)
def test_a_job_goes_only_to_an_engine_that_can_speak_it_if_there_is_one(job: JobSpec, cards: list[WorkerCard]) -> None:
    engine = route(job, cards).engine
    able = {one.engine for one in cards if one.could_speak(job)}
    assert not able or engine in able | {AUTO}
    if engine == LAST:
        assert able <= {LAST}


@given(Jobs, Cards, st.randoms(use_true_random=False))
def test_the_order_of_the_cards_does_not_matter(job: JobSpec, cards: list[WorkerCard], chance: Any) -> None:  # noqa: ANN401 - random.Random
    shuffled = chance.sample(cards, len(cards))
    assert route(job, shuffled) == route(job, cards)


@given(Jobs, Cards, st.sampled_from(ENGINES))
def test_an_engine_that_is_named_is_used(job: JobSpec, cards: list[WorkerCard], engine: str) -> None:
    named = JobSpec(job.text, voice=job.voice, language=job.language, priority=job.priority, engine=engine)
    assert route(named, cards).engine == engine
