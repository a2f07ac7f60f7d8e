"""End a job from outside: cancel it, whether it waits or runs.

Each step is one script of Redis, so a job that was enqueued again meanwhile under the same id is left alone.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rq.command import send_command

from voxspool import namespaces
from voxspool.protocol import keys
from voxspool.protocol.stream import Cancelled, encode_data

if TYPE_CHECKING:
    from redis import Redis


def cancel(redis: Redis, job: str, by: str, keep_s: int) -> str:
    """Cancel a job; return `asked` if it runs, `cancelled`, or the state of a job that had ended.

    `keep_s` is the lifetime of what it leaves, in seconds. Raises redis.RedisError.
    """
    by = by.encode(errors="replace").decode()
    control, data = keys.control(job), encode_data(Cancelled(0, by))
    worker, run = _run_of(redis, control)
    said: bytes = script(redis, "cancel")(keys=[keys.audio(job), control], args=[by, data, keep_s])
    if said == b"asked" and worker and run:
        # The worker stops sooner than at its next publish. It is told the run, as the job may have a new one by then.
        send_command(redis, worker, "stop-execution", job_id=job, execution_id=run)
    elif said == b"cancelled":
        script(redis, "take_off")(keys=[control, f"rq:job:{job}"], args=[job, keep_s])
    return said.decode()


def script(redis: Redis, name: str) -> Any:  # noqa: ANN401 - redis-py's Script, whose reply is untyped
    """Return a script of this package, ready to be called."""
    return redis.register_script(namespaces.qualified_script(_text(name), redis))


@cache
def _text(name: str) -> str:
    """Return the text of a script."""
    return (files("voxspool.lua") / f"{name}.lua").read_text(encoding="utf-8")


def _run_of(redis: Redis, control: str) -> tuple[str, str]:
    """Return the worker and the run that hold a job's stream; both are empty if none does."""
    found: Any = redis.hmget(control, "worker", "holder")
    worker, run = ((value or b"").decode(errors="replace") for value in found)
    return worker, run
