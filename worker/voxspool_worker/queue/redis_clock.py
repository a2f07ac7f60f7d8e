"""Redis's clock, as far as a worker may judge leases by it: compared with the monotonic clock of this machine.

Leases count by Redis's clock. If that clock jumps, or this machine was suspended, the leases of all workers seem to
have expired, or to last too long, although nobody died. Both show as a change of the difference between the two clocks:
the monotonic clock is never set, and stands still while the machine is suspended.
"""

from __future__ import annotations

from typing import Final

JUMP_S: Final = 1.0
"""A change of the difference by more than this is a jump, in seconds. A clock that is adjusted slowly changes by some
milliseconds between two comparisons."""
EXACT_S: Final = 0.5
"""A comparison that took longer than this, in seconds, shows jumps, but is too inexact to be kept."""


class RedisClock:
    """The difference between Redis's clock and the monotonic clock, by the last comparison."""

    def __init__(self) -> None:
        self._lead_s: float | None = None

    def compare(self, redis_s: float, asked_s: float, answered_s: float) -> bool:
        """Compare the clocks. Return True if Redis's clock jumped, or this is the first comparison.

        `redis_s` is Redis's time in seconds, read between the two monotonic times of the question and the answer.
        """
        least_s, most_s = redis_s - answered_s, redis_s - asked_s
        before_s = self._lead_s
        jumped = before_s is None or most_s < before_s - JUMP_S or least_s > before_s + JUMP_S
        if jumped or answered_s - asked_s < EXACT_S:
            self._lead_s = least_s
        return jumped

    def at(self, monotonic_s: float) -> float:
        """Return Redis's time at a monotonic time, in seconds, if it has not jumped; 0 before the first comparison.

        The result may be a little too early, never too late.
        """
        return 0.0 if self._lead_s is None else self._lead_s + monotonic_s
