"""The commands of docs/security.md work, and its table of users and its links are right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support.acl import PLAIN, PRECISE, USERS
from tests.support.processes import ROOT, RedisServer

if TYPE_CHECKING:
    from pathlib import Path

DOCS = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_the_documented_commands_write_an_acl_file_that_redis_accepts(tmp_path: Path) -> None:
    if not (shutil.which("openssl") and shutil.which("sha256sum")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no command openssl or sha256sum")
    (script,) = re.findall(r"```sh\n(.*?)redis-server --aclfile users.acl\n```", DOCS, re.DOTALL)
    shutil.copy(PLAIN, tmp_path / PRECISE.name)  # every Redis version accepts the plain file
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    passwords = dict(line.split() for line in done.stdout.splitlines())
    assert set(passwords) == {*USERS, "admin"}
    server = RedisServer(tmp_path, ("--aclfile", str(tmp_path / "users.acl")))
    server.start()
    try:
        for user, password in passwords.items():
            with redis.Redis(port=server.port, username=user, password=password, retry=None) as client:
                assert client.ping()
    finally:
        server.stop()


def test_the_table_lists_exactly_the_users_of_the_acl_files() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", DOCS.split("\n## Users\n")[1].split("\n## ")[0], re.MULTILINE)
    for file in (PLAIN, PRECISE):
        users = re.findall(r"^user (\w+) ", file.read_text(encoding="utf-8"), re.MULTILINE)
        assert sorted(rows) == sorted(users)


def test_the_targets_of_all_links_exist() -> None:
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.*)$", DOCS, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", DOCS):
        page, _, heading = target.partition("#")
        assert not page or (ROOT / "docs" / page).exists()
        assert page or heading in headings
