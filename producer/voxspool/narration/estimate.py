"""Estimate a narration before it is spoken: the duration of its audio, the time that it takes, the size of its files.

Pure functions of the number of characters and what live workers say of themselves. For plain English prose the error is
about a tenth. Digits, long names and other languages may make it a fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voxspool.amounts import counted, real_time
from voxspool.protocol.jobs import AUTO, queue_name
from voxspool.protocol.pace import chars_per_s
from voxspool.protocol.stream import SAMPLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.speeds import StoredSpeed
    from voxspool.workers import WorkerCard

USUAL_RATE_HZ: Final = 24_000
"""The sample rate if no live worker states one, in Hz: that of XTTS."""
FLAC_SHARE: Final = 0.46
"""Size of a FLAC file relative to the samples, measured with libsndfile on five minutes of Piper's speech."""
BYTES_PER_S: Final = {"mp3": 6_750, "opus": 4_500, "m4b": 8_000}
"""Bytes for a second of audio. MP3 and Opus: libsndfile's default bit rates, measured on the same five minutes (54 and
36 kbit/s). M4B: the 64 kbit/s that it is written with."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The estimate of a narration."""

    audio_s: float
    """The duration of the audio, in seconds."""
    work_s: float | None
    """The time that the live workers need, or this machine if there are none, in seconds; None if it is not known.

    It assumes that they do nothing else, and that the store has none of the segments.
    """
    why: str
    """What the time is based on, or why it is not known, for people."""
    files_bytes: dict[str, int]
    """Format (flac, wav, mp3, opus, m4b) -> the size of all its files."""


def estimate(
    characters: Iterable[int],
    language: str | None,
    cards: Iterable[WorkerCard],
    engine: str,
    store_id: str,
    *,
    speed: float = 1.0,
    pauses_s: float = 0.0,
    here: StoredSpeed | None = None,
) -> Estimate:
    """Estimate the narration of chapters with these numbers of characters, at a speed, with `pauses_s` of pauses.

    A language whose pace is not known counts as English. `here` is the measured speed of this machine; it is used if no
    live worker takes books.
    """
    audio_s = sum(characters) / chars_per_s(language, engine) / speed + pauses_s
    serving = [card for card in cards if queue_name(engine, "batch") in card.queues]
    able = [card for card in serving if card.store == store_id]
    rates = [rate for card in able if (rate := _speech_rate(card))]
    why = _why(engine, serving, able, rates)
    if not serving:
        rates, why = ([here.speech_rate] if here else []), f"{why}; {_speed_here(engine, here)}"
    work_s = (audio_s - pauses_s) / sum(rates) if rates else None
    return Estimate(audio_s, work_s, why, _files_bytes(audio_s, able))


def _speech_rate(card: WorkerCard) -> float | None:
    """Return the seconds of audio that a worker makes in a second; None if its card states no usable number."""
    rate = card.speech_rate
    return rate if rate is not None and 0 < rate < math.inf else None


def _why(engine: str, serving: list[WorkerCard], able: list[WorkerCard], rates: list[float]) -> str:
    """Return what the estimated time is based on, or why it is not known."""
    if not serving:
        return "no live worker takes books" + ("" if engine == AUTO else f" for {engine}")
    if not able:
        return f"{counted(len(serving), 'live worker')} of {engine}, but none with this segment store"
    if not rates:
        return f"{counted(len(able), 'live worker')} of {engine}, but none with a known speed yet"
    others = len(able) - len(rates)
    more = f"; {others} more with no known speed yet" if others else ""
    return f"{counted(len(rates), 'live worker')} of {engine}, together {real_time(sum(rates))}{more}"


def _speed_here(engine: str, here: StoredSpeed | None) -> str:
    """Return the speed of this machine, or how to measure it."""
    if here is None:
        option = "" if engine == AUTO else f" --engine {engine}"
        return f"measure this machine with `voxspool-worker check --bench{option}`, or start a worker, and plan again"
    return f"on this machine {real_time(here.speech_rate)}, measured on {here.day}"


def _files_bytes(audio_s: float, able: list[WorkerCard]) -> dict[str, int]:
    """Return the size of all files of each format."""
    rate_hz = max((card.sample_rate for card in able), default=USUAL_RATE_HZ)
    pcm_bytes = audio_s * rate_hz * SAMPLE_BYTES
    sizes = {"flac": pcm_bytes * FLAC_SHARE, "wav": pcm_bytes}
    sizes |= {name: audio_s * rate_bytes for name, rate_bytes in BYTES_PER_S.items()}
    return {name: round(size) for name, size in sizes.items()}
