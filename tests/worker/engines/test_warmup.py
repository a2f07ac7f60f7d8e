"""What is said to nobody before the first job."""

from __future__ import annotations

import pytest

from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.engines.warmup import warm_up


class Counting(ToneEngine):
    """A tone that counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: list[str] = []
        self.steps = 0

    def step(self) -> list[AudioChunk]:
        self.steps += 1
        return super().step()


class Refusing(ToneEngine):
    """An engine that cannot say its first segment."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self._error = error

    def step(self) -> list[AudioChunk]:
        segment: SpeechSegment = self._rows.pop().segment
        raise SegmentError(segment, "no") if self._error is SegmentError else self._error("broken")


def test_an_engine_has_spoken_before_its_first_job_and_is_free_again() -> None:
    engine = Counting()
    assert warm_up(engine).elapsed_s > 0
    assert engine.steps > 1
    assert engine.free == engine.rows


def test_a_segment_that_cannot_be_said_does_not_keep_an_engine_from_serving() -> None:
    assert warm_up(Refusing(SegmentError)).speech_rate is None


def test_an_engine_that_is_broken_says_so_before_it_takes_a_job() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        warm_up(Refusing(RuntimeError))
