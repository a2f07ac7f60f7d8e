"""Each Redis user of docs/voxspool.acl can do all its work and has no permission that it does not need."""

from __future__ import annotations

import contextlib
import io
import subprocess
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import redis
import soundfile
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.support.acl import PLAIN, PRECISE, USERS, GuardedRedis, Traffic, allowed, denials
from tests.support.processes import server_path, until
from tests.support.reference import SENTENCE, tone
from voxspool import Client, NarrationJobs, NarrationRecord, RedisUnavailableError, SpeechCancelledError
from voxspool.protocol import keys, narration
from voxspool.protocol.jobs import TASK, JobSpec
from voxspool_worker.voices import conditioning_tiers
from voxspool_worker.voices.cloned import VoiceLibrary
from voxspool_worker.voices.conditioning_cache import ConditioningCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import WorkerProcess
    from voxspool_worker.voices.conditioning_format import Arrays

    StartWorker = Callable[..., WorkerProcess]

BOOK: Final = SENTENCE * 1000
"""A text that is spoken for longer than a test runs."""
UNMEASURED: Final = {
    "ping": "health checks by clients and by people",
    "select": "a database other than 0",
    "info": "every voxspool command first reads the version, on a connection that closes before it is recorded",
    "unwatch": "redis-py sends it when RQ abandons a transaction",
    "client|setname": "MONITOR omits it; RQ's record of the worker shows that it worked",
    "client|info": "as above",
    "lpos": "to close the stream of a job that RQ has lost, which tests/worker/queue/test_open_streams.py shows",
    "xrevrange": "to record the end of a job again after a lost reply, which test_rq_records.py shows",
}
"""Allowed command that the test does not see a user send -> why the user may send it."""


def is_redis_7() -> bool:
    """Return whether the tests' Redis server supports read-only key permissions, which Redis 7 introduced."""
    said = subprocess.run([server_path(), "--version"], capture_output=True, text=True, check=True).stdout
    return int(said.split("v=")[1].split(".")[0]) >= 7


def guarded(file: Path, folder: Path) -> GuardedRedis:
    """Return a Redis server with an ACL file; skip the test if the server is too old for the file."""
    if file == PRECISE and not is_redis_7():
        pytest.skip("this redis-server is older than 7 and has no read-only key permissions")
    return GuardedRedis(folder, file=file)


@pytest.fixture(params=[PLAIN, PRECISE], ids=lambda file: file.name)
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GuardedRedis]:
    """Start a Redis with the users. `start_worker` starts workers as the user `worker`."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = guarded(request.param, folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def db(redis_server: GuardedRedis) -> Iterator[redis.Redis]:
    with redis_server.raw("admin") as admin:
        yield admin


@pytest.fixture
def client(redis_server: GuardedRedis) -> Iterator[Client]:
    with redis_server.client("producer") as client:
        yield client


@pytest.fixture
def consumer(redis_server: GuardedRedis) -> Iterator[Client]:
    with redis_server.client("consumer") as client:
        yield client


def recording() -> bytes:
    """Return a WAV file of 6 s from which a voice can be cloned."""
    at_s = np.arange(24_000 * 6) / 24_000
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 2 * at_s)
    file = io.BytesIO()
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 220 * at_s) * swell, 24_000, format="WAV")
    return file.getvalue()


# All work of each user


def produce(client: Client, bare: redis.Redis) -> None:
    """Call all methods of a Client that a producer needs, except those that need a running job."""
    assert client.enqueue(SENTENCE, id="hello").id == "hello"
    assert client.place(JobSpec(SENTENCE, id="hello")).why == "a job with this id exists already"
    assert [info.engine for info in client.workers()] == ["tone"]
    assert "sine" in client.voices()
    waiting = client.enqueue(SENTENCE, engine="xtts")
    assert client.overview().queues["voxspool-xtts-interactive"] == 1
    place = waiting.queue_place()
    assert place
    assert place.ahead == 0
    assert waiting.cancel() == "cancelled"
    assert client.retry(waiting.id).cancel() == "cancelled"
    client.add_voice("alice", [recording()])
    client.add_voice("alice", [recording()], replace=True)
    assert list(client.cloned_voices()) == ["alice"]
    client.remove_voice("alice")
    client.enqueue(SENTENCE, engine="xtts", id="my-1")
    script = (files("voxspool.lua") / "cancel.lua").read_text(encoding="utf-8")
    said: Any = bare.eval(script, 2, keys.audio("my-1"), keys.control("my-1"), "alice", '{"by":"alice"}', 3600)
    assert said == b"cancelled"
    assert client.enqueue(SENTENCE, engine="xtts", id="my-1").cancel() == "cancelled"


def consume(client: Client) -> None:
    """Read a speech with every method of a Client, also after its end."""
    speech = client.speech("hello")
    assert b"".join(chunk.pcm for chunk in speech.chunks()) == tone(SENTENCE)
    assert speech.status().state == "ended"
    assert speech.wait().segments == 1
    (middle, *_) = list(speech.chunks())
    assert list(speech.chunks(after=middle.id))
    assert speech.end() is not None
    assert list(speech.entries(after=str(list(speech.entries())[-1].id))) == []
    assert client.workers()
    assert client.why_unserved("voxspool-tone-batch") is None
    with pytest.raises(SpeechCancelledError):
        client.speech("my-1").wait()


def read_bare(bare: redis.Redis) -> None:
    """Send the commands of docs/protocol.md for a reader without Python."""
    assert bare.hget(keys.control("hello"), "state") == b"ended"
    assert bare.hget("rq:job:hello", "status") == b"finished"
    assert not bare.xread({keys.audio("nobody"): "0-0"}, block=1)


def work(
    client: Client, db: redis.Redis, start_worker: StartWorker, traffic: Traffic, readers: list[redis.Redis]
) -> None:
    """Make workers return, reassign, cancel, narrate and finish jobs, including one that depends on another."""
    first = start_worker()
    traffic.note_users()
    book = client.place(JobSpec(BOOK, id="book", live_s=60)).speech
    until(lambda: book.status().segments_done, "the first segment of the book")
    for reader in readers:
        traffic.forget_scripts()
        assert acknowledge(reader, "book") == b"noted"
    for _ in range(2):
        first.process.terminate()
        until(lambda: "worker.stopping" in first.said(), "the worker to handle the signal")
    until(lambda: traffic.note_users() or first.process.poll() is not None, "the worker to exit")
    assert first.wait() == 0
    assert "job.handed_back" in first.said()
    second = start_worker()
    traffic.note_users()
    until(lambda: book.status().attempt == 2, "the second attempt of the book")
    assert book.cancel() == "asked"
    until(lambda: book.status().state == "cancelled", "the book to be cancelled")
    until(lambda: db.hget("rq:job:book", "status") == b"stopped", "RQ to record the end")
    left = JobSpec(SENTENCE, id="left")
    call: Any = {"args": (left.encode(),), "job_id": left.id, "description": "x"}
    Queue("voxspool-xtts-interactive", connection=db, serializer=JSONSerializer).enqueue_call(TASK, **call)
    client.speech("left").wait(timeout_s=20)
    assert "job.let_go" in second.said()
    until(lambda: client.workers()[0].store, "the store to be open")
    chapter = narration.chapter("chapter", [narration.Passage(SENTENCE)], client.workers()[0].store, engine="tone")
    narrations = NarrationJobs(client)
    narrations.place(chapter)
    narrations.record("a-book", NarrationRecord("A Book", "here", "out", ("chapter",)))
    assert narrations.find("a-book").jobs == ("chapter",)
    client.speech("chapter").wait(timeout_s=20)
    record = NarrationRecord("A book", "here", "/book", ("chapter",))
    narrations.record("book-000000", record)
    assert narrations.find("book-000000") == record
    again = client.enqueue(SENTENCE, voice="sine-live", id="again")
    until(lambda: again.status().state == "running", "the job to run")
    assert again.cancel() == "asked"
    client.enqueue(SENTENCE, id="again").wait(timeout_s=20)
    then = JobSpec(SENTENCE, id="then")
    long = client.enqueue(SENTENCE * 20)
    queue = Queue(then.queue, connection=db, serializer=JSONSerializer)
    after = Job.fetch(long.id, connection=db, serializer=JSONSerializer)
    queue.enqueue_call(TASK, args=(then.encode(),), job_id=then.id, depends_on=after, description="x")
    client.speech("then").wait(timeout_s=20)
    until(lambda: db.hget("rq:job:then", "status") == b"finished", "RQ to record the end")
    traffic.note_users()
    assert db.hget(f"rq:worker:{second.name}", "ip_address") != b"unknown"


def acknowledge(bare: redis.Redis, job: str) -> bytes:
    """Send the position of a listener as a player does, and return the reply."""
    script = bare.register_script((files("voxspool.lua") / "ack.lua").read_text(encoding="utf-8"))
    said: bytes = script(keys=[keys.control(job), keys.acknowledged(job)], args=[7, keys.ACKNOWLEDGED_TTL_S])
    return said


def pause(client: Client) -> None:
    """Pause a queue and resume it."""
    client.pause("voxspool-auto-batch")
    batch = client.enqueue(SENTENCE, priority="batch")
    client.enqueue(SENTENCE).wait(timeout_s=20)
    assert batch.status().state == "queued"
    assert client.overview().paused == ["voxspool-auto-batch"]
    client.resume("voxspool-auto-batch")
    batch.wait(timeout_s=20)
    assert client.enqueue(SENTENCE, priority="batch", id=batch.id).end() is not None


def look_for_voices(bare: redis.Redis) -> None:
    """Look up a cloned voice and its clips."""
    library = VoiceLibrary(bare)
    assert library.known() == {}
    assert library.find("alice") is None
    assert library.clips("alice", []) == []


def share_conditioning(bare: redis.Redis, db: redis.Redis, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share a value through Redis: compute it until its lock is renewed, read it, and replace a damaged value."""
    monkeypatch.setattr(conditioning_tiers, "RENEWAL_S", 0.05)
    lock, lifetime_ms = keys.conditioning_lock("key"), 1000 * keys.CONDITIONING_LOCK_TTL_S

    def compute() -> Arrays:
        db.pexpire(lock, lifetime_ms // 2)
        until(lambda: db.pttl(lock) > lifetime_ms * 2 / 3, "the lock to be renewed")
        return {"x": np.ones(4, np.float32)}

    for machine, source in (("a", "computed"), ("b", "redis")):
        cache = ConditioningCache(lambda arrays: float(arrays["x"].sum()), folder=folder / machine, redis=bare)
        assert cache.get("key", compute)[1].source == source
    bare.set(keys.conditioning("key"), b"damaged")
    cache = ConditioningCache(lambda arrays: float(arrays["x"].sum()), folder=folder / "c", redis=bare)
    assert cache.get("key", compute)[1].source == "computed"


def test_each_user_can_do_all_its_work_and_has_no_unneeded_permission(
    redis_server: GuardedRedis, db: redis.Redis, client: Client, consumer: Client, start_worker: StartWorker,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    traffic = Traffic(db)
    with contextlib.ExitStack() as stack:
        bare = {user: stack.enter_context(redis_server.raw(user)) for user in USERS}
        player = stack.enter_context(redis_server.client("player"))
        stack.enter_context(traffic.watched())
        worker = start_worker()
        produce(client, bare["producer"])
        pause(client)
        for reader in (consumer, player, client):
            consume(reader)
        for user in ("consumer", "player"):
            read_bare(bare[user])
        look_for_voices(bare["worker"])
        share_conditioning(bare["worker"], db, tmp_path, monkeypatch)
        traffic.note_users()
        worker.process.terminate()
        assert worker.wait() == 0
        work(client, db, start_worker, traffic, [bare["player"], bare["producer"]])
    assert denials(db) in ([], [("consumer", "evalsha")]), "a consumer tries once to acknowledge"
    unused = {user: allowed(redis_server.file, user) - traffic.of(user) - set(UNMEASURED) for user in USERS}
    assert {user: commands for user, commands in unused.items() if commands} == {}
    untouched = {user: traffic.untouched(user, redis_server.file) for user in USERS}
    assert {user: found for user, found in untouched.items() if found} == {}


def test_a_reader_without_permission_to_acknowledge_reads_the_whole_speech(
    consumer: Client, client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    start_worker()
    client.place(JobSpec(SENTENCE * 200, id="live", live_s=3600))
    assert b"".join(chunk.pcm for chunk in consumer.speech("live").chunks()) == tone(SENTENCE * 200)
    assert denials(db) == [("consumer", "evalsha")], "the reader tried once"
    assert not db.exists(keys.acknowledged("live"))


# Denied commands, on one server for all tests


@pytest.fixture(scope="module", params=[PLAIN, PRECISE], ids=lambda file: file.name)
def acl_redis(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    """Start a Redis with the users and with one key of each kind."""
    server = guarded(request.param, tmp_path_factory.mktemp("redis"))
    server.start()
    with server.raw("admin") as admin:
        for key in ("rq:job:j", "voxspool:{j}:ctl", "rq:worker:w", "voxspool:{voices}", "voxspool:worker:w"):
            admin.hset(key, "field", "value")
        for key in ("rq:queue:voxspool-auto-batch", "voxspool:{voices}:clips:alice", "rq:queue:other"):
            admin.rpush(key, "value")
        for key in ("voxspool:{j}:audio", "rq:results:j"):
            admin.xadd(key, {"field": "value"})
        admin.set("other", "value")
    yield server
    server.stop()


NOBODY_MAY: Final = (
    "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET maxmemory 1", "SHUTDOWN NOSAVE", "DEBUG SLEEP 0", "KEYS *",
    "SCAN 0", "ACL LIST", "ACL WHOAMI", "ACL SETUSER me on nopass ~* +@all", "CLIENT LIST", "CLIENT KILL ID 1",
    "CLIENT PAUSE 1", "MONITOR", "SAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "MIGRATE 127.0.0.1 1 other 0 1",
    "MODULE LIST", "SLOWLOG GET", "LATENCY LATEST", "SCRIPT FLUSH", "SCRIPT KILL", "SWAPDB 0 1", "GET other",
    "SET other x", "DUMP other", "RENAME other o", "RANDOMKEY", "SORT rq:queue:voxspool-auto-batch BY rq:job:*",
    "OBJECT FREQ other", "SUBSCRIBE other", "PUBLISH other x", "LRANGE rq:queue:other 0 -1", "RPUSH rq:queue:other x",
    "XTRIM voxspool:{j}:audio MAXLEN 0", "XDEL voxspool:{j}:audio 1-1", "PSUBSCRIBE *", "UNLINK other",
)  # fmt: skip
READERS_MAY_NOT: Final = (
    "XADD voxspool:{j}:audio * a b", "DEL voxspool:{j}:audio", "RPUSH rq:queue:voxspool-auto-batch x",
    "LRANGE rq:queue:voxspool-auto-batch 0 -1", "LPOP rq:queue:voxspool-auto-batch", "HGETALL voxspool:{voices}",
    "LRANGE voxspool:{voices}:clips:alice 0 -1", "HGETALL rq:worker:w", "XRANGE rq:results:j - +",
    "SADD voxspool:paused x", "SADD voxspool:workers x", "DEL rq:job:j", "PUBLISH rq:pubsub:w x",
    "SUBSCRIBE rq:pubsub:w", "GET voxspool:conditioning:{k}", "EVAL return(1) 0", "HDEL rq:job:j field",
    "HINCRBY voxspool:{j}:ctl attempt 1",
)  # fmt: skip
DENIED: Final = {
    "consumer": (
        *NOBODY_MAY, *READERS_MAY_NOT, "HSET voxspool:{j}:ctl cancel me", "HSET rq:job:j data x",
        "HSET voxspool:{j}:ack pos 1", "SCRIPT LOAD return(1)", "EVALSHA 0 0", "EXPIRE voxspool:{j}:audio 0",
    ),
    "player": (*NOBODY_MAY, *READERS_MAY_NOT),
    "producer": (
        *NOBODY_MAY, "LRANGE rq:queue:voxspool-auto-batch 0 -1", "LPOP rq:queue:voxspool-auto-batch",
        "LPUSH rq:queue:voxspool-auto-batch x", "LRANGE voxspool:{voices}:clips:alice 0 -1", "HGETALL rq:worker:w",
        "XRANGE rq:results:j - +", "SUBSCRIBE rq:pubsub:w", "GET voxspool:conditioning:{k}",
        "SET voxspool:conditioning:{k} x", "DEL voxspool:conditioning:{k}", "SADD rq:workers x",
        "ZADD rq:failed:voxspool-auto-batch 0 x",
    ),
    "worker": (
        *NOBODY_MAY, "PUBLISH rq:pubsub:w x", "XREAD STREAMS voxspool:{j}:audio 0", "XRANGE voxspool:{j}:audio - +",
        "EVAL return(1) 0",
    ),
}  # fmt: skip
DENIED_BY_7: Final = {
    "player": (
        "HSET voxspool:{j}:ctl cancel me", "HSET rq:job:j data x", "EXPIRE rq:job:j 0", "EXPIRE voxspool:{j}:audio 0",
        "HSET voxspool:worker:w engine x",
    ),
    "producer": (
        "DEL voxspool:{j}:audio", "DEL rq:job:j", "DEL rq:queue:voxspool-auto-batch",
        "ZADD rq:wip:voxspool-auto-batch 0 x", "SREM voxspool:workers w", "HSET voxspool:worker:w engine x",
        *(f"{command} voxspool:{{new}}:{key} {value}" for key in ("audio", "ctl", "ack")
          for command, value in (("RPUSH", "x"), ("SADD", "x"), ("ZADD", "0 x"), ("DEL", ""))),
        "HSET voxspool:{new}:audio a b", "HDEL voxspool:{j}:audio a", "XADD voxspool:{new}:ctl * a b",
        "XADD rq:queue:voxspool-auto-batch * a b", "XADD rq:job:new * a b",
    ),
    "worker": ("HSET voxspool:{voices} alice x", "RPUSH voxspool:{voices}:clips:alice x", "SET rq:suspended 1"),
}  # fmt: skip
"""User -> commands that only the read-only key permissions of Redis 7 deny."""


def granted(server: GuardedRedis, user: str, commands: tuple[str, ...]) -> list[str]:
    """Return the commands that Redis does not refuse to a user."""
    with server.raw(user) as bare:
        return [command for command in commands if not refused(bare, command)]


def refused(bare: redis.Redis, command: str) -> bool:
    """Return whether Redis refuses a command."""
    try:
        bare.execute_command(*command.split())
    except redis.exceptions.NoPermissionError:
        return True
    except redis.ResponseError as error:
        return "not allowed" in str(error) or "unknown command" in str(error)  # for all users, or in this version
    return False


@pytest.mark.parametrize("user", USERS)
def test_commands_that_a_user_does_not_need_are_denied(user: str, acl_redis: GuardedRedis) -> None:
    precisely = DENIED_BY_7.get(user, ()) if acl_redis.file == PRECISE else ()
    assert granted(acl_redis, user, DENIED[user] + precisely) == []


@pytest.mark.parametrize("user", ["producer", "player", "worker"])
def test_a_script_has_the_permissions_of_the_user_who_runs_it(user: str, acl_redis: GuardedRedis) -> None:
    with acl_redis.raw(user) as bare, pytest.raises(redis.ResponseError, match=r"can't run this command|ACL failure"):
        bare.register_script("return redis.call('FLUSHALL')")()


def test_a_restart_from_the_append_only_file_restores_writes_of_scripts_and_transactions(
    acl_redis: GuardedRedis, tmp_path: Path
) -> None:
    """A restart restores all data: Redis 7 replays it as the user `default`, which is off but has all permissions."""
    server = GuardedRedis(tmp_path, file=acl_redis.file, append_only=True)
    server.start()
    with server.client("producer") as client:
        client.enqueue(SENTENCE, id="kept")
    server.stop()
    server.start()
    try:
        with server.client("producer") as client:
            assert client.speech("kept").spec() == JobSpec(SENTENCE, id="kept")
            assert client.overview().queues == {"voxspool-auto-interactive": 1}
    finally:
        server.stop()


@pytest.mark.parametrize("password", ["", "x", "nopass"])
def test_nobody_can_log_in_as_default(password: str, acl_redis: GuardedRedis) -> None:
    with (
        contextlib.closing(
            redis.Redis(port=acl_redis.port, username="default", password=password, retry=None)
        ) as nobody,
        pytest.raises(redis.AuthenticationError),
    ):
        nobody.ping()


def test_a_connection_without_a_password_is_refused(acl_redis: GuardedRedis) -> None:
    with (
        contextlib.closing(redis.Redis(port=acl_redis.port, retry=None)) as nobody,
        pytest.raises(redis.AuthenticationError),
    ):
        nobody.ping()


@pytest.mark.parametrize("file", [PLAIN, PRECISE], ids=lambda file: file.name)
def test_redis_refuses_an_acl_file_with_placeholders(file: Path, tmp_path: Path) -> None:
    command = [str(server_path()), "--port", "0", "--unixsocket", str(tmp_path / "s"), "--aclfile", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "The password hash must be exactly 64 characters" in done.stdout


COMMANDS: Final = (
    ("producer", "enqueue", "Good morning.", "--job-id", "morning"),
    ("consumer", "status", "morning"),
    ("producer", "status"),
    ("producer", "voices"),
    ("producer", "speak", "Good evening.", "-o", "-"),
    ("consumer", "follow", "morning", "--raw"),
    ("player", "follow", "morning", "--raw"),
)


def test_the_commands_work_for_each_user(
    redis_server: GuardedRedis, db: redis.Redis, start_worker: StartWorker, run_cli: Callable[..., Any]
) -> None:
    start_worker()
    for user, *command in COMMANDS:
        done = run_cli(*command, redis_url=redis_server.url_of(user))
        assert done.returncode == 0, done.stderr.decode()
    assert denials(db) == []


@pytest.mark.parametrize(
    ("url", "saying"),
    [
        ("redis://consumer:wrong-pass@{place}", "refused the login (invalid username-password pair"),
        ("redis://nobody:wrong-pass@{place}", "refused the login (invalid username-password pair"),
        ("redis://{place}", "refused the login (it requires a password)"),
    ],
)
def test_a_refused_login_is_reported_in_one_line(
    url: str, saying: str, acl_redis: GuardedRedis, run_cli: Callable[..., Any]
) -> None:
    done = run_cli("status", redis_url=url.format(place=f"127.0.0.1:{acl_redis.port}/0"))
    said = done.stderr.decode()
    assert done.returncode == 1
    assert saying in said
    assert said.count("\n") == 1
    assert "wrong-pass" not in said


def test_a_client_without_permission_raises_an_error_of_one_line(acl_redis: GuardedRedis) -> None:
    with (
        acl_redis.client("consumer") as consumer,
        pytest.raises(RedisUnavailableError, match="refused the login") as caught,
    ):
        consumer.enqueue("Good morning.")
    assert "\n" not in str(caught.value)
    assert acl_redis.passwords["consumer"] not in str(caught.value)
