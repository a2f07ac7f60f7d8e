"""Enqueue a speech with plain RQ, without the package voxspool: a producer needs nothing but `redis` and `rq`.

    pip install redis 'rq>=3.0,<3.1'
    REDIS_URL=redis://localhost:6379/0 python plain_rq.py "Good morning." hello.wav

The job's only argument is a JSON object; docs/protocol.md lists its fields, docs/rq.md says what of RQ is used. This
waits until the speech is complete. To read it while it is made, follow the same stream with XREAD, as docs/protocol.md
shows.
"""

from __future__ import annotations

import json
import os
import sys
import uuid
import wave
from typing import TYPE_CHECKING

from redis import Redis
from rq import Queue
from rq.results import Result
from rq.serializers import JSONSerializer

if TYPE_CHECKING:
    from rq.job import Job

KEEP_S = 3600
"""How long Redis keeps the audio and RQ's record after the end, in seconds."""


def enqueue(redis: Redis, text: str) -> Job:
    """Enqueue a speech for any engine; a worker refuses pickle, so the serializer is JSON."""
    job_id = uuid.uuid4().hex
    queue = Queue("voxspool-auto-interactive", connection=redis, serializer=JSONSerializer)
    return queue.enqueue_call(
        "voxspool_worker.tasks.synthesize",  # a name: the function is on the worker
        args=({"version": 1, "id": job_id, "text": text, "keep_s": KEEP_S},),
        job_id=job_id,
        timeout=120 + len(text) // 2,
        result_ttl=KEEP_S,
        failure_ttl=KEEP_S,
        description=f"speech {job_id}",  # RQ's own description would show the text
    )


def audio(redis: Redis, job_id: str) -> tuple[bytes, int]:
    """Return the samples of a speech that has ended, and their rate in Hz.

    Each entry says at which sample it begins. If a worker died, another spoke a part again: it takes the same place.
    """
    pcm, sample_rate = bytearray(), 0
    for _, entry in redis.xrange(f"voxspool:{{{job_id}}}:audio"):
        begin = 2 * int(entry[b"pos"])
        if entry[b"type"] == b"audio":
            pcm[begin : begin + len(entry[b"data"])] = entry[b"data"]
        elif entry[b"type"] == b"begin":
            sample_rate = json.loads(entry[b"data"])["sample_rate"]
    return bytes(pcm), sample_rate


def main() -> int:
    """Speak a text into a WAV file."""
    text, path = sys.argv[1:]
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    redis = Redis.from_url(url, socket_timeout=None)  # to wait longer than 5 s, redis-py's own limit
    job = enqueue(redis, text)
    result = job.latest_result(timeout=job.timeout)
    if result is None or result.type is not Result.Type.SUCCESSFUL:
        print(f"not spoken: {result.exc_string if result else 'no worker took the job'}", file=sys.stderr)
        return 1
    pcm, sample_rate = audio(redis, job.id)
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, sample_rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return 0


if __name__ == "__main__":
    sys.exit(main())
