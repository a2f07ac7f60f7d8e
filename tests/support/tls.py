"""Put TLS in front of a redis-server without TLS: a self-signed certificate, and a proxy that decrypts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import ssl
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUFFER_BYTES: Final = 65_536


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1."""

    certificate: Path
    key: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> Certificate:
        """Create a certificate with the command `openssl`. Without this command skip the test; in CI, fail it."""
        if not shutil.which("openssl"):
            (pytest.fail if os.environ.get("CI") else pytest.skip)("the command openssl is not installed")
        made = cls(folder / f"{name}.crt", folder / f"{name}.key")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", str(made.key), "-out", str(made.certificate)],
            check=True, capture_output=True,
        )  # fmt: skip
        return made


@contextlib.contextmanager
def in_front_of(port: int, shown: Certificate) -> Iterator[int]:
    """Accept TLS connections on loopback and pass their data unencrypted to a port. Yield the port to connect to."""
    proxy = _Proxy(port, shown)
    thread = threading.Thread(target=asyncio.run, args=(proxy.run(),))
    thread.start()
    try:
        assert proxy.listening.wait(10)
        yield proxy.port
    finally:
        proxy.stop()
        thread.join(10)
    assert not thread.is_alive()


class _Proxy:
    """Decrypts TLS connections in its own event loop."""

    def __init__(self, target: int, shown: Certificate) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(shown.certificate, shown.key)
        self.listening = threading.Event()
        self.port = 0

    async def run(self) -> None:
        """Serve until `stop`."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self.listening.set()
        await self._stopped.wait()
        server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def stop(self) -> None:
        """Stop serving. Call it from another thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of one connection on in both directions until one side closes it."""
        self._serving.add(task := asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.CancelledError):
            inside_reader, inside_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(_pass_on(reader, inside_writer), _pass_on(inside_reader, writer))
        writer.close()
        self._serving.discard(task)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy bytes from `source` to `target` until `source` is closed; then close `target`."""
    try:
        while data := await source.read(BUFFER_BYTES):
            target.write(data)
            await target.drain()
    finally:
        target.close()
