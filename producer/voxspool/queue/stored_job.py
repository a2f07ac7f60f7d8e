"""Read what a job asks for from RQ's record of it, which any program may have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voxspool.errors import InvalidJobError
from voxspool.protocol import narration
from voxspool.protocol.call import read_call
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.narration import ChapterSpec

if TYPE_CHECKING:
    from redis import Redis


def read_spec(redis: Redis, job: str) -> JobSpec | ChapterSpec | None:
    """Return what a job asks for; None if RQ has no record of it, or one that is not voxspool's.

    Raises redis.RedisError.
    """
    data: Any = redis.hget(f"rq:job:{job}", "data")
    try:
        function, argument = read_call(data or b"")
        return ChapterSpec.decode(argument) if function == narration.TASK else JobSpec.decode(argument)
    except (InvalidJobError, ValueError, RecursionError, TypeError, LookupError):
        return None
