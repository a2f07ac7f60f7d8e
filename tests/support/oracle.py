"""Check what must be true of every job at the end of a test, with or without faults.

This module reads only Redis, by the documented rules of the stream and RQ's keys. It uses no worker and no client.
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
"""State of a stream -> the statuses that the job may have in RQ."""
RECORD_S: Final = 75.0
"""A dead worker's execution records expire within this time, in seconds. (RQ's cancel deletes the lease, through which
other workers would find and delete the records.)"""

LISTS: Final = ("rq:queue:voxspool-*", "rq:queue:*:intermediate", "rq:wip:*")
"""Keys of waiting jobs and of leases."""
NO_EXPIRY: Final = -1
"""The TTL that Redis returns for a key that never expires."""
RECORDS: Final = ("rq:execution:*", "rq:executions:*", "rq:worker:*:executions")
"""Keys of RQ's execution records."""


@dataclass(frozen=True)
class Expected:
    """The expected result of a job."""

    samples: bytes
    """The reference: the whole speech, s16le."""
    states: frozenset[str] = frozenset({"ended"})
    """The allowed final states. A job that failed or was cancelled must have published a prefix of the reference."""


def check_jobs(
    db: redis.Redis, jobs: Mapping[str, Expected], limit_s: float = 60.0, *, records_may_expire: bool = False
) -> None:
    """Wait until all jobs have ended. Assert that each has its expected result and that no key is left behind.

    `records_may_expire` allows execution records with a lifetime. RQ leaves such records if it deletes the lease of a
    dead worker itself.
    """
    until(lambda: all(is_over(db, job) for job in jobs), f"the end of {len(jobs)} jobs", limit_s)
    for job, expected in jobs.items():
        check_stream(db, job, expected)
    check_leftovers(db, jobs, RECORDS if records_may_expire else ())


def whole(texts: Mapping[str, str]) -> dict[str, Expected]:
    """Return the expected results of jobs that speak their whole texts."""
    return {job: Expected(tone(text)) for job, text in texts.items()}


def is_over(db: redis.Redis, job: str) -> bool:
    """Return whether the stream is closed and RQ has the matching status."""
    state = (db.hget(keys.control(job), "state") or b"").decode()
    status = (db.hget(f"rq:job:{job}", "status") or b"").decode()
    return status in RQ_STATUS.get(state, ())


def check_stream(db: redis.Redis, job: str, expected: Expected) -> None:
    """Assert that a stream has consecutive ids, one terminal entry at its end, and each sample and segment once."""
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
        assert expected.samples.startswith(samples), f"job {job}: the published audio differs from the reference"
    for key in (keys.audio(job), keys.control(job), f"rq:job:{job}"):
        assert db.ttl(key) > 0, f"{key} never expires"


def heard(entries: Iterable[Any]) -> tuple[bytes, list[int]]:
    """Return the samples and the marked segments that a reader has at the end of these entries."""
    samples, segments = bytearray(), []
    for entry in entries:
        if isinstance(entry, Begin):
            assert entry.pos * 2 <= len(samples), "an attempt begins after a gap"
            del samples[entry.pos * 2 :]
        elif isinstance(entry, Audio):
            assert entry.pos * 2 == len(samples), "audio does not follow the samples before it"
            samples += entry.pcm
        elif isinstance(entry, Mark):
            assert entry.end_pos * 2 == len(samples)
            segments.append(entry.segment)
    return bytes(samples), segments


def check_leftovers(db: redis.Redis, jobs: Iterable[str], may_expire: tuple[str, ...] = ()) -> None:
    """Assert that queues, leases and execution records are gone, and each job is in the registry of its status only."""
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
        assert found == [names[status]], f"job {job} is {status} and in the registries {found}"


def left(db: redis.Redis, pattern: str, *, expiring: bool) -> list[bytes]:
    """Return the keys that match a pattern. With `expiring`, leave out keys that have a lifetime."""
    found = list(db.scan_iter(pattern))
    return [key for key in found if db.ttl(key) == NO_EXPIRY] if expiring else found
