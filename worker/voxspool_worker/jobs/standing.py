"""What is known of this worker and of the other live ones, where it is judged what a worker died of. Values only.

A job that a worker died of may be innocent: a broken machine kills every job. So it counts on which host a worker died,
and whether the worker had completed anything before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Neighbour(NamedTuple):
    """Another live worker, as its card describes it."""

    host: str
    queues: frozenset[str]
    """The queues that it takes jobs from; empty if it takes none now."""
    completed: bool
    """True if it has completed a segment since it started."""
    process: str
    """Its process, as `process_identity` names it."""


@dataclass(slots=True)
class Standing:
    """This worker's own host and success, and its neighbours. Any thread may read it."""

    host: str = ""
    completed: bool = False
    """True if this worker has completed a segment since it started."""
    neighbours: tuple[Neighbour, ...] = ()

    @property
    def live_hosts(self) -> str:
        """The hosts of live workers that take jobs, this one's among them, each between spaces."""
        hosts = {self.host, *(one.host for one in self.neighbours if one.queues)}
        return f" {' '.join(sorted(hosts))} "

    @property
    def passes_over_doubtful_jobs(self) -> bool:
        """True if this worker takes jobs that two workers of its host died of only if no other job waits.

        It first proves that it works, or leaves such jobs to another host.
        """
        return not self.completed or self.live_hosts != f" {self.host} "

    def has_better_neighbour(self, queue: str) -> bool:
        """Return whether another live worker serves the queue, and should take its doubtful jobs before this one."""
        return any(
            queue in one.queues and (one.host != self.host or (one.completed and not self.completed))
            for one in self.neighbours
        )
