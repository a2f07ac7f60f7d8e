"""Cloned voices with a real Redis: a producer stores them, a worker finds them, and all workers share conditioning."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import redis
import soundfile as sf

from tests.support.processes import ROOT, clean_env, until
from voxspool import SpeechFailedError, UnknownVoiceError, VoiceError, VoiceExistsError
from voxspool.connections import connection
from voxspool.protocol import keys
from voxspool.protocol.jobs import queue_names
from voxspool.queue.ending import script
from voxspool_worker.voices.catalog import VoiceBook, VoicePart, find
from voxspool_worker.voices.cloned import VoiceLibrary
from voxspool_worker.voices.conditioning_cache import ConditioningCache
from voxspool_worker.voices.conditioning_format import conditioning_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

    Cli = Callable[..., subprocess.CompletedProcess[bytes]]
    StartWorker = Callable[..., WorkerProcess]


def speech(seconds: float = 4.0, rate: int = 16_000, seed: int = 1) -> bytes:
    """Return a WAV file of noise that swells and fades as syllables do."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).uniform(-1, 1, len(time))
    buffer = io.BytesIO()
    sf.write(buffer, 0.2 * noise * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)), rate, format="WAV")
    return buffer.getvalue()


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Write a recording from which a voice can be cloned, and return its path."""
    path = tmp_path / "alice.wav"
    path.write_bytes(speech())
    return path


def one_line(done: subprocess.CompletedProcess[bytes], code: int = 1) -> str:
    """Return the error of a command, after asserting its exit code and that it printed one line."""
    assert done.returncode == code, done.stderr.decode()
    (line,) = done.stderr.decode().strip().splitlines()
    assert line.startswith("Error: ")
    return line


def write_worker(db: redis.Redis, name: str, engine: str, voices: dict[str, list[str]], *, clones: bool) -> None:
    """Write the record of a live worker. A real engine that clones voices would need a model of gigabytes."""
    record: dict[str, Any] = {
        "engine": engine, "model": "m", "device": "cpu", "sample_rate": 24_000, "voices": json.dumps(voices),
        "clones": int(clones), "queues": ",".join(queue_names(engine)), "jobs": 8, "running": 0, "rows": 8,
        "rows_in_use": 0, "host": "h", "pid": 1,
    }  # fmt: skip
    db.sadd(keys.WORKERS, name)
    db.hset(keys.worker(name), mapping=record)


def stored(db: redis.Redis) -> dict[str, object]:
    """Return all data about voices in Redis."""
    lists = {key.decode(): db.lrange(key, 0, -1) for key in db.keys("voxspool:{voices}:*")}
    return {"descriptions": db.hgetall(keys.VOICES), **lists}


# The commands


def test_a_voice_is_added_listed_shown_and_removed(run_cli: Cli, db: redis.Redis, tmp_path: Path) -> None:
    one, two = tmp_path / "one.wav", tmp_path / "two.mp3"
    one.write_bytes(speech(31, 22_050))
    sf.write(two, sf.read(io.BytesIO(speech(2, 44_100)))[0], 44_100)

    done = run_cli("voices", "add", "alice", str(one), str(two), "--language", "de", "--language", "en-gb")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode() == "voice alice is cloned from 2 clips, 32.0 s; speak with it: --voice alice\n"
    nobody, cut = done.stderr.decode().splitlines()
    assert "no live worker speaks cloned voices" in nobody
    assert cut == f"{one}: its first 30 s of 31.0 s are kept"

    (row,) = json.loads(run_cli("voices", "--json").stdout)
    assert row == {"voice": "alice", "engine": "xtts", "languages": ["de", "en"], "workers": 0, "cloned": True}
    assert run_cli("voices", "list").stdout == run_cli("voices").stdout
    assert run_cli("voices").stdout.decode().split() == ["alice", "xtts", "de/en", "0", "workers", "cloned"]

    shown = json.loads(run_cli("voices", "show", "alice", "--json").stdout)
    flacs = db.lrange(keys.clips("alice"), 0, -1)
    assert [clip["sha256"] for clip in shown["clips"]] == [hashlib.sha256(flac).hexdigest() for flac in flacs]
    assert [sf.info(io.BytesIO(flac)).samplerate for flac in flacs] == [22_050, 44_100]
    assert shown["clips"][0]["sha256"] in run_cli("voices", "show", "alice").stdout.decode()

    assert run_cli("voices", "rm", "alice").stdout.decode() == "voice alice is removed\n"
    assert stored(db) == {"descriptions": {}}
    for command in ("rm", "show"):
        assert "there is no cloned voice 'alice'" in one_line(run_cli("voices", command, "alice"), 2)


def test_adding_a_voice_with_a_taken_name_is_refused_without_replace(
    run_cli: Cli, db: redis.Redis, recording: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.wav"
    other.write_bytes(speech(5, seed=2))
    assert run_cli("voices", "add", "alice", str(recording)).returncode == 0
    before = stored(db)
    assert "the cloned voice alice exists already" in one_line(run_cli("voices", "add", "alice", str(other)))
    assert stored(db) == before
    assert run_cli("voices", "add", "alice", str(other), "--replace").returncode == 0
    assert stored(db) != before
    (clip,) = json.loads(run_cli("voices", "show", "alice", "--json").stdout)["clips"]
    assert clip["duration_s"] == 5
    assert db.llen(keys.clips("alice")) == 1


def test_voices_lists_voices_of_live_workers_and_cloned_voices(
    run_cli: Cli, start_worker: StartWorker, recording: Path
) -> None:
    start_worker()
    assert run_cli("voices", "add", "alice", str(recording)).returncode == 0
    rows = {row["voice"]: row["cloned"] for row in json.loads(run_cli("voices", "list", "--json").stdout)}
    assert rows == {"alice": True, "sine": False, "sine-live": False}
    assert "sine is a voice of the engine tone" in one_line(run_cli("voices", "add", "sine", str(recording)))


@pytest.mark.parametrize("fault", ["unreadable", "quiet", "missing", "name", "language"])
def test_a_refused_voice_leaves_no_keys(
    run_cli: Cli, db: redis.Redis, recording: Path, tmp_path: Path, fault: str
) -> None:
    bad = tmp_path / "bad.flac"
    if fault == "unreadable":
        bad.write_bytes(b"fLaC, or so it says")
    if fault == "quiet":
        sf.write(bad, np.random.default_rng(3).normal(0, 0.002, 80_000), 16_000)
    said = {
        "unreadable": ("alice", f"{bad} is no recording that can be read"),
        "quiet": ("alice", f"{bad} is too quiet: -54 dB"),
        "missing": ("alice", f"cannot read {bad}: No such file"),
        "name": ("al ice", "a voice cannot be called 'al ice'"),
        "language": ("alice", "a cloned voice cannot speak 'tlh'"),
    }
    name, sentence = said[fault]
    clips = [str(recording)] if fault in ("name", "language") else [str(recording), str(bad)]
    language = ["--language", "tlh"] if fault == "language" else []
    wrong_value = fault in {"missing", "name", "language"}
    assert sentence in one_line(run_cli("voices", "add", name, *clips, *language), 2 if wrong_value else 1)
    assert db.keys("voxspool:*") == []


# The client


def test_a_voice_is_cloned_from_bytes_and_files_and_removed(client: Client, recording: Path) -> None:
    voice = client.add_voice("alice", [recording, speech(3)], languages=["pt-BR"])
    assert (voice.name, voice.languages, len(voice.clips)) == ("alice", ("pt",), 2)
    assert client.cloned_voices() == {"alice": voice}
    client.remove_voice("alice")
    assert client.cloned_voices() == {}
    with pytest.raises(UnknownVoiceError, match="alice"):
        client.remove_voice("alice")


def test_adding_the_same_clips_again_after_a_lost_reply_changes_nothing(client: Client, db: redis.Redis) -> None:
    voice = client.add_voice("alice", [speech()])
    flacs = db.lrange(keys.clips("alice"), 0, -1)
    add = script(db, "add_voice")
    arguments = ["alice", "", voice.encode(), *flacs]
    assert add(keys=[keys.VOICES, keys.clips("alice")], args=arguments) == b"added"
    assert db.lrange(keys.clips("alice"), 0, -1) == flacs


def test_jobs_can_name_a_new_cloned_voice_or_a_mix_at_once(client: Client, db: redis.Redis) -> None:
    write_worker(db, "xtts-1", "xtts", {"Ana Florence": ["en"], "Ana": ["en"]}, clones=True)
    write_worker(db, "tone-1", "tone", {"sine": []}, clones=False)
    with pytest.raises(UnknownVoiceError, match="no live worker has a voice 'alice'"):
        client.enqueue("Hello.", voice="alice", engine="xtts")
    client.add_voice("alice", [speech()])
    for voice in ("alice", "alice(2)+Ana Florence(1)", "Ana Florence + alice"):
        assert client.enqueue("Hello.", voice=voice, engine="xtts").status().state == "queued"
    with pytest.raises(UnknownVoiceError, match=r"no live worker has a voice 'alise' \(did you mean alice\?\)"):
        client.enqueue("Hello.", voice="Ana Florence+alise", engine="xtts")
    for voice, kind in (("alice", "cloned"), ("sine+alice", "a mix")):
        with pytest.raises(
            UnknownVoiceError, match=f"is {kind}, and no live worker .* voxspool-worker run --engine xtts"
        ):
            client.enqueue("Hello.", voice=voice, engine="tone")
    with pytest.raises(VoiceExistsError, match="Ana is a voice of the engine xtts"):
        client.add_voice("Ana", [speech()])


def test_a_job_with_a_cloned_voice_or_a_mix_fails_on_an_engine_that_cannot_clone(
    client: Client, start_worker: StartWorker
) -> None:
    waiting = [client.enqueue("Hello.", voice=voice, engine="tone") for voice in ("alice", "sine(2)+sine-live(1)")]
    start_worker()
    for speech_ in waiting:
        with pytest.raises(SpeechFailedError, match="cloned voices and mixes need engine xtts"):
            speech_.wait(timeout_s=20)


def test_the_documented_command_adds_a_voice(client: Client, db: redis.Redis, tmp_path: Path) -> None:
    docs = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    (block,) = (part.split("```")[0] for part in docs.split("```sh\n") if part.startswith("clip="))
    *described, command = block.strip().splitlines()
    sf.write(tmp_path / "alice.flac", sf.read(io.BytesIO(speech()))[0], 16_000, subtype="PCM_16")
    script = "\n".join([*described, 'printf %s "$about"'])
    about = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, check=True).stdout
    words = [about.decode() if word == "$about" else word for word in shlex.split(command)]
    assert words[:4] == ["redis-cli", "-x", "EVAL", "$(cat add_voice.lua)"]
    assert words[-2:] == ["<", "alice.flac"]
    script = (ROOT / "producer/voxspool/lua/add_voice.lua").read_text()
    flac = (tmp_path / "alice.flac").read_bytes()
    assert db.execute_command("EVAL", script, *words[4:-2], flac) == b"added"
    (voice,) = client.cloned_voices().values()
    assert VoiceLibrary(db).clips("alice", [clip.sha256 for clip in voice.clips]) == [flac]


# Voices as a worker finds them


def test_a_worker_finds_added_replaced_and_removed_voices_at_once(client: Client, db: redis.Redis) -> None:
    book = VoiceBook(["Ana"], ("en", "de"), VoiceLibrary(db))
    assert "alice" not in book
    for clip in (speech(), speech(5)):  # a new voice, then its replacement
        (about,) = client.add_voice("alice", [clip], replace=True, languages=["de"]).clips
        voice = find("alice+Ana", book, "xtts")
        assert voice.languages == ("de",)
        assert voice.parts == (VoicePart("Ana", 0.5), VoicePart("alice", 0.5, (about.sha256,)))
    client.remove_voice("alice")
    with pytest.raises(UnknownVoiceError, match="'alice'"):
        find("alice", book, "xtts")


def test_the_cached_list_of_voices_is_read_again_after_two_seconds(client: Client, db: redis.Redis) -> None:
    now = [0.0]
    library = VoiceLibrary(db, clock=lambda: now[0])
    assert dict(library.known()) == {}
    client.add_voice("alice", [speech()])
    assert dict(library.known()) == {}, "the list is cached for two seconds"
    now[0] = 2.0
    assert list(library.known()) == ["alice"]


def test_reading_clips_with_other_checksums_raises_an_error(client: Client, db: redis.Redis) -> None:
    library = VoiceLibrary(db)
    wanted = [clip.sha256 for clip in client.add_voice("alice", [speech(), speech(seed=2)]).clips]
    assert library.clips("alice", wanted) == db.lrange(keys.clips("alice"), 0, -1)
    client.add_voice("alice", [speech(seed=3)], replace=True)
    with pytest.raises(VoiceError, match="the clips of voice alice have changed"):
        library.clips("alice", wanted)


def test_a_cached_voice_is_found_without_redis_and_another_raises_an_error(
    client: Client, redis_server: RedisServer
) -> None:
    alice = client.add_voice("alice", [speech()])
    library = VoiceLibrary(connection.connect(redis_server.url, retries=0))
    assert dict(library.known()) == {"alice": alice}
    redis_server.stop()
    assert library.find("alice") == alice
    with pytest.raises(redis.ConnectionError):
        library.find("bob")
    assert list(library.known()) == ["alice"]


def test_an_invalid_description_is_ignored(client: Client, db: redis.Redis) -> None:
    client.add_voice("alice", [speech()])
    db.hset(keys.VOICES, "broken", "{}")
    library = VoiceLibrary(db)
    assert list(library.known()) == list(client.cloned_voices()) == ["alice"]
    assert library.find("broken") is None


# The shared conditioning cache

KEY = conditioning_key(["aa"], {}, "model", "1")
VALUE = {"latents": np.arange(8, dtype=np.float32)}
PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from voxspool.connections import connection
from voxspool_worker.voices.conditioning_cache import ConditioningCache

url, folder, log, gate = sys.argv[1], *map(Path, sys.argv[2:])

def compute():
    with log.open("a") as out:
        out.write("computing\\n")
    while not gate.exists():
        time.sleep(0.01)
    return {"latents": np.arange(8, dtype=np.float32)}

redis = connection.connect(url, retries=0)
cache = ConditioningCache(lambda arrays: arrays["latents"].sum(), folder=folder, redis=redis)
print("ready", flush=True)
value, prepared = cache.get(sys.stdin.readline().strip(), compute)
print(value, prepared.source, flush=True)
"""


class CacheProcess:
    """A process that reads one key from a conditioning cache with its own folder.

    Computing the value adds a line to `log` and takes until the file `gate` exists. All processes share both files.
    """

    def __init__(self, url: str, folder: Path, name: str) -> None:
        self.log, self.gate = folder / "log", folder / "gate"
        arguments = [url, str(folder / name), str(self.log), str(self.gate)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_env(),
        )  # fmt: skip
        assert self.process.stdout
        assert self.process.stdin
        assert self.process.stdout.readline() == "ready\n"

    def request(self) -> None:
        """Let the process read the key."""
        assert self.process.stdin
        self.process.stdin.write(f"{KEY}\n")
        self.process.stdin.flush()

    def result(self) -> tuple[str, str]:
        """Wait for the end of the process, and return the value and its source."""
        said, _ = self.process.communicate(timeout=30)
        value, source = said.split()
        return value, source


@pytest.fixture
def cache_processes(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[[int], list[CacheProcess]]]:
    """Yield a function that starts a number of processes. They end with the test."""
    started: list[CacheProcess] = []

    def start(count: int) -> list[CacheProcess]:
        started.extend(CacheProcess(redis_server.url, tmp_path, f"disk-{number}") for number in range(count))
        return started

    yield start
    for started_process in started:
        started_process.process.kill()
        started_process.process.communicate()


def times_computed(process: CacheProcess) -> int:
    """Return how often the processes have started to compute the value."""
    return process.log.read_text().count("computing") if process.log.exists() else 0


def test_concurrent_processes_compute_a_value_once(
    cache_processes: Callable[[int], list[CacheProcess]], db: redis.Redis
) -> None:
    three = cache_processes(3)
    for each in three:
        each.request()
    until(lambda: times_computed(three[0]), "one process to compute")
    three[0].gate.touch()
    found = sorted(each.result() for each in three)
    assert found == [("28.0", "computed"), ("28.0", "redis"), ("28.0", "redis")]
    assert times_computed(three[0]) == 1
    assert not db.exists(keys.conditioning_lock(KEY))


def test_another_process_computes_the_value_if_the_first_one_is_killed(
    cache_processes: Callable[[int], list[CacheProcess]], db: redis.Redis
) -> None:
    first, second = cache_processes(2)
    first.request()
    until(lambda: times_computed(first) == 1, "the first process to compute")
    second.request()
    held = db.get(keys.conditioning_lock(KEY))
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    assert held
    assert 0 < db.pttl(keys.conditioning_lock(KEY)) <= keys.CONDITIONING_LOCK_TTL_S * 1000
    db.pexpire(keys.conditioning_lock(KEY), 300)  # the lock is not renewed: 0.3 s instead of its lifetime of 10 s
    until(lambda: times_computed(first) == 2, "the second process to compute")
    first.gate.touch()
    assert second.result() == ("28.0", "computed")


def test_the_lock_is_renewed_while_its_holder_computes(
    cache_processes: Callable[[int], list[CacheProcess]], db: redis.Redis
) -> None:
    (process,) = cache_processes(1)
    process.request()
    until(lambda: times_computed(process), "the process to compute")
    db.pexpire(keys.conditioning_lock(KEY), 5_000)
    until(lambda: db.pttl(keys.conditioning_lock(KEY)) > 6_000, "the lock to be renewed")
    process.gate.touch()
    assert process.result() == ("28.0", "computed")


class CountedComputation:
    """A function that returns VALUE and counts its calls."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return VALUE


@pytest.fixture
def compute() -> CountedComputation:
    return CountedComputation()


def cache(db: redis.Redis, folder: Path) -> ConditioningCache[float]:
    """Return a conditioning cache of a machine with its own folder."""
    return ConditioningCache(lambda arrays: float(arrays["latents"].sum()), folder=folder, redis=db)


def test_another_machine_reads_a_value_from_redis_and_then_from_its_disk(
    db: redis.Redis, tmp_path: Path, compute: CountedComputation
) -> None:
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "two"]
    found = [cache(db, folder).get(KEY, compute) for folder in folders]
    assert [(value, prepared.source) for value, prepared in found] == [(28, "computed"), (28, "redis"), (28, "disk")]
    assert compute.times == 1


def test_reading_a_value_from_redis_renews_its_lifetime(
    db: redis.Redis, tmp_path: Path, compute: CountedComputation
) -> None:
    cache(db, tmp_path / "one").get(KEY, compute)
    assert keys.CONDITIONING_TTL_S - 60 < db.ttl(keys.conditioning(KEY)) <= keys.CONDITIONING_TTL_S
    db.expire(keys.conditioning(KEY), 60)
    cache(db, tmp_path / "two").get(KEY, compute)
    assert db.ttl(keys.conditioning(KEY)) > keys.CONDITIONING_TTL_S - 60


def test_a_value_in_memory_needs_no_redis_command(db: redis.Redis, tmp_path: Path, compute: CountedComputation) -> None:
    warm = cache(db, tmp_path)
    warm.get(KEY, compute)
    before = db.info("commandstats")
    for _ in range(100):
        assert warm.get(KEY, compute)[1].source == "memory"
    after = db.info("commandstats")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {"cmdstat_info"}


@pytest.mark.parametrize("damaged", ["disk", "redis", "both"])
def test_a_damaged_value_is_replaced_on_disk_and_in_redis(
    db: redis.Redis, tmp_path: Path, compute: CountedComputation, damaged: str
) -> None:
    cache(db, tmp_path).get(KEY, compute)
    path = tmp_path / f"{KEY}.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    if damaged != "disk":
        db.set(keys.conditioning(KEY), whole[:-1] + b"\xff", ex=100)
    value, prepared = cache(db, tmp_path).get(KEY, compute)
    assert (value, prepared.source) == (28, "redis" if damaged == "disk" else "computed")
    assert path.read_bytes() == db.get(keys.conditioning(KEY)) == whole


def test_without_redis_values_are_computed_and_stored_on_disk_with_one_warning(
    redis_server: RedisServer, tmp_path: Path, compute: CountedComputation, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(connection.connect(redis_server.url, retries=0)) as away:
        redis_server.stop()
        alone = cache(away, tmp_path)
        assert alone.get(KEY, compute)[1].source == "computed"
        assert alone.get("other", compute)[1].source == "computed"
        assert cache(away, tmp_path).get(KEY, compute)[1].source == "disk"
    assert sum("conditioning.alone" in said for said in caplog.messages) == 1


def test_a_redis_outage_during_the_computation_does_not_lose_the_value(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    def compute_and_stop() -> dict[str, Any]:
        redis_server.stop()
        return VALUE

    with contextlib.closing(connection.connect(redis_server.url, retries=0)) as going:
        value, prepared = cache(going, tmp_path).get(KEY, compute_and_stop)
    assert (value, prepared.source) == (28, "computed")


def test_a_failed_computation_releases_the_lock(db: redis.Redis, tmp_path: Path, compute: CountedComputation) -> None:
    def broken() -> dict[str, Any]:
        assert db.exists(keys.conditioning_lock(KEY))
        raise redis.ConnectionError("of the clips, not of the cache")

    with pytest.raises(redis.ConnectionError, match="of the clips"):
        cache(db, tmp_path).get(KEY, broken)
    assert not db.exists(keys.conditioning_lock(KEY))
    assert cache(db, tmp_path).get(KEY, compute)[1].source == "computed"
