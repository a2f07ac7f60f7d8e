"""The warm-up of an engine before its first job."""

from __future__ import annotations

import pytest

from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.engines.warmup import warm_up


class StepCounter(ToneEngine):
    """Tone that counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def step(self) -> list[AudioChunk]:
        self.steps += 1
        return super().step()


class Failing(ToneEngine):
    """Tone that fails on its first segment with `error`."""

    def __init__(self, error: type[Exception]) -> None:
        super().__init__()
        self._error = error

    def step(self) -> list[AudioChunk]:
        segment: SpeechSegment = self._rows.pop().segment
        raise SegmentError(segment, "no") if self._error is SegmentError else self._error("broken")


def test_warm_up_speaks_a_segment_to_its_end_and_leaves_all_rows_free() -> None:
    engine = StepCounter()
    assert warm_up(engine).elapsed_s > 0
    assert engine.steps > 1
    assert engine.free == engine.rows


def test_a_segment_error_is_ignored_and_there_is_no_speech_rate() -> None:
    assert warm_up(Failing(SegmentError)).speech_rate is None


def test_every_other_error_of_the_engine_is_raised() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        warm_up(Failing(RuntimeError))
