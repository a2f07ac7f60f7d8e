"""How an engine is measured: with tone, whose lengths are exact, and a clock that passes with each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool_worker.engines.benchmark import FIRST, PASSAGE, measure
from voxspool_worker.engines.tone import CHAR_S, STEP_S, ToneEngine

if TYPE_CHECKING:
    from voxspool_worker.engines.base import AudioChunk

STEP_TAKES_S = 0.01


class Ticking(ToneEngine):
    """Tone whose every step takes a hundredth of a second, on a clock of its own."""

    now_s = 0.0

    def step(self) -> list[AudioChunk]:
        self.now_s += STEP_TAKES_S
        return super().step()


def test_the_figures_follow_from_what_the_engine_does() -> None:
    engine = Ticking(rows=4)
    speed = measure(engine, lambda: engine.now_s)
    step_factor = STEP_TAKES_S / STEP_S
    assert speed.first_chunk_s == pytest.approx(STEP_TAKES_S)
    assert speed.one_factor == pytest.approx(step_factor, rel=0.05)
    assert speed.many_factor == pytest.approx(step_factor / 4, rel=0.05), "four rows, four times as much"
    assert speed.passage_factor == pytest.approx(speed.passage_s / (len(PASSAGE) * CHAR_S), rel=0.05)
    assert speed.passage_s < len(PASSAGE) * CHAR_S * step_factor, "its segments share the rows"
    assert engine.free == engine.rows
    assert len(FIRST) < 100
