"""One run of one job, and its names in RQ: its lease, and RQ's record of the run."""

from __future__ import annotations

from dataclasses import dataclass


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
