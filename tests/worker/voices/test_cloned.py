"""Cloned voices as a worker reads them from a real Redis: fresh by name, remembered when Redis does not answer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import redis

from voxspool.errors import VoiceError
from voxspool.protocol import keys
from voxspool.protocol.voices import ClonedVoice, StoredClip
from voxspool.recordings import MOST_CLIPS, MOST_TOTAL_BYTES
from voxspool_worker.voices.cloned import REFRESH_S, VoiceLibrary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import RedisServer

CLIPS = (b"a first clip", b"a second clip")
CLIP = StoredClip(hashlib.sha256(CLIPS[0]).hexdigest(), 6.0, 24_000, 6.0)


class UnreliableRedis(redis.Redis):
    """A client that counts its commands, and raises ConnectionError while `unreachable` is true."""

    unreachable = False
    commands = 0

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as redis-py's
        self.commands += 1
        if self.unreachable:
            raise redis.ConnectionError("refused")
        return super().execute_command(*args, **options)


class Library(VoiceLibrary):
    """A library whose clock returns `now_s`."""

    def __init__(self, client: redis.Redis) -> None:
        self.now_s = 100.0
        super().__init__(client, lambda: self.now_s)


@pytest.fixture
def client(shared_redis_server: RedisServer, db: redis.Redis) -> Iterator[UnreliableRedis]:
    del db  # it empties the server
    with UnreliableRedis(port=shared_redis_server.port) as client:
        yield client


def add(db: redis.Redis, name: str) -> None:
    db.hset(keys.VOICES, name, ClonedVoice(name, ("en",), "2026-11-01T00:00:00Z", (CLIP,)).encode())


def test_a_voice_is_found_as_soon_as_it_is_added_and_gone_as_soon_as_it_is_removed(
    db: redis.Redis, client: UnreliableRedis
) -> None:
    library = Library(client)
    assert library.find("clara") is None
    add(db, "clara")
    found = library.find("clara")
    assert found
    assert (found.name, found.languages) == ("clara", ("en",))
    db.hdel(keys.VOICES, "clara")
    assert library.find("clara") is None


def test_the_list_of_all_voices_is_read_once_an_interval(db: redis.Redis, client: UnreliableRedis) -> None:
    library = Library(client)
    add(db, "clara")
    assert set(library.known()) == {"clara"}
    add(db, "john")
    assert set(library.known()) == {"clara"}
    assert client.commands == 1
    library.now_s += REFRESH_S
    assert set(library.known()) == {"clara", "john"}


def test_a_voice_that_was_seen_is_known_while_redis_does_not_answer(db: redis.Redis, client: UnreliableRedis) -> None:
    library = Library(client)
    add(db, "clara")
    library.find("clara")
    client.unreachable = True
    found = library.find("clara")
    assert found
    assert found.name == "clara"
    assert set(library.known()) == {"clara"}
    with pytest.raises(redis.ConnectionError):
        library.find("john")


def test_the_list_is_requested_once_an_interval_if_redis_does_not_answer(client: UnreliableRedis) -> None:
    library = Library(client)
    client.unreachable = True
    assert library.known() == library.known() == {}
    assert client.commands == 1


def test_a_voice_with_an_unreadable_description_is_ignored(db: redis.Redis, client: UnreliableRedis) -> None:
    library = Library(client)
    add(db, "clara")
    db.hset(keys.VOICES, "corrupt", b"\xff{")
    assert library.find("corrupt") is None
    assert set(library.known()) == {"clara"}


def test_clips_are_returned_in_order_and_only_if_their_hashes_match(db: redis.Redis, client: UnreliableRedis) -> None:
    library = Library(client)
    wanted = [hashlib.sha256(clip).hexdigest() for clip in CLIPS]
    db.rpush(keys.clips("clara"), *CLIPS)
    assert library.clips("clara", wanted) == list(CLIPS)
    for other in (wanted[:1], wanted[::-1], []):
        with pytest.raises(VoiceError, match="clips of voice clara have changed"):
            library.clips("clara", other)


def test_without_redis_there_is_no_cloned_voice() -> None:
    library = VoiceLibrary(None)
    assert (library.find("clara"), library.known()) == (None, {})
    with pytest.raises(VoiceError):
        library.clips("clara", ["x"])


DIGESTS = [hashlib.sha256(clip).hexdigest() for clip in CLIPS]


def test_the_clips_of_a_voice_are_read_in_order(db: redis.Redis) -> None:
    db.rpush(keys.clips("ada"), *CLIPS)
    assert VoiceLibrary(db).clips("ada", DIGESTS) == list(CLIPS)


@pytest.mark.parametrize("bad", ["count", "one", "together"])
def test_more_clips_than_a_voice_can_have_are_not_read(db: redis.Redis, bad: str) -> None:
    if bad == "count":
        db.rpush(keys.clips("ada"), *[b"x"] * (MOST_CLIPS + 1))
    else:
        db.rpush(keys.clips("ada"), *[bytes(MOST_TOTAL_BYTES // 2 + 1)] * 2 if bad == "together" else [bytes(2**28)])
    before = db.info("stats")["total_net_output_bytes"]
    with pytest.raises(VoiceError, match="voice ada has more than 120 clips, or clips of more than 25165824 bytes"):
        VoiceLibrary(db).clips("ada", DIGESTS)
    assert db.info("stats")["total_net_output_bytes"] - before < 2**20


def test_a_key_of_another_type_is_a_voice_whose_clips_have_changed(db: redis.Redis) -> None:
    db.set(keys.clips("ada"), "x")
    with pytest.raises(VoiceError, match="the clips of voice ada have changed"):
        VoiceLibrary(db).clips("ada", DIGESTS)


def test_a_description_that_is_longer_than_any_is_no_voice(db: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    voice = ClonedVoice("ada", ("en",), "2026-11-01T00:00:00Z", (CLIP,) * 1_000)
    db.hset(keys.VOICES, "ada", voice.encode())
    assert VoiceLibrary(db).find("ada") is None
    assert any("voice.unreadable voice=ada" in line and "65536 is the most" in line for line in caplog.messages)
