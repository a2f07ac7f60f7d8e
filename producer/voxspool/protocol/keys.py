"""Every Redis key of voxspool, its type and its lifetime, one function each.

The job's id is the hash tag, so that a job's keys share a slot and the scripts stay legal on a cluster; the cloned
voices have the tag `voices`. RQ's own keys (`rq:…`) are RQ's; only the names of our queues are ours, in
`jobs.queue_name`.
"""

from __future__ import annotations

WORKERS = "voxspool:workers"
"""Set: the names of the workers that said they live. A name whose `worker` key is gone is dead."""

WORKER_TTL_S = 9
"""Lifetime of a worker's card. It is renewed every 3 s, so it outlives two lost beats."""

PAUSED = "voxspool:paused"
"""Set: the names of the queues that somebody paused. Workers take nothing from them. Lives until they are resumed."""

ACKNOWLEDGED_TTL_S = 24 * 3600
"""Lifetime of what readers acknowledged, after the last time, in seconds: a day."""

NARRATION_TTL_S = 7 * 24 * 3600
"""Lifetime of a narration's record and of its chapters' jobs, in seconds: a week. What was spoken lies in the store."""

VOICES = "voxspool:{voices}"
"""Hash: a cloned voice's name -> its description, `voices.ClonedVoice` as JSON. A voice lives until it is removed."""

CONDITIONING_TTL_S = 30 * 24 * 3600
"""Lifetime of a voice's conditioning after its last use, in seconds: 30 days. Later it is computed again."""

CONDITIONING_LOCK_TTL_S = 10
"""Lifetime of the lock after its last beat: so long do the others wait when who computes has died."""

POOL_TTL_S = 24 * 3600
"""Lifetime of what workers share of a chapter, after the last of them touched it, in seconds: a day.

It goes with the chapter's end; where nobody came to end it, what was spoken is in the segment store all the same.
"""


def audio(job: str) -> str:
    """Stream: the job's audio. Lives while the job runs, then `JobSpec.keep_s` after its terminal entry."""
    return f"voxspool:{{{job}}}:audio"


def control(job: str) -> str:
    """Hash: attempt, seq, state, cancel, progress. Lives as long as `audio`."""
    return f"voxspool:{{{job}}}:ctl"


def acknowledged(job: str) -> str:
    """Hash: `pos`, up to which sample a reader has read; `at`, when it said so, in ms of Redis's clock.

    Only of jobs that ask for it. Lives ACKNOWLEDGED_TTL_S after the last time.
    """
    return f"voxspool:{{{job}}}:ack"


def narration(name: str) -> str:
    """Hash: `title`, `host`, `folder` of a book's narration, and `jobs`, a JSON list of its chapters' jobs.

    Lives NARRATION_TTL_S after its command last began.
    """
    return f"voxspool:{{{name}}}:narration"


def narrating(engine: str) -> str:
    """Sorted set: the chapters that workers with this engine narrate, by when they were begun.

    Lives POOL_TTL_S after the last was begun, or said that it goes on.
    """
    return f"voxspool:narrating:{{{engine}}}"


def pool(job: str) -> str:
    """Hash: `plan`, which plan a chapter's segments are of; who holds each, and how many died of it.

    Of a chapter that runs, as the two below. Lives POOL_TTL_S after the last touch.
    """
    return f"voxspool:{{{job}}}:pool"


def unspoken(job: str) -> str:
    """Sorted set: a chapter's segments that are not spoken yet: 0 for a free one, else when its lease ends.

    In ms of Redis's clock. Lives as long as `pool`.
    """
    return f"voxspool:{{{job}}}:unspoken"


def results(job: str) -> str:
    """List: what came of a chapter's segments, in the order in which they were ended. Lives as long as `pool`."""
    return f"voxspool:{{{job}}}:results"


def worker(name: str) -> str:
    """Hash: what a live worker offers (engine, device, voices, jobs). Lives WORKER_TTL_S after its last beat."""
    return f"voxspool:worker:{name}"


def clips(voice: str) -> str:
    """List: a cloned voice's clips, FLAC, in order. Lives as long as the voice's field in VOICES."""
    return f"voxspool:{{voices}}:clips:{voice}"


def conditioning(key: str) -> str:
    """String: what a model made of a voice's clips, as safetensors. Lives CONDITIONING_TTL_S after its last use."""
    return f"voxspool:conditioning:{{{key}}}"


def conditioning_lock(key: str) -> str:
    """String: a token of who computes `conditioning`. Lives CONDITIONING_LOCK_TTL_S after its holder's last beat."""
    return f"voxspool:conditioning:{{{key}}}:lock"
