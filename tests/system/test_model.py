"""Random faults in random order on real processes, checked against a model of the allowed outcomes of each job.

The model: an accepted job is spoken to its end, each sample once. It may end as cancelled only if the test sent a
cancel, and it must end so if Redis confirmed the cancel. It may fail only as poison, and only if two workers that may
have had the job were lost: killed, or frozen for longer than a lease. A stall or a restart of Redis does not change
the outcome.

    MODEL_RUNS=1000 MODEL_SEED=7 python -m pytest -s tests/system/test_model.py    # as `make soak` does

The seed determines the choices, but not when a worker reaches a chunk, so a failed run may pass when it is repeated. A
failed run prints its steps, and keeps the logs of its workers and the append-only file of Redis.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count, islice
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.oracle import Expected, check_jobs
from tests.support.processes import until
from tests.support.reference import SENTENCE, tone
from tests.support.world import Member, World
from voxspool import Client, DeadlineError, RedisUnavailableError, Settings, SpeechCancelledError, SpeechFailedError
from voxspool.protocol.jobs import queue_names

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.forks import ForkServer
    from voxspool import Speech

RUNS: Final = 12
LANES: Final = 12
"""The number of parallel runs. A run mostly waits: for leases to expire, and for live speech."""
STEPS: Final = 14
WORKERS: Final = 3
"""The highest number of workers at the same time."""
OVER_S: Final = 120.0
"""All jobs end within this time, in seconds: several leases of 9 s may expire first, on a busy machine."""

RESCUED_S: Final = 12.0
"""The jobs of a dead worker are spoken again within this time: a lease of 9 s, and a check every 2 s."""

TEXTS: Final = ("", "Good morning.", SENTENCE, SENTENCE * 3, "The lamp is lit. " * 12)

SPECS: Final = st.fixed_dictionaries(
    {
        "text": st.sampled_from(TEXTS),
        "voice": st.sampled_from(["sine-live", "sine-live", "sine"]),
        "priority": st.sampled_from(["interactive", "batch"]),
        "engine": st.sampled_from(["auto", "tone"]),
        "seed": st.integers(0, 2),
    }
)

MOMENTS: Final = st.sampled_from([0.0, 0.0, 0.1, 0.1, 0.5, 0.5, 2.0, 2.0, 10.0])
"""The time before a step, in seconds: none, a short one, or one after which the jobs of a dead worker are rescued."""

reference = lru_cache(tone)


@dataclass
class Job:
    """An accepted job, and the states in which it may end."""

    speech: Speech
    samples: bytes
    accepted_at: float
    may: set[str] = field(default_factory=lambda: {"ended"})

    def __repr__(self) -> str:
        return self.speech.id


@dataclass(eq=False)
class Follower:
    """A reader of one job that resumes where it stopped. It must get each sample once and correct."""

    job: Job
    heard: int = 0
    """The length of the audio that it has read, in bytes."""
    after: str = "0-0"
    outcome: str = ""
    """The state in which the speech ended, or the code of its failure; empty before the end."""

    def __repr__(self) -> str:
        return f"a follower of {self.job} at {self.after}"

    def hear(self, most: int | None, patience_s: float) -> None:
        """Read `most` chunks, or to the end if it is None. Stop when no entry arrives for `patience_s` seconds."""
        chunks = self.job.speech.chunks(self.after, timeout_s=patience_s)
        before = self.heard
        try:
            for chunk in islice(chunks, most):
                assert chunk.pos * 2 == self.heard, f"{self}: got sample {chunk.pos} after {self.heard} bytes"
                assert self.job.samples.startswith(chunk.pcm, self.heard), (
                    f"{self}: the audio differs from the reference"
                )
                self.heard += len(chunk.pcm)
                self.after = chunk.id
        except DeadlineError:
            return
        except SpeechFailedError as error:
            self.outcome = error.code
        except SpeechCancelledError:
            self.outcome = "cancelled"
        else:
            if most is None or (most > 0 and self.heard == before):
                self.outcome = "ended"

    def hear_all(self) -> None:
        """Read to the end."""
        if not self.outcome:
            self.hear(None, OVER_S)
        assert self.outcome, f"{self}: no end within {OVER_S:g} s"
        assert self.outcome in {"ended", "cancelled", "poison"}, f"{self}: {self.outcome}"
        assert self.outcome != "ended" or self.heard == len(self.job.samples), f"{self}: ended after {self.heard} bytes"


class Spooler(RuleBasedStateMachine):
    """One Redis, up to three workers, and all steps and faults that Hypothesis may choose."""

    jobs: Any = Bundle("jobs")
    workers: Any = Bundle("workers")
    followers: Any = Bundle("followers")

    def __init__(self, folder: Path, forks: ForkServer, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen
        self.began = time.monotonic()
        self.done: list[str] = []
        self.asked: list[Job] = []
        self.following: list[Follower] = []
        self.listeners = ThreadPoolExecutor(thread_name_prefix="listener")
        self.listening: dict[Follower, Future[None]] = {}
        self.world = World(folder, forks)
        self.client = Client(settings=Settings(redis_url=self.world.server.url))
        until(self.redis_answers, "Redis's first answer")

    def redis_answers(self) -> bool:
        """Return whether Redis answers. All lanes start at once, so it may be too slow for a client's first request."""
        try:
            self.client.workers()
        except RedisUnavailableError:
            return False
        return True

    def let_pass(self, seconds: float) -> None:
        """Wait for some seconds."""
        threading.Event().wait(seconds)

    def say(self, what: str) -> None:
        """Record a step and its time."""
        self.done.append(f"{time.monotonic() - self.began:7.2f} s  {what}")

    @initialize(target=workers, number=st.integers(1, 2))
    def add_first_workers(self, number: int) -> MultipleResults[Member]:
        return multiple(*(self.start() for _ in range(number)))

    @initialize(target=jobs, specs=st.lists(SPECS, min_size=2, max_size=4))
    def enqueue_first_jobs(self, specs: list[dict[str, Any]]) -> MultipleResults[Job]:
        return self.enqueue_all(specs)

    @rule(target=jobs, specs=st.lists(SPECS, min_size=1, max_size=3), after=MOMENTS)
    def enqueue(self, specs: list[dict[str, Any]], after: float) -> MultipleResults[Job]:
        self.let_pass(after)
        return self.enqueue_all(specs)

    @rule(target=followers, job=jobs, live=st.booleans())
    def follow(self, job: Job, live: bool) -> MultipleResults[Follower]:  # noqa: FBT001 - hypothesis passes by name
        follower = Follower(job)
        self.following.append(follower)
        self.say(f"{job} has a follower" + (" in a thread" if live else ""))
        if not live:
            return multiple(follower)
        self.listening[follower] = self.listeners.submit(follower.hear_all)
        return multiple()

    @rule(follower=followers, chunks=st.sampled_from([1, 10, 40]))
    def hear(self, follower: Follower, chunks: int) -> None:
        if not follower.outcome:
            follower.hear(chunks, 0.5)
            self.say(f"{follower} has {follower.heard} bytes {follower.outcome}")

    @rule(job=jobs, after=MOMENTS)
    def cancel(self, job: Job, after: float) -> None:
        self.let_pass(after)
        said = job.speech.cancel("the model")
        self.say(f"{job} cancelled: {said}")
        if said == "asked":
            job.may.add("cancelled")
        elif said != "failed":  # the end of the run checks whether it may have failed
            assert said in job.may | {"cancelled"}
            job.may = {said}

    @rule(worker=consumes(workers), after=MOMENTS)
    def kill(self, worker: Member, after: float) -> None:
        self.let_pass(after)
        self.say(f"kill -9 {worker}")
        self.world.kill(worker)

    @rule(job=jobs, after=MOMENTS)
    def kill_its_worker(self, job: Job, after: float) -> None:
        """Kill the worker that speaks a job, once one does. Two kills in the same segment make the job poison."""
        self.let_pass(after)
        if worker := self.worker_of(job):
            self.say(f"kill -9 {worker}, which speaks {job}")
            self.world.kill(worker)

    @rule(worker=workers, after=MOMENTS)
    def terminate(self, worker: Member, after: float) -> None:
        self.let_pass(after)
        self.say(f"SIGTERM {worker}")
        self.world.terminate(worker)

    @rule(worker=workers, seconds=st.sampled_from([1, 4, 10, 12]), after=MOMENTS)
    def freeze(self, worker: Member, seconds: int, after: float) -> None:
        self.let_pass(after)
        self.say(f"SIGSTOP {worker} for {seconds} s")
        self.world.freeze(worker, seconds)

    @precondition(lambda self: sum(not member.left for member in self.world.members) < WORKERS)
    @rule(target=workers)
    def start(self) -> Member:
        worker = self.world.start_worker()
        self.say(f"{worker} started")
        return worker

    @rule(seconds=st.sampled_from([1, 3, 6, 12]), after=MOMENTS)
    def stall_redis(self, seconds: int, after: float) -> None:
        self.let_pass(after)
        self.say(f"SIGSTOP Redis for {seconds} s")
        self.world.stall(seconds)

    @rule(after=MOMENTS)
    def restart_redis(self, after: float) -> None:
        self.let_pass(after)
        self.world.restart_redis()
        self.say("Redis restarted")

    @rule(queue=st.sampled_from(queue_names("tone")), after=MOMENTS)
    def pause_or_resume(self, queue: str, after: float) -> None:
        self.let_pass(after)
        if queue in self.client.paused():
            self.say(f"{self.client.resume(queue)} resumed")
        else:
            self.say(f"{self.client.pause(queue)} paused")

    @invariant()
    def listeners_get_the_right_audio(self) -> None:
        for listener in self.listening.values():
            if listener.done():
                listener.result()

    def teardown(self) -> None:
        failure = sys.exc_info()[1]
        try:
            if failure is None:
                self.check_the_end()
            elif isinstance(failure, Exception):  # any other exception is Hypothesis ending the run
                print(self.story())  # noqa: T201 - Hypothesis prints the steps without their times
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from error
        finally:
            self.client.close()
            self.world.close()
            self.listeners.shutdown(cancel_futures=True)

    def check_the_end(self) -> None:
        """Cause no more faults, wait for all jobs, and assert that each has ended in a state that it may end in."""
        if all(member.left for member in self.world.members):
            self.start()
        self.client.resume()
        self.say("no more faults")
        self.following += [Follower(job) for job in self.asked]  # these read each job from its start
        for follower in self.following:
            if follower not in self.listening:
                self.listening[follower] = self.listeners.submit(follower.hear_all)
        for listener in self.listening.values():
            listener.result()
        expected = {job.speech.id: Expected(job.samples, frozenset(self.may(job))) for job in self.asked}
        check_jobs(self.world.db, expected, OVER_S)
        for follower in self.following:
            state = follower.job.speech.status().state
            assert follower.outcome == {"failed": "poison"}.get(state, state), (
                f"{follower}: read {follower.outcome}, but the state is {state}"
            )
        self.world.check_workers()
        self.seen.update(["runs", *(job.speech.status().state for job in self.asked)])

    def may(self, job: Job) -> set[str]:
        """Return the states in which a job may have ended, at the end of the run."""
        poisoned = self.world.losses_since(job.accepted_at) >= 2
        return job.may | ({"failed"} if poisoned and "ended" in job.may else set())

    def story(self) -> str:
        """Return all steps with their times, and the folder of the logs."""
        return "\n".join([*self.done, f"the logs are in {self.world.folder}"])

    def worker_of(self, job: Job) -> Member | None:
        """Wait until a job is spoken, at most RESCUED_S. Return its worker; None if no worker speaks it."""
        until_s = time.monotonic() + RESCUED_S
        while (state := job.speech.status()).state != "running" and not state.over and time.monotonic() < until_s:
            self.let_pass(0.05)
        return self.world.named(state.worker) if state.state == "running" else None

    def enqueue_all(self, specs: list[dict[str, Any]]) -> MultipleResults[Job]:
        """Enqueue jobs and return them."""
        return multiple(*(self.enqueue_one(spec) for spec in specs))

    def enqueue_one(self, spec: dict[str, Any]) -> Job:
        began = time.monotonic()
        speech = self.client.enqueue(**spec, id=f"job-{len(self.asked)}")
        job = Job(speech, reference(spec["text"], seed=spec["seed"]), began)
        self.asked.append(job)
        self.say(
            f"{job} enqueued: {len(spec['text'])} characters, {spec['voice']}, {spec['engine']}-{spec['priority']}"
        )
        return job


@dataclass
class Lane:
    """A series of runs, in parallel with other lanes."""

    number: int
    seed: int
    folder: Path
    forks: ForkServer
    seen: Counter[str] = field(default_factory=Counter)
    """The number of complete runs, and the number of jobs by the state in which they ended."""

    def make(self, most: int) -> None:
        """Make `most` runs. Raise the error of the first run that fails.

        One more run comes before them: Hypothesis begins with the simplest one, which has the first jobs and no faults.
        """
        folders = (self.folder / f"run-{self.number}-{number}" for number in count())

        @seed(self.seed * LANES + self.number)
        def spooler() -> Spooler:
            return Spooler(next(folders), self.forks, self.seen)

        plan = settings(
            max_examples=most + 1, stateful_step_count=STEPS, database=None, phases=[Phase.generate],
            report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        run_state_machine_as_test(spooler, settings=plan)


@pytest.mark.long
def test_each_sample_is_spoken_once_despite_random_faults_in_random_order(
    tmp_path: Path, fork_server: ForkServer
) -> None:
    first, runs = int(os.environ.get("MODEL_SEED", "0")), int(os.environ.get("MODEL_RUNS", RUNS))
    lanes = [Lane(number, first, tmp_path, fork_server) for number in range(min(LANES, runs))]
    with ThreadPoolExecutor(len(lanes)) as pool:
        made = [pool.submit(lane.make, len(range(lane.number, runs, LANES))) for lane in lanes]
    print(f"seed {first}: {dict(sum((lane.seen for lane in lanes), Counter()))}")  # noqa: T201 - pytest -s shows it
    for one in made:
        one.result()
