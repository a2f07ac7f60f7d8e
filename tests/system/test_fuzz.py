"""Arbitrary data as a job, its call, its stream or its state: each fails once and clearly, and the worker continues."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.processes import RedisServer, WorkerProcess, clean_env, until
from tests.support.reference import tone
from voxspool import Client, Settings, VoxspoolError
from voxspool.protocol import keys
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool.protocol.stream import STATES, TERMINAL, decode
from voxspool.reading.reader import Cursor, judge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUE: Final = "voxspool-tone-interactive"
WORD: Final = "Rosebud"
"""A word that every text in this file contains, and nothing else. It must not appear in logs and errors."""
TEXT: Final = f"{WORD} was the word."
NUMBER: Final = itertools.count()
LIVELY = settings(
    max_examples=30, phases=[Phase.generate], report_multiple_bugs=False, derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
"""The same examples in each run, and no shrinking: each example is followed by a good job, which takes time."""
THOROUGH = settings(max_examples=500, derandomize=True, database=None)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
EXTREMES = st.sampled_from(
    [
        -1,
        0,
        2**31,
        2**63,
        2**64,
        10**30,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "\0",
        "\ud800",
        "9" * 5000,
        "x" * 300_000,
    ]
)
BREAKERS: Final = (
    b"", b"\xff\xfe", b"9" * 5000, b"-1", b"0", b"nan", b"[[[", b"\x80\x04.", zlib.compress(b"[]"), b"x" * 4_000_000,
    zlib.compress(b" " * 100_000_000),
)  # fmt: skip
LEFT: Final = (
    "rq:queue:*", "rq:wip:*", "rq:execution:*", "rq:executions:*", "rq:worker:*:executions", "rq:deferred:*",
)  # fmt: skip
PATHS = st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8}){0,4}", fullmatch=True) | st.sampled_from(
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "voxspool_worker.tasks.speaker.get",
        TASK + ".x",
        "voxspool_worker.tasks",
        ".",
    ]
)
VALUES = (
    st.binary(max_size=40)
    | st.integers().map(str).map(str.encode)
    | st.sampled_from(
        [b"", b"9" * 5000, b"-9" * 50, b"1e999", b"nan", b"\xff" * 8, b"2026-13-45T99:99:99Z", b"[]", b"{}", b"null"]
    )
    | JSON.map(lambda value: json.dumps(value).encode())
)
RQ_FIELDS: Final = (
    "data", "status", "timeout", "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "origin",
    "result_ttl", "failure_ttl", "ttl", "retries_left", "retry_intervals", "number_of_retries", "meta", "result",
    "exc_info", "dependency_id", "dependency_ids", "allow_dependency_failures", "enqueue_at_front", "worker_name",
    "group_id", "repeats_left", "repeat_intervals", "success_callback_name", "failure_callback_name",
    "stopped_callback_name", "success_callback_timeout", "webhooks", "description", "deaths", "died_at", "serializer",
)  # fmt: skip
CTL_FIELDS: Final = (
    "state", "attempt", "seq", "pos", "segments", "marked_segments", "marked_pos", "worker", "engine", "voice",
    "sample_rate", "cancel", "holder", "lease_until", "live_s", "window_s",
)  # fmt: skip


def spec_of(job: str) -> dict[str, Any]:
    return JobSpec(TEXT, id=job, engine="tone").encode()


def good_call(job: str) -> bytes:
    return json.dumps([TASK, None, [spec_of(job)], {}]).encode()


@dataclass
class Spooler:
    """A Redis, a worker and a client, which must continue to work after any job."""

    client: Client
    db: redis.Redis
    worker: WorkerProcess
    checked: int = 0
    """The length of the part of the worker's log that is checked already, in characters."""

    def put(self, job: bytes | str, fields: dict[Any, Any]) -> None:
        """Enqueue a job with these fields of its hash, which a Client may never write."""
        if fields:
            self.db.hset(b"rq:job:" + (job if isinstance(job, bytes) else job.encode()), mapping=fields)
        self.db.rpush(f"rq:queue:{QUEUE}", job)

    def put_call(self, *call: object, job: str = "", pack: Callable[[bytes], bytes] = bytes) -> str:
        """Enqueue a job with this call and return its id."""
        job = job or new()
        self.put(job, {"status": "queued", "data": pack(json.dumps(call).encode())})
        return job

    def assert_it_continues(self, *jobs: str) -> None:
        """Assert that a good job is spoken, and that the jobs before it left no keys and were closed at most once."""
        good = self.client.enqueue(TEXT, engine="tone", id=new())
        assert b"".join(chunk.pcm for chunk in good.chunks(timeout_s=20)) == tone(TEXT)
        until(lambda: not self._left_over(), "all queues, leases and records to be deleted", 20)
        assert self.worker.process.poll() is None
        said = self.worker.said()[self.checked :]
        self.checked += len(said)
        assert WORD not in said
        assert "Traceback" not in said
        for job in jobs:
            assert self._closings(job) <= 1
            assert said.count(f"job={job} ") <= 2, "one line at the start of the job and one at its end"
            result = self.db.xrevrange(f"rq:results:{job}") if self.db.type(f"rq:results:{job}") == b"stream" else []
            assert len(result) <= 1
            assert WORD not in str(result)

    def _left_over(self) -> list[bytes]:
        """Return the queues, leases and execution records that exist."""
        return [key for pattern in LEFT for key in self.db.scan_iter(pattern, count=1000)]

    def _closings(self, job: str) -> int:
        """Return the number of terminal entries in a job's stream. Assert that none contains the text."""
        if self.db.type(keys.audio(job)) != b"stream":
            return 0
        terminal = [fields for _, fields in self.db.xrange(keys.audio(job)) if fields[b"type"].decode() in STATES]
        assert WORD not in str(terminal)
        return len(terminal)


def new() -> str:
    """Return a new job id."""
    return f"job-{next(NUMBER)}"


@pytest.fixture(scope="module")
def spooler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spooler]:
    server, log = RedisServer(tmp_path_factory.mktemp("redis")), tmp_path_factory.mktemp("worker") / "worker.log"
    server.start()
    command = [sys.executable, "-m", "voxspool_worker", "run", "--engine", "tone", "--redis", server.url]
    env = clean_env() | {"VOXSPOOL_HEALTH_DIR": str(log.parent / "health")}
    with log.open("w") as out:
        process = subprocess.Popen(command, stderr=out, stdout=out, text=True, env=env)
    worker = WorkerProcess(process, log)
    try:
        until(lambda: "worker.ready" in worker.said(), "a worker")
        with Client(settings=Settings(redis_url=server.url)) as client, redis.Redis(port=server.port) as db:
            yield Spooler(client, db, worker)
    finally:
        process.kill()
        process.wait()
        server.stop()


@LIVELY
@given(
    fields=st.dictionaries(st.sampled_from(RQ_FIELDS), VALUES, max_size=5),
    strange=st.dictionaries(st.binary(max_size=8), VALUES, max_size=2),
)
def test_any_fields_of_a_job_hash_are_spoken_or_refused(
    fields: dict[str, bytes], strange: dict[bytes, bytes], spooler: Spooler
) -> None:
    job = new()
    spooler.put(job, {"status": "queued", "data": good_call(job)} | fields | strange)
    spooler.assert_it_continues(job)


@pytest.mark.parametrize("field", RQ_FIELDS)
def test_values_that_break_parsers_are_refused_in_every_field(field: str, spooler: Spooler) -> None:
    jobs = [new() for _ in BREAKERS]
    for job, value in zip(jobs, BREAKERS, strict=True):
        spooler.put(job, {"status": "queued", "data": good_call(job)} | {field: value})
    spooler.assert_it_continues(*jobs)


@LIVELY
@given(call=st.lists(JSON | st.just(TEXT) | st.just([TEXT]), max_size=5), pack=st.sampled_from([bytes, zlib.compress]))
def test_any_json_as_a_call_is_refused(call: list[object], pack: Callable[[bytes], bytes], spooler: Spooler) -> None:
    spooler.assert_it_continues(spooler.put_call(*call, pack=pack))


@LIVELY
@given(
    function=PATHS | JSON | st.just(TEXT) | st.just([TEXT]),
    instance=st.none() | JSON,
    named=st.just({}) | st.dictionaries(st.text(max_size=5), JSON, max_size=2),
)
def test_any_function_in_a_call_is_refused(
    function: object, instance: object, named: dict[str, object], spooler: Spooler
) -> None:
    job = new()
    spooler.put_call(function, instance, [spec_of(job)], named, job=job)
    spooler.assert_it_continues(job)


@LIVELY
@given(
    st.dictionaries(st.sampled_from(list(spec_of("x"))) | st.text(max_size=5), JSON | EXTREMES, min_size=1, max_size=3)
)
def test_any_json_in_a_job_spec_is_spoken_or_refused(spooler: Spooler, changes: dict[str, object]) -> None:
    job = new()
    spooler.put_call(TASK, None, [spec_of(job) | changes], {}, job=job)
    spooler.assert_it_continues(job)


@pytest.mark.parametrize("argument", [TEXT, [TEXT], {"text": [TEXT]}, {"text": {WORD: TEXT}}], ids=repr)
def test_a_text_in_a_wrong_place_is_not_repeated_in_logs_and_errors(argument: object, spooler: Spooler) -> None:
    job = new()
    spec = spec_of(job) | argument if isinstance(argument, dict) else argument
    spooler.put_call(TASK, None, [spec], {}, job=job)
    spooler.assert_it_continues(job)


@LIVELY
@given(
    ids=st.lists(
        st.binary(max_size=30) | st.text(max_size=20).map(lambda text: text.encode(errors="replace")), max_size=5
    ),
    fields=st.sampled_from([{}, {"status": "queued", "data": good_call("x")}]),
)
def test_any_ids_in_a_queue_are_skipped_or_refused(
    ids: list[bytes], fields: dict[str, object], spooler: Spooler
) -> None:
    for job in ids:
        spooler.put(job, fields)
    spooler.assert_it_continues()


@LIVELY
@given(st.dictionaries(st.sampled_from(CTL_FIELDS) | st.text(max_size=5), VALUES, min_size=1, max_size=5))
def test_any_control_fields_before_a_job_begins_do_not_stop_the_worker(
    spooler: Spooler, control: dict[str, bytes]
) -> None:
    job = new()
    spooler.db.hset(keys.control(job), mapping=control)
    spooler.put(job, {"status": "queued", "data": good_call(job)})
    spooler.assert_it_continues(job)


@pytest.mark.parametrize("key", ["voxspool:{J}:audio", "voxspool:{J}:ctl", "voxspool:{J}:ack", "rq:job:J"])
def test_a_key_of_another_type_does_not_stop_the_worker(key: str, spooler: Spooler) -> None:
    job = new()
    spooler.db.set(key.replace("J", job), "x", ex=60)
    spooler.put(job, {} if key == "rq:job:J" else {"status": "queued", "data": good_call(job)})
    spooler.assert_it_continues(job)


SPOILT: Final = (
    "rq:queue:voxspool-auto-batch", "rq:wip:voxspool-tone-batch", "rq:finished:voxspool-tone-interactive",
    "rq:failed:voxspool-tone-interactive", "rq:canceled:voxspool-tone-interactive", "rq:queues", "rq:workers",
    "rq:workers:voxspool-tone-interactive", keys.PAUSED, keys.OPEN, keys.UNSERVED, keys.VOICES,
    keys.narrating("tone"), keys.WORKERS, keys.worker("a-card"),
)  # fmt: skip


def health_of(spooler: Spooler) -> str:
    """Return the health file of the worker."""
    return "".join(path.read_text() for path in spooler.worker.log.parent.glob("health/*.worker"))


def test_spoilt_shared_keys_stop_nothing_else_and_are_named(spooler: Spooler) -> None:
    for key in SPOILT:
        kept = spooler.db.exists(key) and spooler.db.rename(key, f"kept:{key}")
        spooler.db.set(key, "x")
        speech = spooler.client.enqueue(TEXT, engine="tone", id=new())
        assert b"".join(chunk.pcm for chunk in speech.chunks(timeout_s=20)) == tone(TEXT), key
        until(lambda job=speech.id: spooler.db.hget(f"rq:job:{job}", "status") == b"finished", f"the end with {key}")
        overview = spooler.client.overview()
        spooler.client.pause("xtts") if key != keys.PAUSED else None
        spooler.client.resume("xtts") if key != keys.PAUSED else None
        if key in (keys.PAUSED, keys.WORKERS, "rq:queues") or ":queue:" in key or ":wip:" in key:
            assert any(key in sentence for sentence in overview.spoilt), key
        if key == "rq:workers":
            until(lambda: "rq:workers is a string" in health_of(spooler), "the health file to name it", 10)
        spooler.db.delete(key)
        if kept:
            spooler.db.rename(f"kept:{key}", key)
    until(spooler.client.workers, "the card of the worker")
    said = spooler.worker.said()
    for key in SPOILT:
        assert said.count(f"redis.spoilt {key} ") <= 1, "not one line for each look"
    assert said.count("redis.spoilt ") > 0
    assert said.count("rescue.refused ") < len(SPOILT)
    spooler.assert_it_continues()


def test_after_a_cancel_or_a_timeout_the_text_is_in_no_key_but_its_job(spooler: Spooler) -> None:
    book, slow = spooler.client.enqueue(TEXT * 1000, engine="tone", id=new()), new()
    call = [TASK, None, [JobSpec(TEXT * 1000, id=slow, engine="tone", voice="sine-live").encode()], {}]
    spooler.put(slow, {"status": "queued", "timeout": 1, "data": json.dumps(call)})
    until(lambda: book.status().segments_done, "the first segment")
    book.cancel()
    for job, state in ((book.id, b"cancelled"), (slow, b"failed")):
        until(lambda job=job, state=state: spooler.db.hget(keys.control(job), "state") == state, f"{job} to be {state}")
    spooler.assert_it_continues(book.id, slow)
    for key in spooler.db.scan_iter():
        assert WORD not in content(spooler.db, key), key


def content(db: redis.Redis, key: bytes) -> str:
    """Return the value of a key as a string, without the field `data` of a hash."""
    readers: dict[bytes, Callable[[], Any]] = {
        b"hash": lambda: [item for item in db.hgetall(key).items() if item[0] != b"data"],
        b"list": lambda: db.lrange(key, 0, -1),
        b"set": lambda: db.smembers(key),
        b"zset": lambda: db.zrange(key, 0, -1),
        b"stream": lambda: db.xrange(key),
        b"string": lambda: db.get(key),
    }
    return str(readers[db.type(key)]())


ENTRIES = st.dictionaries(
    st.sampled_from([b"type", b"pos", b"data"]) | st.binary(max_size=6),
    VALUES | st.sampled_from([b"begin", b"audio", b"mark", b"end", b"failed", b"cancelled"]),
    max_size=5,
)  # fmt: skip


@THOROUGH
@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), ENTRIES), max_size=4), st.booleans())
def test_any_entries_are_read_or_raise_a_voxspool_error(
    entries: list[tuple[int, int, dict[bytes, bytes]]],
    mapping: bool,  # noqa: FBT001 - hypothesis
) -> None:
    found = [(f"{attempt}-{seq}".encode(), fields) for attempt, seq, fields in entries]
    with contextlib.suppress(VoxspoolError):
        Cursor().take({b"k": [found]} if mapping else [[b"k", found]])
    for fields in (fields for _, _, fields in entries):
        with contextlib.suppress(VoxspoolError):
            decode(fields)


@THOROUGH
@given(
    st.dictionaries(st.sampled_from(CTL_FIELDS).map(str.encode) | st.binary(max_size=5), VALUES, max_size=6),
    st.none() | VALUES,
    st.none() | VALUES,
)
def test_any_control_fields_are_judged_or_raise_a_voxspool_error(
    control: dict[bytes, bytes], status: bytes | None, origin: bytes | None
) -> None:
    with contextlib.suppress(VoxspoolError):
        judge("job", [control, [status, origin], (1_795_000_000, 0)])


@pytest.mark.parametrize("kind", [entry.type for entry in TERMINAL])
def test_a_malformed_terminal_entry_raises_a_voxspool_error_in_one_line(
    kind: str, client: Client, db: redis.Redis
) -> None:
    job = f"job-{next(NUMBER)}"
    db.xadd(keys.audio(job), {"type": kind, "pos": "9" * 5000, "data": "{}"}, id="1-1")
    for ask in (client.speech(job).wait, client.speech(job).end, client.speech(job).status):
        with pytest.raises(VoxspoolError) as caught:
            ask()
        assert "\n" not in str(caught.value)
