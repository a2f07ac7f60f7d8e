"""The speed of a narration in its display: it counts what is spoken while the command runs."""

from __future__ import annotations

from voxspool.cli.narration_progress import Pace
from voxspool.narration.run import BookSegment
from voxspool.protocol.stream import Mark


def segment(*, reused: bool = False, before: bool = False) -> BookSegment:
    return BookSegment(1, Mark(0, 48_000, 0, 10, 40, seed=1, key="k", reused=reused), 24_000, before)


def test_a_pace_counts_only_segments_spoken_while_the_command_runs() -> None:
    pace = Pace()
    pace.add(segment(reused=True))
    pace.add(segment(before=True))
    assert (pace.spoken_chars, pace.spoken_s) == (0, 0.0)
    assert pace.real_time_factor is None
    assert pace.left_s(100) is None
    pace.add(segment())
    assert (pace.spoken_chars, pace.spoken_s) == (30, 2.0)
    assert pace.real_time_factor is not None
