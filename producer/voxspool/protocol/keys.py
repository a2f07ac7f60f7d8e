"""Define every Redis key of voxspool, with its type and its lifetime.

The part in braces has the form of a hash tag of Redis Cluster: a job's id, or `voices` for cloned voices. It is part of
the protocol; clusters are not supported, since RQ's keys have no common tag. RQ's own keys begin with `rq:`;
`jobs.queue_name` defines the names of the queues.
"""

from __future__ import annotations

WORKERS = "voxspool:workers"
"""Set: the names of all workers that have started. A worker whose `worker` key has expired is dead."""

WORKER_TTL_S = 9
"""Lifetime of a worker's description, in seconds. It is renewed every 3 s, so two lost heartbeats do no harm."""

FRUITLESS_TTL_S = 3600
"""Lifetime of the marks of workers that have completed nothing, after the last one was left, in seconds: one hour."""

PAUSED = "voxspool:paused"
"""Set: the names of the paused queues, from which workers take no jobs. Lifetime: until the queues are resumed."""

UNSERVED = "voxspool:unserved"
"""Hash: name of a queue -> since when no live worker has served it, in seconds by Redis's clock.

Lifetime of a field: until a worker serves the queue.
"""

OPEN = "voxspool:open"
"""Sorted set: the jobs whose stream is open -> when a worker looks next whether somebody will close it, in seconds by
Redis's clock. Lifetime: until no stream is open."""

ACKNOWLEDGED_TTL_S = 24 * 3600
"""Lifetime of a reader's position after its last update, in seconds: one day."""

NARRATION_TTL_S = 7 * 24 * 3600
"""Lifetime of a narration's record and of its chapters' jobs, in seconds: one week. The audio is in the store."""

VOICES = "voxspool:{voices}"
"""Hash: name of a cloned voice -> its description, `voices.ClonedVoice` as JSON. Lifetime: until it is removed."""

CONDITIONING_TTL_S = 30 * 24 * 3600
"""Lifetime of a voice's conditioning after its last use, in seconds: 30 days. Later it is computed again."""

CONDITIONING_LOCK_TTL_S = 10
"""Lifetime of the lock after its last renewal, in seconds: the longest wait after the worker with the lock has died."""

POOL_TTL_S = 24 * 3600
"""Lifetime of the data that workers share about a chapter, after its last use, in seconds: one day.

It is deleted when the chapter ends. If no worker ends the chapter, the spoken segments are still in the segment store.
"""


def audio(job: str) -> str:
    """Stream: the job's audio. Lifetime: while the job runs, then `JobSpec.keep_s` after its terminal entry."""
    return f"voxspool:{{{job}}}:audio"


def control(job: str) -> str:
    """Hash: attempt, seq, state, cancel, progress. Lifetime: that of `audio`."""
    return f"voxspool:{{{job}}}:ctl"


def acknowledged(job: str) -> str:
    """Hash: `pos`, the number of samples that a reader has read, and `at`, the time of this update.

    The time is in ms by Redis's clock. Only jobs with `live_s` or `window_s` have this key.
    Lifetime: ACKNOWLEDGED_TTL_S after the last update.
    """
    return f"voxspool:{{{job}}}:ack"


def narration(name: str) -> str:
    """Hash: `title`, `host` and `folder` of a book's narration, and `jobs`, a JSON list of its chapters' jobs.

    Lifetime: NARRATION_TTL_S after the last start of its command.
    """
    return f"voxspool:{{{name}}}:narration"


def narrating(engine: str) -> str:
    """Sorted set: the chapters that workers with this engine narrate, by start time.

    Lifetime: POOL_TTL_S after the last start of a chapter or the last sign that one still runs.
    """
    return f"voxspool:narrating:{{{engine}}}"


def pool(job: str) -> str:
    """Hash: `plan`, the id of the plan of a running chapter's segments; each segment's owner and number of crashes.

    Lifetime: POOL_TTL_S after the last use.
    """
    return f"voxspool:{{{job}}}:pool"


def unspoken(job: str) -> str:
    """Sorted set: the segments of a running chapter that are not spoken yet.

    The score is 0 for a free segment, else the time at which its lease ends, in ms by Redis's clock.
    Lifetime: that of `pool`.
    """
    return f"voxspool:{{{job}}}:unspoken"


def results(job: str) -> str:
    """List: the results of a running chapter's segments, in the order of their completion. Lifetime: that of `pool`."""
    return f"voxspool:{{{job}}}:results"


def worker(name: str) -> str:
    """Hash: a live worker's description (engine, device, voices, jobs). Lifetime: WORKER_TTL_S after a heartbeat."""
    return f"voxspool:worker:{name}"


def fruitless(host: str, engine: str) -> str:
    """Hash: worker of this host and engine that took a job and has completed nothing -> when, in seconds.

    Lifetime: until a worker of them completes a segment, and FRUITLESS_TTL_S after the last change.
    """
    return f"voxspool:fruitless:{host}:{engine}"


def clips(voice: str) -> str:
    """List: the clips of a cloned voice as FLAC, in order. Lifetime: that of the voice's field in VOICES."""
    return f"voxspool:{{voices}}:clips:{voice}"


def conditioning(key: str) -> str:
    """String: a model's conditioning for a voice, as safetensors. Lifetime: CONDITIONING_TTL_S after its last use."""
    return f"voxspool:conditioning:{{{key}}}"


def conditioning_lock(key: str) -> str:
    """String: the token of the worker that computes `conditioning`. Lifetime: CONDITIONING_LOCK_TTL_S after renewal."""
    return f"voxspool:conditioning:{{{key}}}:lock"
