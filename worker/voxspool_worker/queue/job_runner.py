"""Run claimed jobs, each in a thread of its own, and stop them.

Nothing forks, because a process with a model must not. A job ends early by its cancel token, which its thread checks
between chunks: an alarm signal would reach only the main thread.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis.exceptions

from voxspool.errors import InvalidJobError
from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.narration import ChapterSpec
from voxspool_worker.jobs.cancellation import CancelToken, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool_worker.jobs.execution import JobExecution
    from voxspool_worker.monitoring.metrics import Metrics
    from voxspool_worker.narration.chapter_job import Narrator
    from voxspool_worker.queue.capacity import Capacity
    from voxspool_worker.queue.job_spec import ClaimedJob
    from voxspool_worker.queue.lifecycle import Lifecycle
    from voxspool_worker.queue.outcomes import Outcomes
    from voxspool_worker.speech.pipeline import Pipeline
    from voxspool_worker.speech.speech_job import SpeechJob

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a thread of this worker runs."""

    run: JobExecution
    token: CancelToken
    thread: threading.Thread
    is_chapter: bool


class JobRunner:
    """The running jobs. The main thread starts them; any thread may list or stop them."""

    def __init__(
        self,
        pipeline: Pipeline,
        speech: SpeechJob,
        narrator: Narrator,
        outcomes: Outcomes,
        capacity: Capacity,
        metrics: Metrics,
        lifecycle: Lifecycle,
        *,
        on_completed: Callable[[], None],
        release: Callable[[JobExecution], None],
        redis_away: Callable[..., None],
    ) -> None:
        """Store the parts. `release` requeues the job of a run that ended because Redis was not available."""
        self._pipeline = pipeline
        self._speech = speech
        self._narrator = narrator
        self._outcomes = outcomes
        self._capacity = capacity
        self._metrics = metrics
        self._lifecycle = lifecycle
        self._on_completed = on_completed
        self._release = release
        self._redis_away = redis_away
        self._running: dict[str, RunningJob] = {}
        self._lock = threading.Lock()

    def running(self) -> list[RunningJob]:
        """Return the running jobs."""
        with self._lock:
            return list(self._running.values())

    def start(self, claimed: ClaimedJob) -> None:
        """Start a thread for a claimed job."""
        run, token = claimed.run, CancelToken(claimed.limit_s)
        thread = threading.Thread(target=self._run, args=(claimed, token), name=f"job-{run.job}", daemon=True)
        with self._lock:
            self._running[run.id] = RunningJob(run, token, thread, claimed.is_chapter)
        self._capacity.begin(run, chapter=claimed.is_chapter)
        if run.deaths and not claimed.is_chapter:
            log.warning("job.quarantined job=%s deaths=%d", run.job, run.deaths)
        try:
            thread.start()
        except RuntimeError as error:  # the process has too many threads: the job is recovered when its lease expires
            log.error("worker.full error=%s", error)  # noqa: TRY400 - a traceback adds nothing
            self._ended(run)

    def stop(self, wanted: object) -> None:
        """Cancel the running jobs with this job id or execution id; anything else is ignored."""
        for one in self.running():
            if wanted in (one.run.job, one.run.id):
                one.token.end(Reason.CANCELLED)

    def hand_chapters_back(self) -> None:
        """Ask the running chapters to return to their queue, so that another worker continues them."""
        for one in self.running():
            if one.is_chapter:
                one.token.end(Reason.HANDED_BACK)

    def ask_back(self) -> None:
        """Ask all jobs to return to their queue at the next chunk."""
        for one in self.running():
            one.token.end(Reason.HANDED_BACK)

    def wait_until_back(self, deadline: float) -> list[JobExecution]:
        """Wait for all jobs to end, at most until `deadline` by the monotonic clock. Return the runs that did not."""
        for one in self.running():
            one.thread.join(max(0.0, deadline - time.monotonic()))
        return [one.run for one in self.running()]

    def _run(self, claimed: ClaimedJob, token: CancelToken) -> None:
        """Run one job and record how it ended: the body of its thread."""
        try:
            if isinstance(claimed.spec, InvalidJobError):
                self._outcomes.refused(claimed, claimed.spec)
            else:
                self._speak(claimed, claimed.spec, token)
        except redis.exceptions.RedisError as error:
            self._redis_away(error, claimed.run.job)
            self._metrics.run_over("lost")
            self._release(claimed.run)
        except Exception:
            log.exception("job.lost job=%s", claimed.run.job)
            self._metrics.run_over("lost")  # its lease expires, and it is recovered
        finally:
            self._ended(claimed.run)

    def _speak(self, claimed: ClaimedJob, spec: JobSpec | ChapterSpec, token: CancelToken) -> None:
        """Speak a job and record its outcome. Raises RedisError, and then records no outcome."""
        run = claimed.run

        def on_segment() -> None:
            self._capacity.clear_suspicion(run)
            if isinstance(spec, JobSpec):  # the segments of a chapter may have been spoken elsewhere
                self._on_completed()

        try:
            if isinstance(spec, ChapterSpec):
                summary = self._narrator.narrate(spec, run, token, on_segment)
            else:
                summary = self._pipeline.run(self._pipeline.prepare(spec, run, token, on_segment), self._speech)
            self._outcomes.succeeded(claimed, summary)
        except BaseException as error:  # noqa: BLE001 - an engine may raise SystemExit; the job must get an outcome
            self._outcomes.raised(claimed, error)

    def _ended(self, run: JobExecution) -> None:
        """Forget a run that has ended."""
        with self._lock:
            ended = self._running.pop(run.id)
        self._capacity.end(run, chapter=ended.is_chapter)
        if self._lifecycle.burst:
            self._lifecycle.wake_up.set()
