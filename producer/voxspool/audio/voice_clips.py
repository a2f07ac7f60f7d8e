"""Recordings become clips that a voice can be cloned from, or are refused with the reason.

A cloned voice sounds like its clips. One that is too short, too quiet, clipped or mostly silent makes a bad voice,
and its owner would not know why. So each clip is measured, and a bad one is refused with the value and what to do. This
module uses samples alone: no Redis, no models. It reads what libsndfile reads (WAV, FLAC, MP3, Ogg).
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np
import soundfile as sf

from voxspool.errors import ClipError
from voxspool.protocol.voices import StoredClip
from voxspool.recordings import LEAST_CLIP_S, MOST_CLIP_S, MOST_TOTAL_S, RecordingError, read_mono

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Samples = NDArray[np.float32]

LEAST_SOUND_S: Final = 3.0
"""The least sound of all clips together, without silence, in seconds. XTTS asks for 6 s; from 3 s on a voice can be
recognised."""
FULL_SCALE: Final = 0.999
"""The amplitude from which on a sample counts as clipped: 16 bits reach 0.99997, and MP3 rounds."""
MOST_CLIPPED: Final = 0.005
"""The largest share of clipped samples. A loud but clean recording has a few in ten thousand."""
LEAST_LEVEL_DB: Final = -40.0
"""The lowest RMS level of what is not silence, in dB of full scale. Speech is near -20; at -40, 16 bits are too few."""
LEAST_SOUND: Final = 0.2
"""The smallest share of a clip that is not silence."""
MOST_DC: Final = 0.05
"""The largest mean of the samples: an offset from a faulty microphone, which clicks at every cut."""

_FRAME_S: Final = 0.02
"""The length of the frames that are tested for silence, in seconds."""
_SILENCE_DB: Final = -60.0
"""The level below which a frame is silence, in dB of full scale."""
_SILENCE_BELOW_DB: Final = 40.0
"""A frame this far below the loudest one, in dB, is silence too: the noise of a room."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip that was checked, as it is stored."""

    flac: bytes
    """FLAC, 16 bits, mono, at the recording's own sample rate."""
    about: StoredClip
    sound_s: float
    """The part of it that is not silence, in seconds."""


def read(sources: Sequence[Path | bytes]) -> list[Clip]:
    """Read recordings, each a file or its bytes; check each, and all together. Raises ClipError for the first fault."""
    if not sources:
        raise ClipError("a voice is cloned from at least one recording; name a WAV, FLAC or MP3 file")
    clips = [read_one(source, _called(source, number)) for number, source in enumerate(sources, start=1)]
    sound_s, total_s = sum(clip.sound_s for clip in clips), sum(clip.about.duration_s for clip in clips)
    if sound_s < LEAST_SOUND_S:
        raise ClipError(
            f"there is {sound_s:.1f} s of sound in all, and a voice needs at least {LEAST_SOUND_S:g} s; "
            "give a longer recording, or several (10 to 30 s are best)"
        )
    if total_s > MOST_TOTAL_S:
        raise ClipError(
            f"the clips have {total_s:.1f} s in all, and {MOST_TOTAL_S:g} s is the most; leave out the worst of them"
        )
    return clips


def read_one(source: Path | bytes, called: str) -> Clip:
    """Read one recording: its first MOST_CLIP_S, mixed to mono, checked. Raises ClipError."""
    samples, rate_hz, recording_s = _samples(source, called)
    sound_s = _check(samples, rate_hz, called)
    flac = _flac(samples, rate_hz)
    sha256 = hashlib.sha256(flac).hexdigest()
    return Clip(flac, StoredClip(sha256, len(samples) / rate_hz, rate_hz, recording_s), sound_s)


def _called(source: Path | bytes, number: int) -> str:
    """Return the name of a recording for messages."""
    return str(source) if isinstance(source, Path) else f"clip {number}"


def _samples(source: Path | bytes, called: str) -> tuple[Samples, int, float]:
    """Return the samples to keep, shape (n,), full scale 1; their rate in Hz; the length of the recording in s."""
    try:
        with _opened(source) as file:
            samples, rate_hz, frames = read_mono(file, MOST_CLIP_S, cut=True)
    except OSError as error:
        message = f"cannot read {called}: {error.strerror or error}; name a WAV, FLAC or MP3 file"
        raise ClipError(message, wrong_value=True) from error
    except RecordingError as error:
        raise ClipError(f"{called} {error.fault}; {error.remedy}") from error
    return samples, rate_hz, max(frames, len(samples)) / rate_hz


def _opened(source: Path | bytes) -> BinaryIO:
    """Return a recording's bytes as a file."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _check(samples: Samples, rate_hz: int, called: str) -> float:
    """Measure a clip; return how many seconds of it are not silence. Raises ClipError for the worst fault."""
    for fault in _faults(samples, rate_hz):
        raise ClipError(f"{called} {fault}")
    return float(_sounding(samples, rate_hz).sum()) * _FRAME_S


def _faults(samples: Samples, rate_hz: int) -> Iterator[str]:
    """Yield the faults of a clip, the worst first. After one fault the later measurements may be meaningless."""
    length_s = len(samples) / rate_hz
    if length_s < LEAST_CLIP_S:
        yield f"is {length_s:.2f} s long, and a clip has at least {LEAST_CLIP_S:g} s; join short ones, or leave it out"
    if not np.isfinite(samples).all():
        at_s = int(np.argmin(np.isfinite(samples))) / rate_hz
        yield f"has a sample that is no number, at {at_s:.2f} s; export it again"
    clipped = float((np.abs(samples) >= FULL_SCALE).mean())
    if clipped > MOST_CLIPPED:
        yield f"is clipped: {clipped:.1%} of its samples are at full scale; record it again with less gain"
    offset = float(samples.mean())
    if abs(offset) > MOST_DC:
        yield f"has a DC offset of {offset:+.2f} of full scale; remove it with a high-pass filter (20 to 60 Hz)"
    sounding = _sounding(samples, rate_hz)
    if not sounding.any():
        yield "is silent; choose another recording"
    level_db = 10 * math.log10(float(_powers(samples, rate_hz)[sounding].mean()))
    if level_db < LEAST_LEVEL_DB:
        yield (
            f"is too quiet: {level_db:.0f} dB below full scale where it is not silent, and {LEAST_LEVEL_DB:.0f} is the "
            "least (speech is near -20); record it closer, or amplify it"
        )
    if sounding.mean() < LEAST_SOUND:
        yield f"is mostly silence: {1 - sounding.mean():.0%} of it; cut the pauses out"


def _powers(samples: Samples, rate_hz: int) -> NDArray[np.float64]:
    """Return the mean square of each whole frame, without the clip's mean, shape (frames,)."""
    size = max(1, round(_FRAME_S * rate_hz))
    frames = (samples - samples.mean())[: len(samples) // size * size].reshape(-1, size)
    powers: NDArray[np.float64] = np.square(frames, dtype=np.float64).mean(axis=1)
    return powers


def _sounding(samples: Samples, rate_hz: int) -> NDArray[np.bool_]:
    """Return for each whole frame whether it is not silence, shape (frames,)."""
    powers = _powers(samples, rate_hz)
    least = max(10 ** (_SILENCE_DB / 10), float(powers.max()) * 10 ** (-_SILENCE_BELOW_DB / 10))
    return powers >= least


def _flac(samples: Samples, rate_hz: int) -> bytes:
    """Return samples as FLAC. Samples that had 16 bits keep their exact values."""
    pcm = np.clip(np.rint(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)
    buffer = io.BytesIO()
    sf.write(buffer, pcm, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
