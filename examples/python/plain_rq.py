"""Enqueue a speech with plain RQ, without the package voxspool: a producer needs only `redis` and `rq`.

    pip install redis 'rq>=3.0,<3.1'
    REDIS_URL=redis://localhost:6379/0 python plain_rq.py "Good morning." hello.wav

The job's only argument is a JSON object. docs/protocol.md lists its fields, and docs/rq.md describes which parts of RQ
are used. The program waits until the speech is complete. To read a speech while it is made, follow its stream with
XREAD as described in docs/protocol.md.
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
"""How long Redis keeps the audio and RQ's record after the end of the job, in seconds."""


def enqueue(redis: Redis, text: str) -> Job:
    """Enqueue a speech for any engine. Workers refuse pickle, so the serializer is JSON."""
    job_id = uuid.uuid4().hex
    queue = Queue("voxspool-auto-interactive", connection=redis, serializer=JSONSerializer)
    return queue.enqueue_call(
        "voxspool_worker.tasks.synthesize",  # the name of a function that only the worker has
        args=({"version": 1, "id": job_id, "text": text, "keep_s": KEEP_S},),
        job_id=job_id,
        timeout=120 + len(text) // 2,
        result_ttl=KEEP_S,
        failure_ttl=KEEP_S,
        description=f"speech {job_id}",  # the default description would contain the text
    )


def audio(redis: Redis, job_id: str) -> tuple[bytes, int]:
    """Return the samples of a complete speech as s16le bytes, and the sample rate in Hz.

    Each entry contains the position of its first sample. If a worker crashed, another worker spoke a part again: the
    new samples replace those at the same position.
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
    """Write a text as speech to a WAV file."""
    text, path = sys.argv[1:]
    url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")
    redis = Redis.from_url(url, socket_timeout=None)  # redis-py's default is 5 s, too short for this wait
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
