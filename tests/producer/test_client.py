"""The docstring of Client.enqueue describes the options of JobSpec. tests/system/test_speech.py enqueues."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

from voxspool import Client, JobSpec, SpeechOptions
from voxspool.client import LIVE_S
from voxspool.protocol import jobs

OPTIONS = [field.name for field in dataclasses.fields(JobSpec)]
DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(JobSpec)
    if field.default is not dataclasses.MISSING
}  # fmt: skip
LIMITS = {
    "text": (jobs.MAX_TEXT_CHARS,),
    "speed": (jobs.MIN_SPEED, jobs.MAX_SPEED),
    "seed": (0, jobs.MAX_SEED),
    "keep_s": (1, jobs.MAX_KEEP_S),
    "live_s": (jobs.MIN_LIVE_S, jobs.MAX_LIVE_S, jobs.WINDOW_LIVE_S),
    "window_s": (jobs.MIN_WINDOW_S, jobs.MAX_WINDOW_S),
}


def described() -> dict[str, str]:
    """Return the options in the docstring of Client.enqueue: name -> description."""
    doc = inspect.getdoc(Client.enqueue) or ""
    listed = re.search(r"^Args:\n(.*?)\n\n", doc, re.MULTILINE | re.DOTALL)
    assert listed
    entries = re.split(r"^ {4}(?=\w+: )", listed[1], flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in (entry.split(": ", 1) for entry in entries)}


def test_each_option_is_described_in_the_order_of_the_job() -> None:
    assert list(described()) == [*OPTIONS, "live"]


def test_the_options_are_those_of_the_signature() -> None:
    assert {"text", *inspect.get_annotations(SpeechOptions)} == {*OPTIONS, "live"}


def test_a_live_job_has_the_stated_time() -> None:
    assert f"`live_s` of {LIVE_S}" in described()["live"]


@pytest.mark.parametrize(("name", "default"), DEFAULTS.items())
def test_its_default_is_stated(name: str, default: object) -> None:
    said = described()[name].rpartition("Default: ")[2]
    number = isinstance(default, int) and not isinstance(default, bool)
    value = f"`{default}`" if isinstance(default, str) else f"{default:,}" if number else str(default)
    assert re.search(rf"(?<![\w.]){re.escape(value)}(?![\w])", said), said


@pytest.mark.parametrize(("name", "limits"), LIMITS.items())
def test_its_limits_are_stated_with_their_unit(name: str, limits: tuple[float, ...]) -> None:
    said = described()[name]
    for limit in limits:
        assert re.search(rf"(?<![\d,.]){limit:,}(?![\d])", said), limit
    assert not name.endswith("_s") or "seconds" in said


def test_the_length_of_an_id_and_of_a_voice_is_stated() -> None:
    assert JobSpec("", id="a" * 128)
    assert JobSpec("", voice="a" * 200)
    for wrong in ({"id": "a" * 129}, {"id": ""}, {"voice": "a" * 201}):
        with pytest.raises(jobs.InvalidJobError):
            JobSpec("", **wrong)
    assert "1 to 128 letters" in described()["id"]
    assert "at most 200 characters" in described()["voice"]


@pytest.mark.parametrize("priority", jobs.PRIORITIES)
def test_each_priority_is_named(priority: str) -> None:
    assert f"`{priority}`" in described()["priority"]
