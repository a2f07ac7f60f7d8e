"""End a job from outside: cancel it, whether it waits or runs, or delete it.

Each step is one script of Redis, so a job that was enqueued again meanwhile under the same id is left alone.
"""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from rq.command import send_command

from voxspool.connections import namespaces
from voxspool.protocol import keys
from voxspool.protocol.stream import Cancelled, encode_data

if TYPE_CHECKING:
    from redis import Redis


STOP_S: Final = 12
"""Longest wait for a running job to close its stream before it is deleted, in seconds: longer than a run's lease."""
STOP_POLL_S: Final = 0.02


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


def delete(redis: Redis, job: str, by: str) -> bool:
    """Delete every trace of a job; return False if there was none. A job that is not over is cancelled first.

    Raises redis.RedisError.
    """
    record, control = f"rq:job:{job}", keys.control(job)
    if redis.exists(record, control) and cancel(redis, job, by, STOP_S) == "asked":
        deadline = time.monotonic() + STOP_S
        while redis.hget(control, "state") == b"running" and time.monotonic() < deadline:
            time.sleep(STOP_POLL_S)
    engine: Any = redis.hget(control, "engine") or b""
    others = [f"rq:results:{job}", f"{record}:dependents", f"{record}:dependencies"]
    own = [keys.acknowledged(job), keys.pool(job), keys.unspoken(job), keys.results(job)]
    found: int = script(redis, "delete")(
        keys=[
            keys.narrating(engine.decode(errors="replace")),
            keys.OPEN,
            record,
            control,
            f"rq:executions:{job}",
            keys.audio(job),
            *others,
            *own,
        ],
        args=[job],
    )
    return found > 0


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
