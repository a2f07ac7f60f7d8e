"""A password in a Redis URL logs its user in, with and without TLS, and appears in no output, log or error."""

from __future__ import annotations

import subprocess
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.acl import GuardedRedis
from tests.support.processes import clean_env, until
from tests.support.reference import SENTENCE, tone
from tests.support.tls import Certificate, in_front_of
from voxspool import RedisUnavailableError
from voxspool.connections import connection
from voxspool.protocol import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]
    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

SECRET: Final = "s3cret"
"""Part of every password. It needs no escapes in a URL."""
BOOK: Final = SENTENCE * 1000
"""A text that is spoken for longer than a test runs."""


@dataclass
class RedisBehindTls(GuardedRedis):
    """A redis-server with the users of docs/voxspool.acl, behind a proxy that terminates TLS."""

    outside: int = 0
    """Port of the proxy; 0 without a proxy."""
    authority: Path | None = None
    """Certificate of the trusted authority."""

    def url_of(self, user: str) -> str:
        url = super().url_of(user)
        if not self.outside:
            return url
        place = f"127.0.0.1:{self.outside}/0?ssl_ca_certs={self.authority}"
        return url.replace("redis://", "rediss://").replace(f"127.0.0.1:{self.port}/0", place)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisBehindTls]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisBehindTls(folder, append_only=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def db(redis_server: RedisBehindTls) -> Iterator[redis.Redis]:
    with redis_server.raw("admin") as admin:
        yield admin


@pytest.fixture
def behind_tls(redis_server: RedisBehindTls, tmp_path: Path) -> Iterator[RedisBehindTls]:
    mine = Certificate.make(tmp_path, "mine")
    with in_front_of(redis_server.port, mine) as port:
        redis_server.outside, redis_server.authority = port, mine.certificate
        yield redis_server


def worker_command(*words: str, url: str) -> subprocess.CompletedProcess[bytes]:
    """Run `voxspool-worker …` with the URL in the environment."""
    environ = clean_env() | {"VOXSPOOL_REDIS_URL": url}
    command = [sys.executable, "-m", "voxspool_worker", *words, "--engine", "tone"]
    return subprocess.run(command, capture_output=True, env=environ, timeout=60, check=False)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return the output of a command, after asserting that it does not contain the secret."""
    words = (done.stdout + done.stderr).decode()
    assert SECRET not in words
    return words


def test_all_users_work_over_tls_with_user_and_password_in_the_url(
    behind_tls: RedisBehindTls, start_worker: StartWorker, run_cli: RunCli
) -> None:
    worker = start_worker()
    with behind_tls.client("producer") as producer, behind_tls.client("consumer") as consumer:
        speech = producer.enqueue(SENTENCE * 20)
        assert b"".join(chunk.pcm for chunk in consumer.speech(speech.id).chunks()) == tone(SENTENCE * 20)
        book = producer.enqueue(BOOK)
        until(lambda: book.status().state == "running", "the book to start")
        assert book.cancel() == "asked"
        until(lambda: book.status().state == "cancelled", "the book to be cancelled")
    done = run_cli("status", redis_url=behind_tls.url_of("producer"))
    assert worker.name in said(done)
    checked = worker_command("check", url=behind_tls.url_of("worker"))
    assert f"at rediss://worker:***@127.0.0.1:{behind_tls.outside}/0" in said(checked)
    assert "ok    redis" in said(checked)
    assert SECRET not in worker.said()


def wrong_authority(server: RedisBehindTls, folder: Path) -> str:
    return server.url.replace("mine.crt", Certificate.make(folder, "theirs").certificate.name)


def no_authority(server: RedisBehindTls, folder: Path) -> str:
    del folder
    return server.url.partition("?")[0]


def wrong_password(server: RedisBehindTls, folder: Path) -> str:
    del folder
    return server.url.replace(SECRET, f"{SECRET}-wrong")


def wrong_user(server: RedisBehindTls, folder: Path) -> str:
    del folder
    return server.url.replace("//worker:", "//nobody:")


def no_tls(server: RedisBehindTls, folder: Path) -> str:
    del folder
    return server.url.partition("?")[0].replace("rediss:", "redis:")


@pytest.mark.parametrize(
    ("mistake", "saying"),
    [
        (wrong_authority, "certificate verify failed"),
        (no_authority, "certificate verify failed"),
        (wrong_password, "refused the login (invalid username-password pair"),
        (wrong_user, "refused the login (invalid username-password pair"),
        (no_tls, "no Redis answers at redis://worker:***@127.0.0.1"),
    ],
)
def test_a_refused_connection_is_reported_in_one_line_without_the_secret(
    mistake: Callable[[RedisBehindTls, Path], str],
    saying: str,
    behind_tls: RedisBehindTls,
    tmp_path: Path,
    run_cli: RunCli,
) -> None:
    url = mistake(behind_tls, tmp_path)
    for done in (run_cli("status", redis_url=url), worker_command("run", url=url)):
        assert done.returncode == 1
        assert saying in said(done)
        assert said(done).count("\n") == 1
    assert saying in said(worker_command("check", url=url))
    with pytest.raises(RedisUnavailableError) as caught:
        connection.check(url)
    assert SECRET not in traceback_of(caught.value)


def traceback_of(error: BaseException) -> str:
    """Return what Python prints for an uncaught error, with its causes."""
    return "".join(traceback.format_exception(error)) + repr(error)


def test_no_password_is_shown_during_a_redis_outage(
    redis_server: RedisBehindTls, start_worker: StartWorker, run_cli: RunCli
) -> None:
    worker = start_worker()
    with redis_server.client("producer") as client:
        book = client.enqueue(BOOK, id="book")
        until(lambda: book.status().segments_done, "the first segment of the book")
        redis_server.stop()
        until(lambda: "redis.away" in worker.said(), "the worker to notice the outage")
        for command in (("status",), ("enqueue", "x"), ("voices",), ("follow", "book"), ("cancel", "book")):
            done = run_cli(*command, redis_url=redis_server.url_of("producer"))
            assert "no Redis answers at redis://producer:***@127.0.0.1" in said(done)
            assert done.returncode == 1
        assert "MISS  redis" in said(worker_command("check", url=redis_server.url_of("worker")))
        redis_server.start()
        assert book.cancel() in ("asked", "cancelled")
        until(lambda: book.status().state == "cancelled", "the book to be cancelled")
        assert client.enqueue(SENTENCE).wait(timeout_s=60).segments == 1
    assert worker.name in said(run_cli("status", "--json", redis_url=redis_server.url_of("producer")))
    with redis_server.raw("admin") as db:
        record = {**db.hgetall(keys.worker(worker.name)), **db.hgetall(f"rq:worker:{worker.name}")}
    assert SECRET not in str(record)
    worker.process.terminate()
    assert worker.wait() == 0
    assert SECRET not in worker.said()
