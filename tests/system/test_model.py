"""Random faults in random order on real processes, checked against a model of what each job may come to.

The model: a job that was accepted is spoken to its end, each sample once. It may be cancelled only if it was asked to
be, and must be if Redis said that it is. It may fail only as poison, and only if two workers were lost that could have
held it: killed, or frozen for longer than a lease. That a Redis stalls or restarts costs nobody anything.

    MODEL_RUNS=1000 MODEL_SEED=7 python -m pytest -s tests/system/test_model.py      what `make soak` does

The choices follow from the seed; when a worker reaches a chunk does not, so a run that failed may pass when it is tried
again. It prints what was done, and leaves the logs of its workers and Redis's append-only file.
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
"""Runs at once: nearly all of a run is waiting, for leases to run out and for live speech."""
STEPS: Final = 14
WORKERS: Final = 3
"""At most, at once."""
JUDGED_S: Final = 120.0
"""All jobs are over by then: leases of 9 s run out, a few times over, on a machine that does much at once."""

RESCUED_S: Final = 12.0
"""A dead worker's jobs are spoken again by then: a lease of 9 s, a look each 2 s."""

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
"""How long after the step before something happens, in seconds: at once, soon, when a dead worker's jobs are back."""

reference = lru_cache(tone)


@dataclass
class Job:
    """A job that was accepted, and what it may come to."""

    speech: Speech
    samples: bytes
    accepted_at: float
    may: set[str] = field(default_factory=lambda: {"ended"})

    def __repr__(self) -> str:
        return self.speech.id


@dataclass(eq=False)
class Follower:
    """A reader of one job, who comes back to where it was: must hear each sample once, and the right one."""

    job: Job
    heard: int = 0
    """Bytes."""
    after: str = "0-0"
    outcome: str = ""
    """How the speech ended, once it has: a state, or a failure's code."""

    def __repr__(self) -> str:
        return f"a follower of {self.job} at {self.after}"

    def hear(self, most: int | None, patience_s: float) -> None:
        """Read so many chunks, or to the end; give up after so long a silence."""
        chunks = self.job.speech.chunks(self.after, timeout_s=patience_s)
        before = self.heard
        try:
            for chunk in islice(chunks, most):
                assert chunk.pos * 2 == self.heard, f"{self}: has {self.heard} bytes and hears sample {chunk.pos}"
                assert self.job.samples.startswith(chunk.pcm, self.heard), f"{self}: hears something else"
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
            self.hear(None, JUDGED_S)
        assert self.outcome, f"{self}: waited {JUDGED_S:g} s in vain"
        assert self.outcome in {"ended", "cancelled", "poison"}, f"{self}: {self.outcome}"
        assert self.outcome != "ended" or self.heard == len(self.job.samples), f"{self}: ended after {self.heard} bytes"


class Spooler(RuleBasedStateMachine):
    """One Redis, up to three workers, and everything that may happen to them."""

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
        """Return whether Redis answers. A client waits briefly for a first answer, and all lanes start at once."""
        try:
            self.client.workers()
        except RedisUnavailableError:
            return False
        return True

    def let_pass(self, seconds: float) -> None:
        """Let time pass; nothing is waited for."""
        threading.Event().wait(seconds)

    def say(self, what: str) -> None:
        """Note what was done, and when."""
        self.done.append(f"{time.monotonic() - self.began:7.2f} s  {what}")

    # -- what may happen -------------------------------------------------------------------------------------------

    @initialize(target=workers, number=st.integers(1, 2))
    def begin_with(self, number: int) -> MultipleResults[Member]:
        return multiple(*(self.start() for _ in range(number)))

    @initialize(target=jobs, specs=st.lists(SPECS, min_size=2, max_size=4))
    def lie_there_before(self, specs: list[dict[str, Any]]) -> MultipleResults[Job]:
        return self.enqueue_all(specs)

    @rule(target=jobs, specs=st.lists(SPECS, min_size=1, max_size=3), after=MOMENTS)
    def enqueue(self, specs: list[dict[str, Any]], after: float) -> MultipleResults[Job]:
        self.let_pass(after)
        return self.enqueue_all(specs)

    @rule(target=followers, job=jobs, live=st.booleans())
    def follow(self, job: Job, live: bool) -> MultipleResults[Follower]:  # noqa: FBT001 - hypothesis passes by name
        follower = Follower(job)
        self.following.append(follower)
        self.say(f"{job} has a follower" + (", who listens" if live else ""))
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
        elif said != "failed":  # whether it may have failed is judged at the end
            assert said in job.may | {"cancelled"}
            job.may = {said}

    @rule(worker=consumes(workers), after=MOMENTS)
    def kill(self, worker: Member, after: float) -> None:
        self.let_pass(after)
        self.say(f"kill -9 {worker}")
        self.world.kill(worker)

    @rule(job=jobs, after=MOMENTS)
    def kill_its_worker(self, job: Job, after: float) -> None:
        """Kill whoever speaks a job, once somebody does: twice in a segment, and it is poison."""
        self.let_pass(after)
        if worker := self.worker_of(job):
            self.say(f"kill -9 {worker}, who speaks {job}")
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
    def listeners_hear_what_they_should(self) -> None:
        for listener in self.listening.values():
            if listener.done():
                listener.result()

    # -- the end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        failure = sys.exc_info()[1]
        try:
            if failure is None:
                self.judge()
            elif isinstance(failure, Exception):  # else hypothesis has ended the run
                print(self.story())  # noqa: T201 - hypothesis says what was done, and not when
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from error
        finally:
            self.client.close()
            self.world.close()
            self.listeners.shutdown(cancel_futures=True)

    def judge(self) -> None:
        """Let everything go its way; each job must come to what it may."""
        if all(member.left for member in self.world.members):
            self.start()
        self.client.resume()
        self.say("judged")
        self.following += [Follower(job) for job in self.asked]  # who come late to all of it
        for follower in self.following:
            if follower not in self.listening:
                self.listening[follower] = self.listeners.submit(follower.hear_all)
        for listener in self.listening.values():
            listener.result()
        expected = {job.speech.id: Expected(job.samples, frozenset(self.may(job))) for job in self.asked}
        check_jobs(self.world.db, expected, JUDGED_S)
        for follower in self.following:
            state = follower.job.speech.status().state
            assert follower.outcome == {"failed": "poison"}.get(state, state), f"{follower}: heard {follower.outcome}"
        self.world.check_workers()
        self.seen.update(["runs", *(job.speech.status().state for job in self.asked)])

    def may(self, job: Job) -> set[str]:
        """Return how a job may have ended, now that all is done."""
        poisoned = self.world.losses_since(job.accepted_at) >= 2
        return job.may | ({"failed"} if poisoned and "ended" in job.may else set())

    def story(self) -> str:
        """Return what was done, and where the logs are."""
        return "\n".join([*self.done, f"the logs are in {self.world.folder}"])

    def worker_of(self, job: Job) -> Member | None:
        """Wait for a job to be spoken, as long as a dead worker's takes to be rescued; say who speaks it."""
        until_s = time.monotonic() + RESCUED_S
        while (state := job.speech.status()).state != "running" and not state.over and time.monotonic() < until_s:
            self.let_pass(0.05)
        return self.world.named(state.worker) if state.state == "running" else None

    def enqueue_all(self, specs: list[dict[str, Any]]) -> MultipleResults[Job]:
        """Enqueue jobs, and expect them to be spoken."""
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
    """Runs one after another, beside other lanes."""

    number: int
    seed: int
    folder: Path
    forks: ForkServer
    seen: Counter[str] = field(default_factory=Counter)
    """How many runs were judged, and in which states how many jobs ended."""

    def make(self, most: int) -> None:
        """Make so many runs; raise for the first that fails.

        There is one more: Hypothesis begins with the simplest, in which nothing happens but the first jobs.
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
def test_whatever_happens_in_whatever_order_each_sample_is_spoken_once(tmp_path: Path, fork_server: ForkServer) -> None:
    first, runs = int(os.environ.get("MODEL_SEED", "0")), int(os.environ.get("MODEL_RUNS", RUNS))
    lanes = [Lane(number, first, tmp_path, fork_server) for number in range(min(LANES, runs))]
    with ThreadPoolExecutor(len(lanes)) as pool:
        made = [pool.submit(lane.make, len(range(lane.number, runs, LANES))) for lane in lanes]
    print(f"seed {first}: {dict(sum((lane.seen for lane in lanes), Counter()))}")  # noqa: T201 - for whoever asked for it
    for one in made:
        one.result()
