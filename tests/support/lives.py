"""Run jobs as a worker does, without an engine: claim a job, begin its stream, publish entries, record the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rq.job import JobStatus

from tests.support.queued_jobs import claim, records_of
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Failed
from voxspool_worker.speech.publisher import Publisher, Scripts

if TYPE_CHECKING:
    import redis

    from voxspool_worker.queue.job_spec import ClaimedJob

OPTIONS: dict[str, Any] = {"id": "a", "engine": "tone", "priority": "batch"}
"""Options of Client.enqueue for a job in the queue that `begin` takes jobs from."""
END = End(10, 0.1, 1, None, None)


def begin(db: redis.Redis, run: str = "a-run") -> tuple[ClaimedJob, Publisher]:
    """Claim the next job and begin its stream."""
    claimed = claim(records_of(db), run)
    publisher = Publisher(Scripts(db), claimed.run, keep_s=60)
    publisher.begin(Begin(0, 24_000, "tone", "m", "v", "en", 0), {})
    return claimed, publisher


def speak(db: redis.Redis, *entries: Audio | End | Failed | Cancelled) -> ClaimedJob:
    """Run the next job: publish entries, and record its end."""
    claimed, publisher = begin(db)
    for entry in entries:
        publisher.publish(entry)
    status = JobStatus.FINISHED if isinstance(entries[-1], End) else JobStatus.FAILED
    assert records_of(db).finish(claimed.run, claimed.job, status, "x") == "done"
    return claimed
