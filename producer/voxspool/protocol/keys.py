"""Every Redis key of voxspool, its type and its lifetime, one function each.

The job's id is the hash tag, so that a job's keys share a slot and the scripts stay legal on a cluster. RQ's own keys
(`rq:…`) are RQ's; only the names of our queues are ours, in `jobs.queue_name`.
"""

from __future__ import annotations

WORKERS = "voxspool:workers"
"""Set: the names of the workers that said they live. A name whose `worker` key is gone is dead."""

WORKER_TTL_S = 9
"""Lifetime of a worker's card. It is renewed every 3 s, so it outlives two lost beats."""


def audio(job: str) -> str:
    """Stream: the job's audio. Lives while the job runs, then `JobSpec.keep_s` after its terminal entry."""
    return f"voxspool:{{{job}}}:audio"


def control(job: str) -> str:
    """Hash: attempt, seq, state, cancel, progress. Lives as long as `audio`."""
    return f"voxspool:{{{job}}}:ctl"


def worker(name: str) -> str:
    """Hash: what a live worker offers (engine, device, voices, jobs). Lives WORKER_TTL_S after its last beat."""
    return f"voxspool:worker:{name}"
