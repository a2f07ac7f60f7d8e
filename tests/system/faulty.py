"""Runs the real `voxspool-worker` with an engine like tone that breaks at certain words: a process to be started.

`python faulty.py run --engine tone …`. A segment that says one of WORDS breaks the engine in that way. With
JUMPING_CLOCK=1 the process's wall clock jumps by a day, there and back, every second.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from voxspool_worker.engines.base import Chunk, Prepared, Segment
    from voxspool_worker.voices import Voice

DAY_S = 86_400


def jump() -> None:
    """Let the wall clock jump, for whoever asks for the time from now on; the monotonic clock stays as it is."""
    real_time, real = time.time, dt.datetime

    def offset_s() -> int:
        return DAY_S * (int(real_time()) % 3 - 1)

    class Jumping(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:
            return real.now(tz) + dt.timedelta(seconds=offset_s())

    time.time = lambda: real_time() + offset_s()
    dt.datetime = Jumping  # type: ignore[misc]


def segment_error(segment: Segment) -> None:
    from voxspool_worker.engines.base import SegmentError

    raise SegmentError(segment, "this segment cannot be spoken")


def raises(error: BaseException) -> Callable[[Segment], None]:
    def act(segment: Segment) -> None:
        del segment
        raise error

    return act


KEPT: list[bytearray] = []
SWELL_BYTES = 600 << 20
"""How much a worker grows by a step that swells."""
WORDS: dict[str, Callable[[Segment], object]] = {
    "unspeakable": segment_error,
    "assert": raises(RuntimeError("CUDA error: device-side assert triggered")),
    "quit": raises(SystemExit(3)),
    "memory": raises(MemoryError()),
    "segfault": lambda _: ctypes.string_at(0),
    "vanish": lambda _: os._exit(1),
    "swell": lambda _: KEPT or KEPT.append(bytearray(b"x") * SWELL_BYTES),
    "hang": lambda _: threading.Event().wait(),
}
"""A word in a segment's text -> what the step with it does."""
PATIENCE_S = 3.0
"""After how long a step, or a job that was told to end, hangs, in seconds; a real worker has more patience."""
PREPARE_S = {"slow": 2.0, "deaf": None}
"""A voice -> how long its preparation takes, in seconds; None: for ever. It looks at no token."""


def main() -> None:
    if os.environ.pop("JUMPING_CLOCK", ""):
        jump()
    from voxspool_worker import watch, worker
    from voxspool_worker.cli import main as cli
    from voxspool_worker.engines import tone
    from voxspool_worker.voices import Voice

    class FaultyEngine(tone.ToneEngine):
        @property
        def voices(self) -> Mapping[str, Voice]:
            return {**super().voices} | {name: Voice(name, ()) for name in PREPARE_S}

        def prepare(self, voice: Voice) -> Prepared:
            if voice.name in PREPARE_S:
                threading.Event().wait(PREPARE_S[voice.name])
            return super().prepare(voice)

        def step(self) -> list[Chunk]:
            for row in self._rows:
                for word, act in WORDS.items():
                    if word in row.segment.text and row.given:  # after its first chunk
                        act(row.segment)
            return super().step()

    tone.ToneEngine = FaultyEngine  # type: ignore[misc]
    watch.STEP_LIMIT_S = watch.TOKEN_LIMIT_S = worker.HAND_BACK_S = PATIENCE_S  # type: ignore[misc]
    cli()


if __name__ == "__main__":
    sys.exit(main())
