"""Start a redis-server with a documented ACL file, and record the commands that each of its users sends."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import redis

from tests.support.processes import ROOT, RedisServer
from voxspool import Client, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN: Final = ROOT / "docs" / "voxspool.acl"
PRECISE: Final = ROOT / "docs" / "voxspool-redis7.acl"
USERS: Final = ("producer", "consumer", "player", "worker")
INTRODUCTION: Final = ("client", "client|setinfo")
"""CLIENT SETINFO in the log of Redis 6.2 and 7.2. Redis 7.0 has no such command and replies with an error."""
DONE: Final = "ECHO monitored"


@dataclass
class GuardedRedis(RedisServer):
    """A redis-server with an ACL file whose placeholders are replaced as docs/security.md describes."""

    file: Path = PLAIN
    append_only: bool = False
    passwords: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        self.passwords = {user: f"{user}-s3cret/+{self.port}" for user in (*USERS, "admin")}
        rules = self.file.read_text(encoding="utf-8")
        for user, password in self.passwords.items():
            rules = rules.replace(f"#CHANGE-{user} ", f"#{hashlib.sha256(password.encode()).hexdigest()} ")
        (self.folder / "users.acl").write_text(rules, encoding="utf-8")
        append_only = "yes" if self.append_only else "no"
        self.options = ("--aclfile", str(self.folder / "users.acl"), "--appendonly", append_only)
        super().start()

    @property
    def url(self) -> str:
        """Return the URL of the user `worker`. The fixture that starts workers uses it."""
        return self.url_of("worker")

    def url_of(self, user: str) -> str:
        password = self.passwords[user].replace("/", "%2F").replace("+", "%2B")
        return f"redis://{user}:{password}@127.0.0.1:{self.port}/0"

    @contextlib.contextmanager
    def raw(self, user: str) -> Iterator[redis.Redis]:
        """Yield a plain Redis connection of a user."""
        with contextlib.closing(redis.Redis.from_url(self.url_of(user), retry=None)) as client:
            yield client

    @contextlib.contextmanager
    def client(self, user: str) -> Iterator[Client]:
        """Yield a voxspool client that is connected as a user."""
        with Client(settings=Settings(redis_url=self.url_of(user))) as client:
            yield client


def allowed(file: Path, user: str) -> set[str]:
    """Return the commands that an ACL file allows a user by name."""
    (line,) = re.findall(rf"^user {user} .*$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return set(re.findall(r"\+([a-z|]+)", line))


def patterns(file: Path, user: str) -> set[str]:
    """Return the patterns of keys and channels that an ACL file allows a user."""
    (line,) = re.findall(rf"^user {user} .*$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return set(re.findall(r"[~&]([^ )]+)", line)) - {"*"}


class Traffic:
    """Records with MONITOR the commands that each user sends, including those in scripts."""

    def __init__(self, admin: redis.Redis) -> None:
        self._admin = admin
        self._sent: list[tuple[str, str]] = []
        self._users: dict[str, str] = {}
        self._watching = threading.Event()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        assert self._watching.wait(10)
        try:
            yield
        finally:
            self._admin.execute_command(DONE)
            thread.join(10)
        assert not thread.is_alive()

    def note_users(self) -> None:
        """Record the users of all connections that are open now."""
        self._users |= {client["addr"]: client["user"] for client in self._admin.client_list()}

    def forget_scripts(self) -> None:
        """Remove all scripts from Redis, so that clients must send them again."""
        self._admin.script_flush()

    def of(self, user: str) -> set[str]:
        """Return the commands of a user whose connections were noted."""
        return {named(command) for address, command in self._sent if self._users.get(address) == user}

    def untouched(self, user: str, file: Path) -> set[str]:
        """Return the user's patterns of keys and channels that match nothing that the user has sent."""
        words = {
            word for address, command in self._sent if self._users.get(address) == user for word in command.split(" ")
        }
        return {pattern for pattern in patterns(file, user) if not fnmatch.filter(words, pattern)}

    def _watch(self) -> None:
        address = ""
        with self._admin.monitor() as monitor:
            self._watching.set()
            for said in monitor.listen():
                if said["command"] == DONE:
                    return
                if said["client_type"] != "lua":  # the commands of a script follow the command that runs it
                    address = f"{said['client_address']}:{said['client_port']}"
                self._sent.append((address, said["command"]))


def named(command: str) -> str:
    """Return the name of a command as written in an ACL."""
    first, *rest = command.lower().split(" ", 2)
    return f"{first}|{rest[0]}" if first in ("script", "client", "memory") else first


def denials(admin: redis.Redis) -> list[tuple[str, str]]:
    """Return the user and the object of each refused command, except CLIENT SETINFO: redis-py ignores its refusal."""
    found: Any = admin.acl_log()
    return [(entry["username"], entry["object"]) for entry in found if entry["object"] not in INTRODUCTION]
