"""The entries of speeches, as a worker publishes them, and recordings of them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import soundfile as sf
from hypothesis import strategies as st

from voxspool.audio.recorder import Recorder
from voxspool.protocol.stream import Audio, Begin, End, Entry, Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


def begin(pos: int = 0, rate_hz: int = 24_000) -> Begin:
    return Begin(pos, rate_hz, "tone", "tone", "a", "en", 0)


def mark(pos: int, end_pos: int) -> Mark:
    return Mark(pos, end_pos, 0, 0, 1, 0)


def end(pos: int) -> End:
    return End(pos, pos / 24_000, 1, None, None)


def pcm(samples: np.ndarray) -> bytes:
    return samples.astype("<i2").tobytes()


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    swell = np.sin(np.pi * t / seconds)  # loud in the middle: a wrong length moves the peak
    return (12_000 * swell * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


def noise(seconds: float, rate_hz: int = 24_000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 6_000, int(seconds * rate_hz)).clip(-30_000, 30_000).astype(np.int16)


def speech(samples: np.ndarray, rate_hz: int = 24_000, segment: int = 24_000) -> Iterator[Entry]:
    """Yield the entries of a stream with one attempt. Each segment has two chunks."""
    yield begin(rate_hz=rate_hz)
    for start in range(0, len(samples), segment):
        part = samples[start : start + segment]
        half = len(part) // 2
        yield Audio(start, pcm(part[:half]))
        yield Audio(start + half, pcm(part[half:]))
        yield mark(start, start + len(part))
    yield end(len(samples))


def record(path: Path, entries: Iterable[Entry]) -> Recorder:
    with Recorder(path) as recorder:
        for entry in entries:
            recorder.add(entry)
    return recorder


def heard(path: Path) -> tuple[np.ndarray, int]:
    samples, rate_hz = sf.read(path, dtype="int16")
    return samples, rate_hz


def chunks(data: st.DataObject, start: int, samples: np.ndarray) -> list[Entry]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(samples)), max_size=3)) | {0, len(samples)})
    return [Audio(start + a, pcm(samples[a:b])) for a, b in pairwise(cuts)]


def broken_stream(data: st.DataObject, signal_: np.ndarray, *, same_again: bool) -> Iterator[Entry]:
    """Yield the entries of a stream with several attempts.

    Unless `same_again`, an attempt that breaks off has other samples than the attempt that completes the segment.
    """
    borders = sorted(data.draw(st.sets(st.integers(0, len(signal_)), max_size=4)) | {0, len(signal_)})
    yield begin()
    for start, stop in pairwise(borders):
        segment = signal_[start:stop]
        for _ in range(data.draw(st.integers(0, 2), label="crashes")):
            said = chunks(data, start, segment if same_again else ~segment)
            yield from said[: data.draw(st.integers(0, len(said)), label="entries before the crash")]
            yield begin(start)
        yield from chunks(data, start, segment)
        yield mark(start, stop)
    yield end(len(signal_))


signals = st.binary(max_size=400).map(lambda raw: np.frombuffer(raw[: len(raw) // 2 * 2], "<i2"))
