"""One run of one job, and its names in RQ: its lease, and RQ's record of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MORE_DEATHS: Final = 2
"""Number of further deaths that mark a job failed if all workers died on one host, and none had completed anything."""


@dataclass(frozen=True, slots=True)
class JobExecution:
    """One run of one job: what RQ calls an execution."""

    queue: str
    job: str
    id: str
    deaths: int = 0
    """Number of workers in a row that died while they ran this job, or another beside it, at its present segment."""
    digest: str = ""
    """What the job speaks, from JobSpec.digest or ChapterSpec.digest."""
    gave_up: str = ""
    """The attempt with which the job failed or was cancelled, as its hash records it, before it was enqueued again."""
    died_on: int = 0
    """Number of different hosts on which they died; 0 if it is not known."""
    blamed: bool = False
    """True if one of them had completed other segments, spoke this job alone, and no other host could try it."""

    def is_poison(self, max_deaths: int) -> bool:
        """Return whether the job kills workers, and not a broken machine its jobs.

        That needs `max_deaths`, on two hosts, or on the only one if a worker that works died of the job alone. Where
        nothing else proves that a worker works, MORE_DEATHS decide.
        """
        proven = self.died_on > 1 or self.blamed or self.deaths >= max_deaths + MORE_DEATHS
        return self.deaths >= max_deaths and proven

    @property
    def composite(self) -> str:
        """The run's name in RQ's registries."""
        return f"{self.job}:{self.id}"

    @property
    def lease_key(self) -> str:
        """Sorted set: the runs of the queue's jobs, by the end of their lease. A run that is not in it has no lease."""
        return f"rq:wip:{self.queue}"

    @property
    def record_keys(self) -> tuple[str, str]:
        """Hash: RQ's record of the run. Sorted set: the job's runs."""
        return f"rq:execution:{self.composite}", f"rq:executions:{self.job}"
