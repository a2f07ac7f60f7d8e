"""A clock for the code under test that moves only when the test moves it."""

from __future__ import annotations


class ManualClock:
    """Called like `time.monotonic`, it returns `now_s`, which the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, passed_s: float) -> None:
        self.now_s += passed_s
