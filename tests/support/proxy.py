"""A TCP proxy on loopback in front of a redis-server, which simulates network faults at a chosen command.

It can pass bytes, delay them, discard them, cut connections and refuse new ones. A rule waits for a request with
certain bytes (a command, or a script's SHA1) and acts before Redis receives the request or after Redis has answered it.
The proxy does not parse Redis's protocol: a request is the data of one `recv`, at most 64 KB.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES = 1 << 16


def script(name: str, package: str = "voxspool_worker.lua") -> bytes:
    """Return the bytes that every request to run this script contains: its SHA1."""
    return hashlib.sha1((files(package) / f"{name}.lua").read_bytes()).hexdigest().encode()


@dataclass
class Rule:
    """A fault at one request: the `nth` one that contains `needle`. `act` is called, then the connection is cut."""

    needle: bytes
    act: Callable[[], object] = lambda: None
    answered: bool = False
    """False: act before Redis receives the request. True: act after Redis's answer, which is lost."""
    nth: int = 1
    cut: bool = True
    """False: the connection stays open, but all further bytes are discarded."""
    done: threading.Event = field(default_factory=threading.Event)

    def run(self, link: Link) -> None:
        self.act()
        if self.cut:
            link.cut()
        else:
            link.mute = True
        self.done.set()


class Link:
    """A client's connection to the proxy, and the proxy's connection to the server for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.mute = False
        self.answer: Rule | None = None
        """The rule to run when the server answers."""

    def cut(self) -> None:
        for end in (self.client, self.server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy:
    """Passes all bytes on until a fault is requested. All methods may be called from any thread."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.refusing = False
        self._rules: list[Rule] = []
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads = [threading.Thread(target=self._accept, name="proxy")]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def at(self, needle: bytes, act: Callable[[], object] = lambda: None, **how: bool | int) -> Rule:
        """Add a rule and return it. Its event `done` is set when it has run."""
        rule = Rule(needle, act, **how)  # type: ignore[arg-type]
        with self._lock:
            self._rules.append(rule)
        return rule

    def stall(self) -> None:
        """Delay all bytes until `flow` is called."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def drop(self) -> None:
        """Cut all connections."""
        for link in self._alive():
            link.cut()

    def half_open(self) -> None:
        """Discard all further bytes of the existing connections. New connections work."""
        for link in self._alive():
            link.mute = True

    def close(self) -> None:
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join()

    def _alive(self) -> list[Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(client,), name="proxy-link")
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        """Pass requests on in this thread and answers in another one, until either side closes its connection."""
        with client, contextlib.suppress(OSError):
            if self.refusing:
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                link = Link(client, server)
                with self._lock:
                    self._links.add(link)
                answers = threading.Thread(target=self._pump, args=(link, server, self._answer), name="proxy-answers")
                answers.start()
                self._pump(link, client, self._request)
                answers.join()
                with self._lock:
                    self._links.discard(link)

    def _pump(self, link: Link, source: socket.socket, take: Callable[[Link, bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BYTES):
                self._flowing.wait()
                if not link.mute:
                    take(link, data)
        link.cut()

    def _request(self, link: Link, data: bytes) -> None:
        rule = self._next_rule(data)
        if rule and not rule.answered:
            rule.run(link)
            return
        link.answer = rule
        link.server.sendall(data)

    def _answer(self, link: Link, data: bytes) -> None:
        if link.answer:
            link.answer.run(link)
        else:
            link.client.sendall(data)

    def _next_rule(self, data: bytes) -> Rule | None:
        """Return and remove the rule that applies to this request."""
        with self._lock:
            for rule in self._rules:
                if rule.needle in data:
                    rule.nth -= 1
                    if rule.nth == 0:
                        self._rules.remove(rule)
                        return rule
        return None
