"""The benchmark on tone, whose audio lengths are known, with a clock that advances by a fixed time per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool_worker.engines.benchmark import PASSAGE, SENTENCE, measure
from voxspool_worker.engines.tone import CHAR_S, STEP_S, ToneEngine

if TYPE_CHECKING:
    from voxspool_worker.engines.base import AudioChunk

STEP_TAKES_S = 0.01


class SteppedClockEngine(ToneEngine):
    """Tone with its own clock, which each step advances by STEP_TAKES_S."""

    now_s = 0.0

    def step(self) -> list[AudioChunk]:
        self.now_s += STEP_TAKES_S
        return super().step()


def test_times_and_real_time_factors_follow_from_the_number_of_steps() -> None:
    engine = SteppedClockEngine(rows=4)
    speed = measure(engine, lambda: engine.now_s)
    step_rtf = STEP_TAKES_S / STEP_S
    assert speed.first_chunk_s == pytest.approx(STEP_TAKES_S)
    assert speed.one_rtf == pytest.approx(step_rtf, rel=0.05)
    assert speed.many_rtf == pytest.approx(step_rtf / 4, rel=0.05), "four rows share each step"
    assert speed.passage_rtf == pytest.approx(speed.passage_s / (len(PASSAGE) * CHAR_S), rel=0.05)
    assert speed.passage_s < len(PASSAGE) * CHAR_S * step_rtf, "the segments of the passage share the rows"
    assert engine.free == engine.rows
    assert len(SENTENCE) < 100
