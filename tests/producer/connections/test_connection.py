"""Connections to Redis, tested with small servers that speak its protocol; tests/system uses real ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import socketserver
import string
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from voxspool import AsyncClient, Client, Settings
from voxspool.connections import connection
from voxspool.connections.connection import check, connect, translated
from voxspool.connections.urls import shown
from voxspool.errors import RedisError, RedisTooOldError, RedisUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "hunter2secret"
URLS = [  # the forms that redis-py accepts
    f"redis://:{SECRET}@localhost",
    f"redis://:{SECRET}@localhost:6379/0",
    f"redis://user:{SECRET}@localhost:6379/0?socket_timeout=3",
    f"rediss://user:{SECRET}@redis.example.org:6380/1",
    f"redis://user:{SECRET}@127.0.0.1:6379",
    f"redis://user:{SECRET}@[::1]:6379/0",
    f"redis://:{SECRET}@[fe80::1%25eth0]",
    f"unix://user:{SECRET}@/run/redis.sock?db=0",
    f"unix://:{SECRET}@/run/redis.sock",
    f"redis://user:with:{SECRET}@localhost",
    f"redis://user:with@{SECRET}@localhost",
    f"redis://user:with%2F{SECRET}@localhost",
]
UNREADABLE = [  # mistakes that people make
    f"redis://:{SECRET}@[::1",
    f"redis://:{SECRET}@localhost:port",
    f"redis://:{SECRET}@localhost:99999",
    f"http://user:{SECRET}@localhost",
    f"REDIS://:{SECRET}@localhost",
    f"redis://user:{SECRET}]@localhost",
]
LEAKY = [
    f"redis://user:{SECRET}/x@localhost",
    f"redis://user:x/{SECRET}@localhost",
    f"redis://user:x#{SECRET}@localhost",
    f"redis://user:x?{SECRET}@localhost",
    f"user:{SECRET}@localhost:6379",
    f"redis:user:{SECRET}@localhost",
    f"redis:/user:{SECRET}@localhost",
    f"redis://:[{SECRET}]@localhost",
    f"redis://:{SECRET}\u2100@localhost",  # its normal form has a slash
]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yield a port of this machine on which no program listens, and which no other program can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def server(answer: Callable[[list[bytes]], bytes]) -> Iterator[str]:
    """Listen on loopback and answer each command; yield the URL."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                while head := self.rfile.readline():
                    self.wfile.write(answer([self._argument() for _ in range(int(head[1:]))]))

        def _argument(self) -> bytes:
            size = int(self.rfile.readline()[1:])
            return self.rfile.read(size + 2)[:size]

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listening.server_address[1]}"
        finally:
            listening.shutdown()
            thread.join()


def redis_of(info: bytes) -> Callable[[list[bytes]], bytes]:
    """Return the answers of a Redis that accepts the login and replies `info` to INFO."""

    def answer(command: list[bytes]) -> bytes:
        match command[0].upper():
            case b"HELLO":
                return b"%1\r\n$5\r\nproto\r\n:" + command[1] + b"\r\n"
            case b"INFO":
                return b"$%d\r\n%b\r\n" % (len(info), info)
            case b"SELECT" | b"AUTH":
                return b"+OK\r\n"
        return b"-ERR unknown command\r\n"

    return answer


def version(said: str) -> Callable[[list[bytes]], bytes]:
    return redis_of(b"# Server\r\nredis_version:" + said.encode() + b"\r\nredis_mode:standalone\r\n")


def always(line: bytes) -> Callable[[list[bytes]], bytes]:
    return lambda _: line + b"\r\n"


def refusal(url: str) -> str:
    with pytest.raises(RedisUnavailableError) as caught:
        check(url)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Passwords in messages


@pytest.mark.parametrize("url", [*URLS, *UNREADABLE])
def test_a_password_is_never_shown(url: str) -> None:
    assert SECRET not in shown(url)
    assert "hunter" not in shown(url)


@pytest.mark.parametrize("url", UNREADABLE)
def test_an_error_about_a_url_does_not_show_its_password(url: str) -> None:
    with pytest.raises(RedisUnavailableError) as caught:
        connect(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.AuthenticationError("no")])
@pytest.mark.parametrize("url", URLS)
def test_an_error_of_a_server_does_not_show_the_password(url: str, error: Exception) -> None:
    connect(url).close()
    with pytest.raises(RedisUnavailableError) as caught, translated(url):
        raise error
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", LEAKY)
def test_a_password_that_breaks_the_url_is_not_shown(url: str) -> None:
    with pytest.raises(RedisUnavailableError) as caught:
        connect(url)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", [*UNREADABLE, *LEAKY])
def test_the_traceback_of_an_uncaught_error_shows_no_password(url: str) -> None:
    with pytest.raises(RedisUnavailableError) as caught:
        check(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", [f"redis://localhost?password={SECRET}", f"unix:///redis.sock?db=1&password={SECRET}"])
def test_a_password_in_the_query_is_not_shown(url: str) -> None:
    assert SECRET not in shown(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:pw@localhost:6379/0?db=1", "redis://user:***@localhost:6379/0?db=1"),
        ("redis://:pw@localhost", "redis://:***@localhost"),
        ("rediss://user:pw@[::1]:6380/1", "rediss://user:***@[::1]:6380/1"),
        ("unix://user:pw@/run/redis.sock?db=2", "unix://user:***@/run/redis.sock?db=2"),
        ("redis://user:@localhost", "redis://user:***@localhost"),
        ("redis://:pw@[::1", "redis://:***@[::1"),
    ],
)
def test_a_url_without_its_password_still_names_the_server(url: str, said: str) -> None:
    assert shown(url) == said


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:6379/0",
        "redis://user@localhost",
        "unix:///run/redis.sock",
        "redis://[::1]:6379",
        "",
        "nonsense",
    ],
)
def test_a_url_without_a_password_is_shown_as_it_is(url: str) -> None:
    assert shown(url) == url


@settings(max_examples=150)
@given(
    scheme=st.sampled_from(["redis", "rediss", "unix"]),
    user=st.sampled_from(["", "user", "%C3%BC", "user:with"]),
    password=st.text(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:@%[]é", max_size=12),
    host=st.sampled_from(["localhost", "localhost:6379", "[::1]", "[::1]:6379", "[::1", "", "host:port", "a@b"]),
    rest=st.sampled_from(["", "/", "/0", "/run/redis.sock", "?db=0", "/0?socket_timeout=1#x", "#"]),
)
def test_no_url_shows_its_password(scheme: str, user: str, password: str, host: str, rest: str) -> None:
    secret = f"<{password}>"  # found in nothing else
    said = shown(f"{scheme}://{user}:{secret}@{host}{rest}")
    assert secret not in said
    assert "<" not in said
    assert ">" not in said


@settings(max_examples=150)
@given(st.text(max_size=30) | st.text("redis:/@[]?#%0a.\u2100", max_size=30))
def test_any_text_can_be_shown(url: str) -> None:
    assert isinstance(shown(url), str)


# Wrong URLs, and servers that are not Redis


@pytest.mark.parametrize(
    "url", ["", "nonsense", "localhost:6379", "http://localhost", "redis://[::1", "redis://a:b", "redis://a?db=x"]
)
def test_a_text_that_is_not_a_url_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(
        RedisUnavailableError, match=r"not a Redis URL; write it like redis://localhost:6379/0"
    ) as caught:
        connect(url)
    assert "\n" not in str(caught.value)
    assert repr(shown(url)) in str(caught.value)


@settings(max_examples=100)
@given(st.text(max_size=20) | st.text("redis:/@[]?#%0a.=&", max_size=30).map("redis://{}".format))
def test_any_text_makes_a_client_or_a_voxspool_error(url: str) -> None:
    try:
        connect(url, retries=0).close()
    except RedisUnavailableError as error:
        assert "write it like" in str(error)  # noqa: PT017 - most are refused


def test_nothing_is_sent_before_it_is_needed(closed_port: int) -> None:
    connect(f"redis://127.0.0.1:{closed_port}").close()


def test_an_error_for_a_silent_address_names_it_and_what_to_do(closed_port: int) -> None:
    message = refusal(f"redis://user:{SECRET}@127.0.0.1:{closed_port}/3")
    assert message.startswith(f"no Redis answers at redis://user:***@127.0.0.1:{closed_port}/3 (")
    assert "--redis or VOXSPOOL_REDIS_URL" in message
    assert SECRET not in message


def test_a_missing_socket_is_named(tmp_path: object) -> None:
    assert f"no Redis answers at unix://{tmp_path}/redis.sock" in refusal(f"unix://{tmp_path}/redis.sock")


def test_a_server_that_closes_the_connection_counts_as_no_redis() -> None:
    class HangUp(socketserver.BaseRequestHandler):
        pass

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        assert "no Redis answers" in refusal(f"redis://127.0.0.1:{listening.server_address[1]}")
        listening.shutdown()
        thread.join()


def test_a_server_of_another_protocol_is_refused() -> None:
    with server(always(b"HTTP/1.1 400 Bad Request")) as url:
        refusal(url)


@pytest.mark.parametrize("line", [b"-DENIED Redis is running in protected mode", b"-ERR nobody knows"])
def test_a_server_that_denies_access_is_a_voxspool_error(line: bytes) -> None:
    with server(always(line)) as url:
        refusal(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://my..host",
        f"redis://{'a' * 64}",
        "redis://127.0.0.1:1?nonsense=1",
        "rediss://127.0.0.1:1?ssl_cert_reqs=nonsense",
    ],
)
def test_a_url_that_is_found_wrong_while_connecting_is_a_voxspool_error(url: str) -> None:
    refusal(url)


# Versions, logins and lost connections


@pytest.mark.parametrize("said", ["6.2.0", "6.2.14", "7.0", "7.4.1", "8.2.1", "10.0.0", "255.255.255"])
def test_a_server_that_is_new_enough_is_accepted(said: str) -> None:
    with server(version(said)) as url:
        assert check(url) == said


@pytest.mark.parametrize("said", ["6.0.16", "6.1.240", "5.0.14", "2.8.0"])
def test_a_server_that_is_too_old_is_refused_with_both_versions(said: str) -> None:
    with server(version(said)) as url, pytest.raises(RedisTooOldError) as caught:
        check(url)
    assert str(caught.value).startswith(f"Redis at {url} is version {said}; voxspool needs 6.2 or later; name another")


@pytest.mark.parametrize(
    "line",
    [
        b"-NOAUTH Authentication required.",
        b"-NOAUTH HELLO must be called with the client already authenticated",
        b"-WRONGPASS invalid username-password pair or user is disabled.",
        b"-NOPERM this user has no permissions to run the 'info' command",
    ],
)
def test_an_error_for_a_refused_login_says_where_to_put_the_password(line: bytes) -> None:
    with server(always(line)) as url:
        message = refusal(url)
    assert message.startswith(f"Redis at {url} refused the login (")
    assert message.endswith("redis://USER:PASSWORD@HOST:6379/0")


def test_a_wrong_password_is_not_repeated() -> None:
    with server(always(b"-WRONGPASS invalid username-password pair")) as url:
        assert SECRET not in refusal(url.replace("//", f"//user:{SECRET}@"))


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.TimeoutError("late"), redis.BusyLoadingError()])
def test_a_lost_connection_is_a_voxspool_error_with_its_cause(error: Exception) -> None:
    with (
        pytest.raises(RedisUnavailableError, match="no Redis answers at redis://here") as caught,
        translated("redis://here"),
    ):
        raise error
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("a"), RedisTooOldError("old")])
def test_other_errors_are_not_translated(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translated("redis://here"):
        raise error
    assert caught.value is error


def test_a_reply_may_take_longer_than_a_read_blocks() -> None:
    from voxspool.reading.reader import BLOCK_MS

    assert BLOCK_MS / 1000 < connection.LEAST_TIMEOUT_S < connection.TIMEOUT_S


@pytest.fixture
def fickle() -> Callable[[list[bytes]], bytes]:
    """Return the answers of a Redis that closes its first three connections at their first command."""
    commands = itertools.count()
    good = version("7.0.0")

    def answer(command: list[bytes]) -> bytes:
        if next(commands) < 3:
            raise ConnectionResetError
        return good(command)

    return answer


def test_a_connection_that_is_closed_at_once_is_made_again(
    fickle: Callable[[list[bytes]], bytes],
) -> None:
    with server(fickle) as url, contextlib.closing(connect(url, retries=0)) as client:
        assert client.info("server")["redis_version"] == "7.0.0"


def test_an_asyncio_connection_that_is_closed_at_once_is_made_again(fickle: Callable[[list[bytes]], bytes]) -> None:
    async def ask(url: str) -> str:
        pool = connection.AsyncPatientPool.from_url(url, **connection.async_options(retries=0))
        async with redis.asyncio.Redis.from_pool(pool) as client:
            return str((await client.info("server"))["redis_version"])

    with server(fickle) as url:
        assert asyncio.run(ask(url)) == "7.0.0"


# No Redis at all

SOON_S = 8.0
"""The longest time until the error on a busy machine, in seconds. Retrying, as for a Redis that has answered before,
would take 11 s, and with a silent server a minute."""


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Listen, accept connections and never answer; yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def crowded() -> Iterator[str]:
    """Listen with a full backlog, so that no further connection is accepted; yield the URL."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            waiting.connect_ex(listening.getsockname())
        yield f"redis://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.contextmanager
def closed() -> Iterator[str]:
    """Yield the URL of a port on which no program listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{held.getsockname()[1]}"


def enqueue(url: str) -> None:
    with Client(url, settings=Settings()) as client:
        client.enqueue("Hello.")


def follow(url: str) -> None:
    with Client(url, settings=Settings()) as client:
        list(client.speech("mine"))


def enqueue_async(url: str) -> None:
    async def work() -> None:
        async with AsyncClient(url, settings=Settings()) as client:
            await client.enqueue("Hello.")

    asyncio.run(work())


def follow_async(url: str) -> None:
    async def work() -> None:
        async with AsyncClient(url, settings=Settings()) as client:
            async for _ in client.speech("mine"):
                pass

    asyncio.run(work())


@pytest.mark.parametrize("act", [enqueue, follow, enqueue_async, follow_async, check])
@pytest.mark.parametrize("place", [closed, silent, crowded])
def test_without_any_redis_there_is_one_error_within_seconds(
    place: Callable[[], contextlib.AbstractContextManager[str]], act: Callable[[str], object]
) -> None:
    with place() as url:
        began = time.monotonic()
        with pytest.raises(
            RedisUnavailableError, match=f"^no Redis answers at {url} \\(.*; start one, or name"
        ) as caught:
            act(url)
        assert time.monotonic() - began < SOON_S
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("act", [enqueue, enqueue_async, follow_async, check])
def test_a_slow_lookup_of_a_host_name_is_not_waited_for(
    act: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def slow(*_: object, **__: object) -> NoReturn:
        over.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    began = time.monotonic()
    with pytest.raises(RedisUnavailableError, match=r"no answer within 1.5 s"):
        act("redis://redis.example:6379")
    assert time.monotonic() - began < SOON_S
    over.set()


def test_a_server_that_has_answered_once_is_waited_for() -> None:
    commands: list[bytes] = []
    good = version("7.0.0")

    def answer(command: list[bytes]) -> bytes:
        commands.append(command[0].upper())
        if commands[-1] == b"INFO" and commands.count(b"INFO") < 3:
            raise ConnectionResetError
        return good(command) if command[0].upper() != b"PING" else b"+PONG\r\n"

    with server(answer) as url, contextlib.closing(connect(url, first_answer=True)) as client:
        assert client.info("server")["redis_version"] == "7.0.0"
        client.info("server")
    assert commands.count(b"PING") == 1
    assert commands.count(b"INFO") == 4


@pytest.mark.parametrize("line", [b"-NOAUTH Authentication required.", b"-NOPERM no permissions", b"-LOADING the data"])
def test_a_refusal_counts_as_an_answer(line: bytes) -> None:
    with server(always(line)) as url:
        connection.FirstAnswer(url).wait()


# Clients that a program makes itself


ASYNC = redis.asyncio.Redis


@pytest.mark.parametrize("kind", [redis.Redis, ASYNC])
def test_a_client_that_the_program_made_is_used_as_it_is(kind: Any) -> None:  # noqa: ANN401 - plain or asyncio
    made = kind(socket_timeout=None)
    assert connection.made_by(lambda: made, kind, "redis=") is made
    assert connection.made_by(lambda: kind(socket_timeout=2), kind, "redis=")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (ASYNC(), "returned redis.asyncio.client.Redis; it must return a redis.Redis"),
        (None, "returned builtins.NoneType; it must return a redis.Redis"),
        (redis.Redis(decode_responses=True), "decodes replies, but audio is bytes; make it with decode_responses=Fal"),
        (redis.Redis(socket_timeout=0.5), "has a socket_timeout of 0.5 s, .* make it with socket_timeout=5$"),
    ],
)
def test_an_unusable_client_is_refused_before_it_is_used(made: Any, said: str) -> None:  # noqa: ANN401 - any
    with pytest.raises(RedisError, match=f"redis= .*{said}") as caught:
        Client(settings=Settings(), redis=lambda: made)
    assert caught.value.wrong_value
    assert "\n" not in str(caught.value)


def test_an_unusable_asyncio_client_is_refused_at_its_first_use() -> None:
    async def use() -> None:
        client = AsyncClient(settings=Settings(), redis=lambda: ASYNC(decode_responses=True), sync_redis=redis.Redis)
        await client.speech("mine").status()

    with pytest.raises(RedisError, match="decode_responses=False"):
        asyncio.run(use())


def test_a_factory_and_a_url_exclude_each_other() -> None:
    with pytest.raises(RedisError, match="not both"):
        Client("redis://localhost", settings=Settings(), redis=redis.Redis)


@pytest.mark.parametrize("given", [{"redis": ASYNC}, {"sync_redis": redis.Redis}])
def test_asyncio_needs_a_factory_for_streams_and_one_for_rq(given: dict[str, Any]) -> None:
    with pytest.raises(RedisError, match=r"needs both redis=.* and sync_redis="):
        AsyncClient(settings=Settings(), **given)


def sentinel() -> redis.Redis:
    found: redis.Redis = redis.Sentinel([("localhost", 26379)]).master_for("speeches", password=SECRET)
    return found


@pytest.mark.parametrize(
    ("made", "where"),
    [
        (redis.Redis(), "redis://localhost:6379/0"),
        (redis.Redis("10.0.0.1", 6380, db=2, username="user", password=SECRET), "redis://10.0.0.1:6380/2"),
        (redis.Redis("::1", ssl=True), "rediss://[::1]:6379/0"),
        (redis.Redis(unix_socket_path="/run/redis.sock", password=SECRET), "unix:///run/redis.sock?db=0"),
        (redis.Redis.from_url(f"redis://:{SECRET}@localhost:7000/3"), "redis://localhost:7000/3"),
        (sentinel(), "the Sentinel service speeches"),
    ],
)
def test_the_address_of_a_programs_own_client_is_shown_without_its_password(made: redis.Redis, where: str) -> None:
    assert Client(settings=Settings(), redis=lambda: made).url == where


@pytest.mark.parametrize("given", ["redis://localhost", redis.Redis(), 7])
def test_a_value_that_is_not_a_factory_is_refused_with_what_to_pass(given: object) -> None:
    with pytest.raises(RedisError, match=r"redis= is .*it must be a function that returns a redis\.Redis"):
        Client(redis=given)  # type: ignore[arg-type]


def test_sentinels_that_do_not_answer_are_one_short_line() -> None:
    url = "redis+sentinel://:secret@127.0.0.1:1/speech?sentinel_password=secret"
    with pytest.raises(RedisUnavailableError) as caught, Client(url) as client:
        client.workers()
    said = str(caught.value)
    assert said.startswith(
        "no Sentinel names a primary for redis+sentinel://:***@127.0.0.1:1/speech?sentinel_password=***; "
    )
    assert "secret" not in said
    assert len(said) < 250
