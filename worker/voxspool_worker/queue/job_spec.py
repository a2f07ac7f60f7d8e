"""Decode the specification in a job of RQ, and refuse every job that this worker must not run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rq.exceptions import DeserializationError

from voxspool.errors import InvalidJobError
from voxspool.protocol import narration
from voxspool.protocol.call import beginning, unpack
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool.protocol.narration import ChapterSpec
from voxspool.protocol.numbers import count_or_zero
from voxspool_worker.narration.chapter_job import MAX_CHAPTER_DEATHS
from voxspool_worker.speech.speech_job import MAX_DEATHS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rq.job import Job

    from voxspool_worker.jobs.execution import JobExecution

_FUNCTION_BYTES: Final = 64
"""The function of a job is in the first bytes of its call."""
_UNREAD_FIELDS: Final = (b"result", b"exc_info")
"""Fields of a job's hash that RQ would decode, the second without a limit, and that a worker does not need."""
MAX_LIMIT_S: Final = 7 * 24 * 3600
"""Longest time limit of a job, in seconds: a week. A longer one in the job's hash is reduced to it."""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker has claimed, decoded once."""

    job: Job
    run: JobExecution
    spec: JobSpec | ChapterSpec | InvalidJobError
    """The decoded specification, or why the job is refused."""

    @property
    def is_chapter(self) -> bool:
        """True if the job is a chapter of a book. It is counted separately: segment workers speak it."""
        return isinstance(self.spec, ChapterSpec)

    @property
    def limit_s(self) -> float:
        """The time limit in seconds: RQ's if the job has one, else that of its kind, and at most MAX_LIMIT_S."""
        if isinstance(self.spec, InvalidJobError):
            return MAX_LIMIT_S
        usual_s = narration.TIMEOUT_S if isinstance(self.spec, ChapterSpec) else self.spec.timeout_s
        limit_s = self.job.timeout
        return min(limit_s if limit_s and limit_s > 0 else usual_s, MAX_LIMIT_S)


class RepeatedDeathsError(InvalidJobError):
    """Workers died while they ran the job, one after another, so it is not tried again."""

    code = "poison"


def check_deaths(run: JobExecution, fields: Mapping[bytes, bytes]) -> None:
    """Raise RepeatedDeathsError if a job has crashed too many workers.

    Its data may be the cause, so that only their beginning is read, which tells a speech from a chapter.
    """
    is_chapter = narration.TASK.encode() in beginning(fields.get(b"data", b""), _FUNCTION_BYTES)
    if not run.is_poison(MAX_CHAPTER_DEATHS if is_chapter else MAX_DEATHS):
        return
    segment = count_or_zero(fields.get(b"died_at"))
    raise RepeatedDeathsError(
        f"{run.deaths} workers in a row died in segment {segment} of this speech, so it is not tried again; read their "
        "logs, change the passage or the voice, and enqueue it again"
    )


def restore_job(name: str, empty_job: Callable[[str], Job], fields: Mapping[bytes, bytes], problem: str) -> Job:
    """Return the job of RQ with this id and these fields. `problem` says why they were not read, if so.

    Raises InvalidJobError if it cannot be a job. Its id may have any bytes.
    """
    shown = name.encode(errors="surrogateescape").decode(errors="replace")
    if problem:
        raise InvalidJobError(f"job {shown!r:.80} cannot be taken: {problem}")
    fields = {field: value for field, value in fields.items() if field not in _UNREAD_FIELDS}
    try:
        job = empty_job(name)
        data = unpack(fields[b"data"])
        job.restore(fields | {b"data": b""})  # RQ would decompress the data without a limit
    except InvalidJobError as error:
        raise InvalidJobError(f"job {shown!r:.80} cannot be taken: {error}") from error
    except Exception as error:  # RQ raises what its parsers raise, and anybody may write a job
        why = f"its hash in Redis cannot be read ({type(error).__name__})"
        raise InvalidJobError(f"job {shown!r:.80} cannot be taken: {why}") from error
    job.data = data
    return job


def decode_job(job: Job, run: JobExecution) -> ClaimedJob:
    """Decode a claimed job. The `spec` of a refused job is an InvalidJobError."""
    try:
        spec = decode_spec(job)
    except InvalidJobError as error:
        return ClaimedJob(job, run, error)
    return ClaimedJob(job, replace(run, digest=spec.digest), spec)


def decode_spec(job: Job) -> JobSpec | ChapterSpec:
    """Return the specification in a job.

    Raises InvalidJobError for a job that may not be run: data that is not JSON, a function other than voxspool's two,
    callbacks and webhooks, and a speech with the id of another job, to whose stream it would write.
    """
    try:
        function, instance, arguments, named = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError as error:
        message = "the job's data is not JSON; enqueue with RQ's JSONSerializer (pickle is never read)"
        raise InvalidJobError(message) from error
    if function not in (TASK, narration.TASK):
        runs = f"{TASK} and {narration.TASK}"
        raise InvalidJobError(f"the job names the function {_shown_function(function)}; this worker runs only {runs}")
    # The public properties import the functions that the producer named, so the private names are read.
    hooks = (job._success_callback_name, job._failure_callback_name, job._stopped_callback_name, job.webhooks)  # noqa: SLF001
    if any(hooks):
        raise InvalidJobError("the job has callbacks or webhooks; this worker runs none, read its stream instead")
    if job.repeats_left:
        raise InvalidJobError("the job has a Repeat; this worker runs a job once, enqueue it each time")
    if instance is not None or not isinstance(arguments, list) or len(arguments) != 1 or named:
        raise InvalidJobError(f"{function} takes exactly one argument, the job's JSON object")
    spec = JobSpec.decode(arguments[0]) if function == TASK else ChapterSpec.decode(arguments[0])
    named_id = spec.id if isinstance(spec, JobSpec) else spec.speech.id
    if named_id != job.id:
        raise InvalidJobError(f"the job's id is {job.id!r}, but its speech has the id {named_id!r}")
    return spec


def _shown_function(function: object) -> str:
    """Return a function's name for a message. Anything else is not shown: it may be the text in the wrong place."""
    if isinstance(function, str) and all(part.isidentifier() for part in function.split(".")):
        return f"{function!r:.80}"
    return f"(a {type(function).__name__} that is not a name)"
