"""What must be true of every job when all is over, whatever was done to it: the judge of the tests of faults.

Reads Redis alone, by the stream's documented rules and RQ's own keys; knows no worker and no client.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.processes import until
from tests.support.reference import tone
from voxspool.protocol import keys
from voxspool.protocol.stream import STATES, TERMINAL, Audio, Begin, EntryId, Mark, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import redis

RQ_STATUS: Final = {"ended": {"finished"}, "failed": {"failed"}, "cancelled": {"stopped", "canceled"}}
"""The state of a stream -> what RQ may say of the job."""
RECORD_S: Final = 75.0
"""A dead worker's record of a run expires by then: RQ's cancel takes the lease away, by which others would find it."""

LISTS: Final = ("rq:queue:voxspool-*", "rq:queue:*:intermediate", "rq:wip:*")
"""Where a job waits, and where it has a lease."""
FOR_EVER: Final = -1
"""What Redis says of a key that has no lifetime."""
RECORDS: Final = ("rq:execution:*", "rq:executions:*", "rq:worker:*:executions")
"""What RQ notes of a run."""


@dataclass(frozen=True)
class Expected:
    """What a job must come to."""

    samples: bytes
    """The whole speech, s16le: the reference."""
    states: frozenset[str] = frozenset({"ended"})
    """How it may end. One that failed or was cancelled must have published a prefix of the reference."""


def judge(
    db: redis.Redis, jobs: Mapping[str, Expected], limit_s: float = 60.0, *, records_may_expire: bool = False
) -> None:
    """Wait until all jobs are over; assert that each came to what it must, and that nothing is left behind.

    Where RQ's own cleaners took a dead worker's lease, `records_may_expire`: they leave its records to their lifetime.
    """
    until(lambda: all(is_over(db, job) for job in jobs), f"the end of {len(jobs)} jobs", limit_s)
    for job, expected in jobs.items():
        judge_stream(db, job, expected)
    judge_leftovers(db, jobs, RECORDS if records_may_expire else ())


def whole(texts: Mapping[str, str]) -> dict[str, Expected]:
    """Return what each job must be: its whole text."""
    return {job: Expected(tone(text)) for job, text in texts.items()}


def is_over(db: redis.Redis, job: str) -> bool:
    """Whether the stream is closed, and RQ knows."""
    state = (db.hget(keys.control(job), "state") or b"").decode()
    status = (db.hget(f"rq:job:{job}", "status") or b"").decode()
    return status in RQ_STATUS.get(state, ())


def judge_stream(db: redis.Redis, job: str, expected: Expected) -> None:
    """One terminal entry, the last; ids without a hole, attempts that rise; each sample and each segment once."""
    stored: Any = db.xrange(keys.audio(job))
    entries = [(EntryId.parse(raw.decode()), decode(fields)) for raw, fields in stored]
    assert entries, f"job {job} has no stream"
    for (before, _), (after, entry) in itertools.pairwise(entries):
        assert after in {(before.attempt, before.seq + 1), (after.attempt, 1)}, f"job {job}: {after} follows {before}"
        assert after.attempt >= before.attempt
        assert after.seq != 1 or isinstance(entry, (Begin, *TERMINAL)), f"job {job}: {after} is a {entry.type}"
    *before_last, (_, last) = entries
    assert not any(isinstance(entry, TERMINAL) for _, entry in before_last), f"job {job} was closed twice"
    assert isinstance(last, TERMINAL), f"job {job} is not closed"
    state = db.hget(keys.control(job), "state").decode()
    assert STATES[last.type] == state
    assert state in expected.states, f"job {job} {state}: {last}"
    samples, segments = heard(entry for _, entry in entries)
    assert segments == list(range(len(segments))), f"job {job}: segments {segments}"
    if state == "ended":
        assert samples == expected.samples, f"job {job}: {len(samples)} bytes, expected {len(expected.samples)}"
        assert last.pos * 2 == len(samples)
    else:
        assert expected.samples.startswith(samples), f"job {job}: what was published is not what was asked for"
    for key in (keys.audio(job), keys.control(job), f"rq:job:{job}"):
        assert db.ttl(key) > 0, f"{key} lives for ever"


def heard(entries: Iterable[Any]) -> tuple[bytes, list[int]]:
    """Return what a file writer has at the end: the samples, and the segments that were marked."""
    samples, segments = bytearray(), []
    for entry in entries:
        if isinstance(entry, Begin):
            assert entry.pos * 2 <= len(samples), "an attempt that begins behind a hole"
            del samples[entry.pos * 2 :]
        elif isinstance(entry, Audio):
            assert entry.pos * 2 == len(samples), "audio that does not follow what was there"
            samples += entry.pcm
        elif isinstance(entry, Mark):
            assert entry.end_pos * 2 == len(samples)
            segments.append(entry.segment)
    return bytes(samples), segments


def judge_leftovers(db: redis.Redis, jobs: Iterable[str], may_expire: tuple[str, ...] = ()) -> None:
    """No id in a queue, no lease, no record of a run; each job in the one registry that its status names."""
    for pattern in (*LISTS, *RECORDS):
        expiring = pattern in may_expire
        until(lambda: not left(db, pattern, expiring=expiring), f"{pattern} to be empty", RECORD_S)  # noqa: B023 - used at once
    registries = {
        key: set(db.zrange(key, 0, -1))
        for pattern in ("rq:finished:*", "rq:failed:*", "rq:canceled:*", "rq:deferred:*", "rq:scheduled:*")
        for key in db.scan_iter(pattern)
    }
    for job in jobs:
        status = Job.fetch(job, connection=db, serializer=JSONSerializer).get_status().value
        names = {"finished": "finished", "failed": "failed", "stopped": "failed", "canceled": "canceled"}
        found = [key.decode().split(":")[1] for key, ids in registries.items() if job.encode() in ids]
        assert found == [names[status]], f"job {job} is {status} and lies in {found}"


def left(db: redis.Redis, pattern: str, *, expiring: bool) -> list[bytes]:
    """Return the keys that are left; those with a lifetime only where they must not be there at all."""
    found = list(db.scan_iter(pattern))
    return [key for key in found if db.ttl(key) == FOR_EVER] if expiring else found
