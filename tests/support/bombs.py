"""Small files that are large when they are decoded."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import soundfile as sf


@cache
def silent_recording(*, seconds: int, rate: int = 8_000, channels: int = 8, form: str = "FLAC") -> bytes:
    """Return a recording of digital silence. An hour of it in eight channels is a FLAC file of 237 kB."""
    buffer = io.BytesIO()
    with sf.SoundFile(buffer, "w", rate, channels, format=form, subtype="PCM_16") as file:
        second = np.zeros((rate, channels), np.int16)
        for _ in range(seconds):
            file.write(second)
    return buffer.getvalue()
