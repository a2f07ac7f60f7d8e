"""Generate audio that resembles speech, and chapters of it in a real segment store."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from voxspool.narration.track import Cue, Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxspool.store.segments import Store


def speech(seconds: float, rate_hz: int, *, rms: float = 0.05, seed: int = 1) -> np.ndarray:
    """Return syllables of coloured noise over a hum, with pauses; int16, shape (n,)."""
    rng = np.random.default_rng(seed)
    samples = int(seconds * rate_hz)
    t = np.arange(samples) / rate_hz
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t + rng.uniform(0, 6)), 0, 1) ** 2
    pauses = np.repeat(rng.uniform(0, 1, int(seconds) + 1) > 0.2, rate_hz)[:samples]
    hiss = np.convolve(rng.normal(0, 1, samples + 7), np.ones(8) / 8, "valid")
    wave = syllables * pauses * (hiss + 0.8 * np.sin(2 * np.pi * 140 * t) * rng.uniform(0.5, 1.5))
    wave *= rms / np.sqrt(np.mean(np.square(wave)))
    return (wave * 32_768).clip(-32_768, 32_767).astype(np.int16)


def sine(seconds: float, rate_hz: int, *, amplitude: float = 0.25, hz: float = 440.0, phase: float = 0.0) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    return np.rint(amplitude * 32_767 * np.sin(2 * np.pi * hz * t + phase)).astype(np.int16)


def track(
    store: Store, number: int, segments: Sequence[np.ndarray], *, rate_hz: int = 22_050, pause_s: float = 0.3
) -> Track:
    """Return a chapter of these segments, with a pause after each, and write their audio to the store."""
    cues: list[Cue] = []
    pos = 0
    for index, pcm in enumerate(segments):
        stored = store.write(
            pcm,
            key=hashlib.blake2b(pcm.tobytes(), digest_size=20).hexdigest(),
            sample_rate=rate_hz,
            engine="tone",
            model="tone",
            voice="a",
            language="en",
            seed=0,
            tries=1,
            fault="",
            elapsed_s=0.0,
            level_dbfs=-20.0,
            peak_dbfs=-6.0,
            silent_share=0.0,
            worker="w",
        )
        end_pos = pos + len(pcm) + int(pause_s * rate_hz)
        cues.append(Cue(index, 0, 1, "a", "a", pos, end_pos, stored))
        pos = end_pos
    return Track(number, f"Chapter {number}", rate_hz, tuple(cues))
