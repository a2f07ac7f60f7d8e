"""Record how runs ended: with RQ, in the worker's statistics and metrics, and in the log.

The stream of a job says how it ended before this module does, except for jobs that are refused.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Final

import redis.exceptions
from rq.job import JOB_ID_PATTERN, JobStatus
from rq.utils import now

from voxspool.protocol.jobs import priority_of, queue_name
from voxspool_worker.jobs.cancellation import EndedEarlyError, Reason
from voxspool_worker.queue.rq_records import LOST, Why, is_corrupt
from voxspool_worker.speech.job_run import SpeechGivenUpError
from voxspool_worker.speech.publisher import (
    AlreadyRunningError,
    LostWritesError,
    NeedsOtherWorkerError,
    WrongEngineError,
)
from voxspool_worker.speech.scheduler import EngineLostError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rq.job import Job

    from voxspool.errors import InvalidJobError
    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.monitoring.metrics import Metrics
    from voxspool_worker.queue.capacity import Capacity
    from voxspool_worker.queue.job_spec import ClaimedJob
    from voxspool_worker.queue.lifecycle import Lifecycle
    from voxspool_worker.queue.rq_records import RqRecords
    from voxspool_worker.speech.pipeline import Pipeline

log = logging.getLogger(__name__)

EARLY_ENDS: Final = {
    Reason.CANCELLED: ("cancelled", ""),
    Reason.TIMED_OUT: ("failed", "timeout"),
    Reason.HANDED_BACK: ("handed_back", ""),
    Reason.LEASE_LOST: ("lost", ""),
}
"""Reason for which a run ended early -> its outcome and its code in the metrics."""


class Outcomes:
    """Records the outcome of every run of this worker. Any thread may call it."""

    def __init__(
        self, records: RqRecords, pipeline: Pipeline, capacity: Capacity, metrics: Metrics, lifecycle: Lifecycle
    ) -> None:
        self._records = records
        self._pipeline = pipeline
        self._capacity = capacity
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        self._finished = 0
        self._failed = 0
        self._working_s = 0.0

    def statistics(self) -> dict[str, float]:
        """Return the fields of RQ's record of a worker that count its jobs and its working time in seconds."""
        with self._lock:
            return {
                "successful_job_count": self._finished,
                "failed_job_count": self._failed,
                "total_working_time": self._working_s,
            }

    def succeeded(self, claimed: ClaimedJob, summary: dict[str, Any]) -> None:
        """Record a job that ended; `summary` becomes RQ's result."""
        self._finish(claimed.run, claimed.job, JobStatus.FINISHED, summary)
        self._metrics.run_over("ended")

    def raised(self, claimed: ClaimedJob, error: BaseException) -> None:
        """Record a run that raised an error. Raises a RedisError again: the job is recovered later."""
        run, job = claimed.run, claimed.job
        if is_corrupt(error):
            log.error("job.corrupt job=%s error=%s", job.id, error)
            self._fail(claimed, f"its stream in Redis is corrupt ({error}); enqueue the text under another id")
        elif isinstance(error, redis.exceptions.RedisError):
            raise error
        elif isinstance(error, EndedEarlyError):
            self._ended_early(claimed, error)
        elif isinstance(error, AlreadyRunningError):
            log.info("job.held job=%s by=%s", job.id, error)
            self._records.forget(run)
        elif isinstance(error, WrongEngineError):
            self._pass_on(run, error.engine)
        elif isinstance(error, NeedsOtherWorkerError):
            self._leave_to_others(run, error)
        elif isinstance(error, EngineLostError | LostWritesError):
            self._hand_back(run, Why.BROKEN if isinstance(error, EngineLostError) else Why.RETURNED)
        elif isinstance(error, SpeechGivenUpError):
            log.error("job.failed job=%s code=%s error=%s", job.id, error.code, error)
            self._fail(claimed, str(error))
        else:
            log.error("job.error job=%s", job.id, exc_info=error)
            self._fail(claimed, f"{type(error).__name__}: {error}")
        self._metrics.run_over(*outcome_of(error))

    def refused(self, claimed: ClaimedJob, problem: InvalidJobError) -> None:
        """Fail a job that this worker must not run, in RQ and in its stream."""
        log.error("job.refused job=%s error=%s", claimed.job.id, problem)
        if self._close_stream(claimed.run, problem, self._lifecycle.wait_for_memory):
            self._fail(claimed, str(problem))
            self._metrics.run_over("failed", problem.code)

    def unreadable(self, run: JobExecution, error: InvalidJobError, wait: Callable[[float], None]) -> None:
        """Fail a job whose data are not read, in RQ and in its stream.

        `wait` is called with the seconds to wait while Redis has no memory.
        """
        log.error("job.buried code=%s error=%s", error.code, error)
        if JOB_ID_PATTERN.fullmatch(run.job) and not self._close_stream(run, error, wait):
            return
        self._records.finish(run, self._records.empty_job("unreadable"), JobStatus.FAILED, str(error))
        self._metrics.run_over("failed", error.code)

    def _ended_early(self, claimed: ClaimedJob, ended: EndedEarlyError) -> None:
        """Record a job whose cancel token, or whose stream, ended it."""
        log.info("job.ended_early job=%s reason=%s by=%s", claimed.job.id, ended.reason.value, ended.by)
        if ended.reason is Reason.HANDED_BACK:
            self._hand_back(claimed.run, Why.BROKEN if self._lifecycle.engine_lost else Why.RETURNED)
        elif ended.reason is Reason.CANCELLED:
            self._fail(claimed, f"cancelled by {ended.by or 'a stop command'}", JobStatus.STOPPED)
        elif ended.reason is Reason.TIMED_OUT:
            self._fail(claimed, f"exceeded its time limit of {claimed.job.timeout} s")

    def _fail(self, claimed: ClaimedJob, sentence: str, status: JobStatus = JobStatus.FAILED) -> None:
        """Record a failure or a stop with one sentence, never a traceback."""
        self._finish(claimed.run, claimed.job, status, sentence)

    def _finish(self, run: JobExecution, job: Job, status: JobStatus, outcome: object) -> None:
        """Record the end of a run, and count it in RQ's statistics of this worker."""
        if self._records.finish(run, job, status, outcome) == LOST:
            log.warning("job.dropped job=%s", job.id)
            return
        finished = status is JobStatus.FINISHED
        with self._lock:
            self._finished += finished
            self._failed += not finished
            self._working_s += (now() - (job.started_at or now())).total_seconds()

    def _hand_back(self, run: JobExecution, why: Why) -> None:
        """Put a running job back at the front of its queue, without using up a retry."""
        said = self._records.requeue(run, why)
        log.info("job.handed_back job=%s said=%s", run.job, said)

    def _pass_on(self, run: JobExecution, engine: str) -> None:
        """Put a job that another engine must speak at the front of that engine's queue."""
        to = queue_name(engine, priority_of(run.queue))
        said = self._records.requeue(run, Why.RETURNED, to=to)
        log.info("job.passed_on job=%s to=%s said=%s", run.job, to, said)

    def _leave_to_others(self, run: JobExecution, error: NeedsOtherWorkerError) -> None:
        """Put a job that only other workers can run at the end of its queue, and take no batch work for a while."""
        self._capacity.leave_batch_to_others()
        said = self._records.requeue(run, Why.RETURNED, last=True)
        log.info("job.not_here job=%s why=%s said=%s", run.job, error, said)

    def _close_stream(self, run: JobExecution, problem: InvalidJobError, wait: Callable[[float], None]) -> bool:
        """Close the stream of a refused job. Return False if another run holds it: that run then ends the job."""
        try:
            self._pipeline.refuse(run, problem, wait)
        except AlreadyRunningError:
            self._records.forget(run)
            self._metrics.run_over("held")
            return False
        except (EndedEarlyError, LostWritesError):
            self._metrics.run_over("lost")
            return False
        except redis.exceptions.ResponseError as error:
            if not is_corrupt(error):
                raise
        return True


def outcome_of(error: BaseException | None) -> tuple[str, str]:
    """Return the outcome of a run that raised an error, and the code of a failure, as the metrics name them."""
    if isinstance(error, EndedEarlyError):
        return EARLY_ENDS[error.reason]
    if isinstance(error, EngineLostError | LostWritesError | WrongEngineError | NeedsOtherWorkerError):
        return "handed_back", ""
    if isinstance(error, AlreadyRunningError):
        return "held", ""
    return "failed", error.code if isinstance(error, SpeechGivenUpError) else "internal"
