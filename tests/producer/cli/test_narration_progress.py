"""How fast a narration goes, as its display says: over what was spoken while somebody looked."""

from __future__ import annotations

from voxspool.cli.narration_progress import Pace, hours
from voxspool.narration.run import BookSegment
from voxspool.protocol.stream import Mark


def segment(*, reused: bool = False, before: bool = False) -> BookSegment:
    return BookSegment(1, Mark(0, 48_000, 0, 10, 40, seed=1, key="k", reused=reused), 24_000, before)


def test_a_pace_counts_what_is_spoken_now_alone() -> None:
    pace = Pace()
    pace.add(segment(reused=True))
    pace.add(segment(before=True))
    assert (pace.spoken_chars, pace.spoken_s) == (0, 0.0)
    assert pace.real_time_factor is None
    assert pace.left_s(100) is None
    pace.add(segment())
    assert (pace.spoken_chars, pace.spoken_s) == (30, 2.0)
    assert pace.real_time_factor is not None


def test_spans_are_written_for_people() -> None:
    assert [hours(seconds) for seconds in (48.4, 99, 720, 5_940, 12_000)] == [
        "48 s", "99 s", "12 min", "99 min", "3 h 20 min",
    ]  # fmt: skip
