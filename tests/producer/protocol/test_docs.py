"""docs/protocol.md describes all parts of the protocol, and its examples are valid."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from voxspool import errors
from voxspool.audio import voice_clips
from voxspool.protocol import VERSION, jobs, keys
from voxspool.protocol.jobs import (
    DEFAULT_KEEP_S,
    ENGINES,
    MAX_KEEP_S,
    MAX_SEED,
    MAX_SPEED,
    MAX_TEXT_CHARS,
    MIN_SPEED,
    PRIORITIES,
    TASK,
    JobSpec,
    all_queue_names,
)
from voxspool.protocol.stream import STATES, Audio, Begin, Cancelled, End, EntryId, Failed, Mark, decode, encode_data
from voxspool.protocol.voices import LANGUAGES, MAX_PARTS, MAX_WEIGHT_DIGITS, ClonedVoice

DOCS = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text(encoding="utf-8")
TYPES = (Begin, Audio, Mark, End, Failed, Cancelled)
ENTRY = re.compile(r"^(\d+-\d+) +(\w+) +(\d+) +(<\d+ bytes>|\{.*\})$", re.MULTILINE)


def section(title: str) -> str:
    """Return a section's text, without the sections below it."""
    return re.split(r"^#+ ", DOCS.split(f"\n## {title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def row(text: str, name: str) -> list[str]:
    """Return the cells of the table row that begins with a name."""
    (found,) = re.findall(rf"^\| `{name}` \|(.*)\|$", text, re.MULTILINE)
    return [cell.strip() for cell in found.split("|")]


def test_the_examples_of_all_six_entries_decode() -> None:
    examples = ENTRY.findall(DOCS)
    decoded = []
    for entry_id, kind, pos, data in examples:
        raw = bytes(int(data[1:].split()[0])) if data.startswith("<") else data.encode()
        entry = decode({b"type": kind.encode(), b"pos": pos.encode(), b"data": raw})
        assert EntryId.parse(entry_id).seq > 0
        assert encode_data(entry) == raw, "the example has the bytes that a worker writes"
        decoded.append(type(entry))
    assert sorted(decoded, key=TYPES.index) == list(TYPES)


def test_the_examples_of_a_job_decode() -> None:
    (spec,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL))
    assert JobSpec.decode(spec).encode() == spec, "the example has every field"

    (call,) = (json.loads(line) for line in re.findall(r"^ *'(\[.*\])'$", DOCS, re.MULTILINE))
    function, instance, arguments, named = call
    assert (function, instance, named) == (TASK, None, {})
    (argument,) = arguments
    assert JobSpec.decode(argument) == JobSpec("Good morning.", id="my-1")


def test_the_documented_time_limit_is_that_of_the_job() -> None:
    timeout_s, keep_s = re.findall(r" timeout (\d+) result_ttl (\d+) ", section("Enqueue"))[0]
    assert (int(timeout_s), int(keep_s)) == (JobSpec("Good morning.").timeout_s, DEFAULT_KEEP_S)


@pytest.mark.parametrize("field", dataclasses.fields(JobSpec), ids=lambda field: field.name)
def test_every_field_of_a_job_is_documented_with_its_default(field: dataclasses.Field[object]) -> None:
    default = row(section("JobSpec"), field.name)[1]
    if field.name in ("text", "id"):
        assert default == "required", "JobSpec.decode refuses a job without it"
    else:
        assert json.loads(default.strip("`")) == field.default


def test_the_limits_of_a_job_are_documented() -> None:
    text = section("JobSpec")
    assert f"{MAX_TEXT_CHARS:,}" in row(text, "text")[2]
    assert f"0 to {MAX_SEED};" in row(text, "seed")[2]
    assert f"{MIN_SPEED} to {MAX_SPEED}" in row(text, "speed")[2]
    assert f"1 to {MAX_KEEP_S} " in row(text, "keep_s")[2]
    assert f"{jobs.MIN_LIVE_S} to {jobs.MAX_LIVE_S}:" in row(text, "live_s")[2]
    assert f"{jobs.MIN_WINDOW_S} to {jobs.MAX_WINDOW_S}:" in row(text, "window_s")[2]
    assert f"live for {jobs.WINDOW_LIVE_S} s" in row(text, "window_s")[2]
    assert f"{jobs.AUDIO_BASE_S} s + {jobs.AUDIO_PER_CHAR_S:g} s for each character" in text
    assert all(f"`{engine}`" in row(text, "engine")[2] for engine in ENGINES)
    assert all(f"`{priority}`" in row(text, "priority")[2] for priority in PRIORITIES)
    assert row(text, "version")[2] == str(VERSION)


def test_every_queue_is_documented() -> None:
    assert all(f"`{name}`" in section("Queues") for name in all_queue_names())


def test_every_key_is_documented() -> None:
    text = section("Keys")
    functions = {
        keys.audio: "<job>",
        keys.control: "<job>",
        keys.acknowledged: "<job>",
        keys.pool: "<job>",
        keys.unspoken: "<job>",
        keys.results: "<job>",
        keys.narrating: "<engine>",
        keys.narration: "<narration>",
        keys.worker: "<name>",
        keys.clips: "<name>",
        keys.conditioning: "<key>",
        keys.conditioning_lock: "<key>",
    }
    public = {value for name, value in vars(keys).items() if callable(value) and not name.startswith("_")}
    assert public == {*functions, keys.fruitless}, "a new key belongs in docs/protocol.md"
    fruitless = keys.fruitless("<host>", "<engine>")
    names = [key(argument) for key, argument in functions.items()]
    for name in (*names, fruitless, keys.WORKERS, keys.VOICES, keys.PAUSED, keys.OPEN):
        assert f"\n| `{name}` |" in text
    for ttl_s in (
        keys.WORKER_TTL_S,
        keys.CONDITIONING_TTL_S,
        keys.CONDITIONING_LOCK_TTL_S,
        keys.ACKNOWLEDGED_TTL_S,
        keys.POOL_TTL_S,
    ):
        assert f"| {ttl_s} s " in text


def test_the_example_of_a_cloned_voice_is_valid_and_has_every_field() -> None:
    (about,) = re.findall(r"^about='(.*)'$", section("Voices"), re.MULTILINE)
    described = about.replace("'$clip'", "0" * 64)
    voice = ClonedVoice.decode("alice", described.encode())
    assert set(json.loads(voice.encode())) == set(json.loads(described))
    (clip,) = json.loads(voice.encode())["clips"]
    assert all(f"`{field}`" in row(section("Voices"), "clips")[0] for field in clip)
    assert all(f"`{language}`" in row(section("Voices"), "languages")[0] for language in LANGUAGES)


def test_the_limits_of_a_cloned_voice_are_documented() -> None:
    text = section("Voices")
    assert f"Up to {MAX_PARTS} parts; a weight has up to {MAX_WEIGHT_DIGITS} digits" in text
    assert f"at most {voice_clips.MOST_CLIP_S:g} s each, {voice_clips.MOST_TOTAL_S:g} s in all" in text
    assert f"less than {voice_clips.LEAST_SOUND_S:g} s of sound" in text


@pytest.mark.parametrize("entry", TYPES, ids=lambda entry: entry.type)
def test_every_entry_and_each_of_its_fields_is_documented(entry: type) -> None:
    pos, data = row(section("Entries"), entry.type)
    assert pos
    fields = set(entry.__slots__) - {"pos", "pcm"} | ({"protocol", "channels", "format"} if entry is Begin else set())
    assert all(f"`{field}`" in data for field in fields)


def test_every_state_is_documented() -> None:
    assert all(f"`{state}`" in row(section("State"), "state")[0] for state in (*STATES.values(), "running"))


def test_the_codes_of_refused_jobs_are_documented() -> None:
    refusals = (
        errors.InvalidJobError,
        errors.UnknownEngineError,
        errors.UnknownVoiceError,
        errors.UnknownLanguageError,
    )
    assert all(f"`{error.code}`" in section("Entries") for error in refusals)
    assert all(f"`{code}`" in section("Entries") for code in ("timeout", "too-long", "poison", "engine", "internal"))


def test_links_have_targets() -> None:
    folder = Path(__file__).parents[3] / "docs"
    for target in re.findall(r"\]\((\.\./[^)]+)\)", DOCS):
        assert (folder / target).exists()
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", DOCS, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", DOCS)) <= headings
