"""The segment store in a folder, in memory and on a local S3 server, also with several processes that write."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest

from tests.support.processes import clean_env, free_port, until
from voxspool.errors import StoreError
from voxspool.store.segments import Store, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SAMPLES = (8_000 * np.sin(np.arange(24_000) / 20)).astype(np.int16)
FIELDS: dict[str, Any] = {
    "sample_rate": 24_000, "engine": "tone", "model": "tone", "voice": "a", "language": "en", "seed": 7, "tries": 1,
    "fault": "", "elapsed_s": 0.5, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.1,
}  # fmt: skip
BUCKET = "segments"
SERVER = "import sys; from moto.server import main; main(sys.argv[1:])"
"""Program of an S3 server that stores its data in memory."""
WRITER = """
import sys
import numpy as np
from voxspool.store.segments import Store, key_of

location, number, fields = sys.argv[1], int(sys.argv[2]), eval(sys.argv[3])
input()
store = Store(location)
print(store.id, flush=True)
for key in range(int(sys.argv[4])):
    pcm = np.arange(number, 20_000 + number).astype(np.int16)
    stored = store.write(pcm, key=key_of(key), worker=f"w{number}", **fields)
    print(stored.worker, stored.sha256, flush=True)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Start an S3 server with a bucket, set the environment variables for it, and yield the URL of the bucket."""
    port = free_port()
    with pytest.MonkeyPatch.context() as patch, server(port):
        for name, value in {
            "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}", "AWS_MAX_ATTEMPTS": "1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir(BUCKET)
        yield f"s3://{BUCKET}"


@contextlib.contextmanager
def server(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run an S3 server on a port of the loopback interface."""
    command = [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(port) or process.poll(), "the S3 server")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Return whether a program listens on a port."""
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture(params=["folder", "local", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the path or URL of an empty store in each backend."""
    name = uuid.uuid4().hex
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{name}"
    return {"folder": str(tmp_path / name), "local": f"local://{tmp_path / name}", "memory": f"memory://{name}"}[
        request.param
    ]


BETWEEN_PROCESSES = pytest.mark.parametrize("location", ["folder", "local", "s3"], indirect=True)
"""Backends that several processes can share: not the memory of one process."""


@pytest.fixture
def writer() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Yield a function that starts a process, which writes segments after `go`. The processes end with the test."""
    with contextlib.ExitStack() as stack:

        def start(location: str, number: int, keys: int) -> subprocess.Popen[str]:
            aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, location, str(number), repr(FIELDS), str(keys)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_env() | aws,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            return process

        yield start


def go(process: subprocess.Popen[str]) -> None:
    """Let a process start to write."""
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def keep(store: Store, pcm: np.ndarray = SAMPLES, key: str = key_of("a")) -> None:
    """Write a segment."""
    store.write(pcm, key=key, worker="w", **FIELDS)


def test_segments_written_to_any_backend_can_be_read(location: str) -> None:
    store = Store(location)
    assert Store(location).id == store.id
    for number, samples in enumerate([0, 1, 24_000]):
        key = key_of(number)
        assert store.find(key) is None
        stored = store.write(SAMPLES[:samples], key=key, worker="w", **FIELDS)
        assert Store(location).find(key) == Store(location).check(key) == stored
        np.testing.assert_array_equal(Store(location).read(key), SAMPLES[:samples])
    assert store.write(SAMPLES[:5], key=key_of(2), worker="late", **FIELDS) == stored


def test_a_damaged_segment_is_detected_and_replaced_in_any_backend(location: str) -> None:
    store = Store(location)
    keep(store)
    files, root = fsspec.url_to_fs(location)
    files.invalidate_cache()
    (flac,) = files.glob(f"{root}/**/*.flac")
    good = files.cat_file(flac)
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:100], b""):
        files.pipe_file(flac, bad)
        assert store.check(key_of("a")) is None
        with pytest.raises(StoreError, match="missing from the store"):
            store.read(key_of("a"))
        keep(store)
        np.testing.assert_array_equal(store.read(key_of("a")), SAMPLES)
    files.rm_file(flac)
    assert store.find(key_of("a")) is None


@BETWEEN_PROCESSES
def test_concurrent_writers_agree_on_the_id_of_the_store_and_on_each_segment(
    location: str, writer: Callable[..., subprocess.Popen[str]]
) -> None:
    processes = [writer(location, number, 10) for number in range(3)]
    for process in processes:
        go(process)
    said = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    store = Store(location)
    assert {lines[0] for lines in said} == {store.id}
    for key in range(10):
        kept = store.check(key_of(key))
        assert kept is not None
        assert {lines[1 + key] for lines in said} >= {f"{kept.worker} {kept.sha256}"}
        first = int(kept.worker[1:])
        np.testing.assert_array_equal(store.read(key_of(key)), np.arange(first, 20_000 + first))


@BETWEEN_PROCESSES
def test_segments_of_a_killed_writer_are_complete_or_missing(
    location: str, writer: Callable[..., subprocess.Popen[str]]
) -> None:
    written = 0
    for number in range(4):
        process = writer(location, number, 1_000)
        go(process)
        assert process.stdout
        for _ in range(2 + written + 3 * number):  # its id, the existing segments, and a few new ones
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = Store(location)
        written = next(key for key in range(1_000) if store.find(key_of(key)) is None)
        assert written > 3 * number
        for key in range(written + 1):
            assert store.find(key_of(key)) == store.check(key_of(key))
    assert {store.find(key_of(key)).worker for key in range(written)} == {"w0", "w1", "w2", "w3"}


def test_a_missing_bucket_is_named_in_the_error_and_not_created(s3: str) -> None:
    assert s3
    with pytest.raises(
        StoreError, match=r"s3://nobodys/x cannot be written to: .*bucket does not exist; see that it is"
    ):
        Store("s3://nobodys/x")
    assert not fsspec.filesystem("s3").exists("nobodys")


def test_a_deleted_bucket_raises_an_error_instead_of_missing_segments(s3: str) -> None:
    assert s3
    files = fsspec.filesystem("s3")
    files.mkdir("vanishing")
    store = Store("s3://vanishing")
    keep(store)
    files.rm("vanishing", recursive=True)
    for use in (lambda: store.find(key_of("a")), lambda: keep(store)):
        with pytest.raises(StoreError, match="s3://vanishing is gone, or another"):
            use()


def test_an_unreachable_s3_server_raises_an_error_within_seconds_and_is_used_when_it_returns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    fsspec.filesystem("s3").clear_instance_cache()
    with server(port):
        fsspec.filesystem("s3").mkdir(BUCKET)
        store = Store(f"s3://{BUCKET}/x")
        keep(store)
    began = time.monotonic()
    for use in (lambda: store.find(key_of("a")), lambda: store.read(key_of("a")), lambda: keep(store)):
        with pytest.raises(StoreError, match=rf"s3://{BUCKET}/x cannot be read: .*; see that it is there") as caught:
            use()
        assert "hush" not in str(caught.value)
    assert time.monotonic() - began < 60
    with server(port):  # the server starts empty, so the store is gone
        fsspec.filesystem("s3").mkdir(BUCKET)
        with pytest.raises(StoreError, match="is gone, or another"):
            store.find(key_of("a"))
    fsspec.filesystem("s3").clear_instance_cache()
