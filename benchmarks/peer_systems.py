"""The systems of the benchmark `peers`: how each is installed, started, asked for audio, and left by its client."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import psutil

from benchmarks.figures import OURS
from benchmarks.testbed import StartError, free_port
from voxspool import Client, Settings
from voxspool.protocol.environment import PIPER_VOICES
from voxspool_worker.engines.piper import PACKAGED_VOICE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import BinaryIO

    from benchmarks.testbed import Testbed

TIMEOUT_S: Final = 300.0
"""Longest wait for audio, in seconds."""
LOOP_SESSIONS: Final = 2
"""Sessions of the loop, with one thread each: the number of cores of the machine that the targets were set on."""


class InstallError(Exception):
    """A peer could not be installed; the message is the last line of the installer."""


class Server(Protocol):
    """A running system that speaks with Piper. Threads may share it."""

    who: str

    def speak(self, text: str) -> Generator[bytes]:
        """Ask for a text and yield its audio while it arrives. Closing the generator is what leaving means here."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU time that the server has used, in seconds."""
        ...

    def close(self) -> None:
        """Close the client. The testbed ends the processes."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """A system that is not voxspool."""

    requirement: str
    """What pip installs."""
    command: Callable[[Path, str, Path, int], list[str]]
    """Interpreter, voice, folder of the voice, port -> the command that starts the server."""
    request: Callable[[int, str], Generator[bytes]]
    """Port, text -> the audio while it arrives."""


class VoxspoolServer:
    """A worker of voxspool with its default number of jobs, and a client in this process."""

    who = OURS

    def __init__(self, testbed: Testbed) -> None:
        """Start the worker. Raises StartError."""
        self._client = Client(settings=Settings(redis_url=testbed.url, engine="piper"))
        model = packaged_model()
        environ = {PIPER_VOICES: str(model.parent)}
        self._process = testbed.start_worker(self._client, "piper", environ=environ, jobs=None)

    def speak(self, text: str) -> Generator[bytes]:
        """Enqueue a speech and yield its audio; leaving cancels the speech."""
        with self._client.enqueue(text, voice=packaged_model().stem, live=True) as speech:
            for chunk in speech:
                yield chunk.pcm

    def cpu_s(self) -> float:
        """Return the worker's CPU time, in seconds."""
        return _cpu_s(self._process)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class PeerServer:
    """Another system in its own environment."""

    def __init__(self, peer: Peer, testbed: Testbed, folder: Path) -> None:
        """Install and start the system. Raises InstallError or StartError."""
        self._peer = peer
        self.who = peer.requirement.partition("==")[0]
        self._port = free_port()
        python = install(peer.requirement, folder)
        model = packaged_model()
        command = peer.command(python, model.stem, model.parent, self._port)
        self._process = testbed.start(self.who, command, self._answers)

    def speak(self, text: str) -> Generator[bytes]:
        """Yield the audio of a text; leaving closes the connection."""
        return self._peer.request(self._port, text)

    def cpu_s(self) -> float:
        """Return the server's CPU time, in seconds."""
        return _cpu_s(self._process)

    def close(self) -> None:
        """Do nothing: each request has its own connection."""

    def _answers(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self._port), 1).close()
        except OSError:
            return False
        return True


def packaged_model() -> Path:
    """Return the model of the demo's voice. Raises StartError if its package is not installed."""
    package = importlib.util.find_spec(PACKAGED_VOICE)
    for location in (package and package.submodule_search_locations) or ():
        return min(Path(location, "data").glob("*.onnx"))
    raise StartError("the demo's voice is not installed; run make install")


def install(requirement: str, folder: Path) -> Path:
    """Return the interpreter of an environment with a package; install it if it is not there. Raises InstallError."""
    home = (folder / requirement.translate(str.maketrans("[]=", "---"))).absolute()
    python = home / "bin" / "python"
    done = home / "installed"
    if not done.exists():
        for command in (
            [sys.executable, "-m", "venv", "--clear", home],
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement],
        ):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise InstallError((result.stderr.strip().splitlines() or ["the installer printed nothing"])[-1])
        done.touch()
    return python


def _wyoming(port: int, text: str) -> Generator[bytes]:
    """Ask wyoming-piper: events are a line of JSON, then data and payload of the lengths that it states."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection, connection.makefile("rb") as events:
        data = json.dumps({"text": text}).encode()
        head = {"type": "synthesize", "data_length": len(data)}
        connection.sendall(json.dumps(head).encode() + b"\n" + data)
        for line in iter(events.readline, b""):
            event = json.loads(line)
            events.read(event.get("data_length") or 0)
            payload = events.read(event.get("payload_length") or 0)
            if event["type"] == "audio-stop":
                return
            if payload:
                yield payload


def _http(port: int, text: str) -> Generator[bytes]:
    """Ask the HTTP server of piper-tts, which answers with a WAV."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/synthesize", json.dumps({"text": text}), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise StartError(f"the HTTP server of piper-tts answered {response.status} {response.reason}")
        while part := response.read1(65536):
            yield part
    finally:
        connection.close()


def _loop(port: int, text: str) -> Generator[bytes]:
    """Ask the loop: a line of JSON with the text, then samples until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection, connection.makefile("rb") as audio:
        connection.sendall(json.dumps(text).encode() + b"\n")
        yield from _parts(audio)


def _parts(audio: BinaryIO) -> Iterator[bytes]:
    """Yield what arrives."""
    while part := audio.read1(65536):  # type: ignore[attr-defined] # a socket's file has it
        yield part


def _cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of a process and its children, in seconds."""
    family = psutil.Process(process.pid)
    times = [one.cpu_times() for one in (family, *family.children(recursive=True))]
    return sum(one.user + one.system for one in times)


PEERS: Final[dict[str, Peer]] = {
    "wyoming-piper": Peer(
        "wyoming-piper==2.5.2",
        lambda python, voice, folder, port: [
            str(python), "-m", "wyoming_piper", "--voice", voice, "--uri", f"tcp://127.0.0.1:{port}",
            "--data-dir", str(folder), "--local-files-only",
        ],
        _wyoming,
    ),
    "piper-http": Peer(
        "piper-tts[http]==1.8.0",
        lambda python, voice, folder, port: [
            str(python), "-m", "piper.http_server", "--host", "127.0.0.1", "--port", str(port), "-m", voice,
            "--data-dir", str(folder),
        ],
        _http,
    ),
    "loop": Peer(
        "piper-tts==1.8.0",
        lambda python, voice, folder, port: [
            str(python), str(Path(__file__).with_name("piper_loop.py")), str(folder / f"{voice}.onnx"), str(port),
            str(min(LOOP_SESSIONS, os.cpu_count() or 1)),
        ],
        _loop,
    ),
}  # fmt: skip
"""Name of a system -> how it is installed and used."""
