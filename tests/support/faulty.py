"""Run the real `voxspool-worker` with an engine like tone that fails at certain words.

    python faulty.py run --engine tone …

If the text of a segment contains a word of WORDS, the engine fails in the way listed there. If it contains a word of
SOUNDS, the audio of the segment is faulty in the way listed there. With JUMPING_CLOCK=1, the wall clock of the process
jumps by a day every second, forwards or backwards. With HOST_NAME, the process takes its machine for that host. With
BROKEN_MACHINE=1, the process is killed in each segment of the voice sine-live.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    import numpy.typing as npt

    from voxspool_worker.engines.base import AudioChunk, Prepared, SpeechSegment
    from voxspool_worker.voices.catalog import Voice

    Samples = npt.NDArray[np.int16]

DAY_S = 86_400


def jump() -> None:
    """Make the wall clock of this process jump from now on. The monotonic clock is unchanged."""
    real_time, real = time.time, dt.datetime

    def offset_s() -> int:
        return DAY_S * (int(real_time()) % 3 - 1)

    class Jumping(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return real.now(tz) + dt.timedelta(seconds=offset_s())

    time.time = lambda: real_time() + offset_s()
    dt.datetime = Jumping  # type: ignore[misc]


def segment_error(segment: SpeechSegment) -> None:
    from voxspool_worker.engines.base import SegmentError

    raise SegmentError(segment, "this segment cannot be spoken")


def raises(error: BaseException) -> Callable[[SpeechSegment], None]:
    def act(segment: SpeechSegment) -> None:
        del segment
        raise error

    return act


KEPT: list[bytearray] = []
SWELL_BYTES = 600 << 20
"""The memory that a step with the word "swell" allocates, in bytes."""
WORDS: dict[str, Callable[[SpeechSegment], object]] = {
    "unspeakable": segment_error,
    "assert": raises(RuntimeError("CUDA error: device-side assert triggered")),
    "quit": raises(SystemExit(3)),
    "memory": raises(MemoryError()),
    "segfault": lambda _: ctypes.string_at(0),
    "vanish": lambda _: os._exit(1),
    "swell": lambda _: KEPT or KEPT.append(bytearray(b"x") * SWELL_BYTES),
    "hang": lambda _: threading.Event().wait(),
}
"""Word in a segment's text -> the fault of the engine's step with this segment."""


def faint(samples: Samples) -> Samples:
    return (samples * 0.02).astype(samples.dtype)


SOUNDS: dict[str, Callable[[int, Samples], Samples]] = {
    "hoarse": lambda seed, samples: samples if seed % 2 else faint(samples),
    "mute": lambda _, samples: samples * 0,
    "worn": lambda seed, samples: faint(samples if seed % 2 else samples.repeat(30)),
}
"""Word in a segment's text -> function of the seed and the samples that returns the faulty samples."""
PATIENCE_S = 3.0
"""The watchdog's time limits for a step and for a job that must end, in seconds, shorter than a real worker's."""
PREPARE_S = {"slow": 2.0, "deaf": None}
"""Voice -> duration of its preparation, in seconds; None: it never ends. The preparation ignores cancellation."""


def die_if_live(segment: SpeechSegment) -> None:
    if segment.voice.name == "sine-live":
        os.kill(os.getpid(), signal.SIGKILL)


def change_machine() -> None:
    """Change what this process sees of its machine, by the variables of the environment."""
    if host := os.environ.pop("HOST_NAME", ""):
        socket.gethostname = lambda: host
    if os.environ.pop("BROKEN_MACHINE", ""):
        WORDS[""] = die_if_live  # in every text
    if os.environ.pop("JUMPING_CLOCK", ""):
        jump()


def main() -> None:
    change_machine()
    from voxspool_worker.cli import main as cli
    from voxspool_worker.engines import tone
    from voxspool_worker.monitoring import watchdog
    from voxspool_worker.queue import worker
    from voxspool_worker.voices.catalog import Voice

    class FaultyEngine(tone.ToneEngine):
        @property
        def voices(self) -> Mapping[str, Voice]:
            return {**super().voices} | {name: Voice(name, ()) for name in PREPARE_S}

        def prepare(self, voice: Voice) -> Prepared:
            if voice.name in PREPARE_S:
                threading.Event().wait(PREPARE_S[voice.name])
            return super().prepare(voice)

        def admit(self, segment: SpeechSegment) -> None:
            super().admit(segment)
            for sound in [sound for word, sound in SOUNDS.items() if word in segment.text]:
                self._rows[-1].samples = sound(segment.seed, self._rows[-1].samples)

        def step(self) -> list[AudioChunk]:
            for segment in [row.segment for row in self._rows if row.emitted]:  # after its first chunk
                for act in [act for word, act in WORDS.items() if word in segment.text]:
                    act(segment)
            return super().step()

    tone.ToneEngine = FaultyEngine  # type: ignore[misc]
    watchdog.STEP_LIMIT_S = watchdog.TOKEN_LIMIT_S = worker.HAND_BACK_S = PATIENCE_S  # type: ignore[misc] # mypy forbids assigning to constants
    cli()


if __name__ == "__main__":
    sys.exit(main())
