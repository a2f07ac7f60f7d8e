"""Estimate a narration before anything is spoken: its length, the time that the live workers need, its files.

Pure functions: characters and cards in, figures out. For plain English prose the error is about a tenth; digits,
names that take long to say, and other languages may make it a fifth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from voxspool.protocol.jobs import AUTO, queue_name
from voxspool.protocol.pace import chars_per_s
from voxspool.protocol.stream import SAMPLE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voxspool.speeds import Measured
    from voxspool.workers import WorkerCard

USUAL_RATE_HZ: Final = 24_000
"""The sample rate where no live worker says one: XTTS's."""
FLAC_SHARE: Final = 0.46
"""Of the samples' bytes: what libsndfile's FLAC left of five minutes of Piper's speech."""
BYTES_PER_S: Final = {"mp3": 6_750, "opus": 4_500, "m4b": 8_000}
"""MP3 and Opus as libsndfile writes them by itself, measured on the same five minutes (54 and 36 kbit/s); M4B at the 64
kbit/s that audiobooks usually have."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a book will come to."""

    audio_s: float
    """Its length, in seconds."""
    work_s: float | None
    """How long the workers take that are alive now, or this machine where none is, if they do nothing else and nothing
    is in the store yet; None where that is not known."""
    why: str
    """What the time goes by, or why there is none, for people."""
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
    here: Measured | None = None,
) -> Estimate:
    """Estimate a book by its chapters' characters, and the pauses that are certain.

    A language that is not known here is taken as English. `here` is how fast this machine speaks: it is used where no
    live worker takes books.
    """
    audio_s = sum(characters) / chars_per_s(language, engine) / speed + pauses_s
    serving = [card for card in cards if queue_name(engine, "batch") in card.queues]
    able = [card for card in serving if card.store == store_id]
    rates = [rate for card in able if (rate := _speech_rate(card))]
    why = _why(engine, serving, able, rates)
    if not serving:
        rates, why = ([here.speech_rate] if here else []), f"{why}; {_how_fast_here(engine, here)}"
    work_s = (audio_s - pauses_s) / sum(rates) if rates else None
    return Estimate(audio_s, work_s, why, _files_bytes(audio_s, able))


def _speech_rate(card: WorkerCard) -> float | None:
    """Return the seconds of audio that a worker makes in a second; None where its card says none that can be."""
    rate = card.speech_rate
    return rate if rate is not None and 0 < rate < math.inf else None


def _why(engine: str, serving: list[WorkerCard], able: list[WorkerCard], rates: list[float]) -> str:
    """Return what the estimated time is based on, or why there is none."""
    if not serving:
        return "no live worker takes books" + ("" if engine == AUTO else f" for {engine}")
    if not able:
        return f"{_workers(len(serving))} of {engine}, and none has this segment store"
    if not rates:
        return f"{_workers(len(able))} of {engine}, and none has said yet how fast it speaks"
    others = len(able) - len(rates)
    more = f"; {others} more, and how fast is not known yet" if others else ""
    return f"{_workers(len(rates))} of {engine}, {sum(rates):.3g} s of audio a second in all{more}"


def _how_fast_here(engine: str, here: Measured | None) -> str:
    """Write how fast this machine speaks, or how to find that out."""
    if here is None:
        option = "" if engine == AUTO else f" --engine {engine}"
        return f"measure this machine with `voxspool-worker check --bench{option}`, or start a worker, and plan again"
    return f"on this machine {here.speech_rate:.3g} s of audio a second, measured on {here.day}"


def _workers(number: int) -> str:
    return "1 live worker" if number == 1 else f"{number} live workers"


def _files_bytes(audio_s: float, able: list[WorkerCard]) -> dict[str, int]:
    """Return the size of the files of each format."""
    rate_hz = max((card.sample_rate for card in able), default=USUAL_RATE_HZ)
    pcm_bytes = audio_s * rate_hz * SAMPLE_BYTES
    sizes = {"flac": pcm_bytes * FLAC_SHARE, "wav": pcm_bytes}
    sizes |= {name: audio_s * rate_bytes for name, rate_bytes in BYTES_PER_S.items()}
    return {name: round(size) for name, size in sizes.items()}
