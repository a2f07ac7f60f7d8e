"""What RQ's tests of workers are expected to do with ours: expectations.toml, as values. Runs none."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("expectations.toml")
TIMING = "timing"
"""The reason of a test that may pass or not, by how fast the machine is."""
NO_WORKER = "no-worker"
"""The reason of a test that makes no worker of ours, whatever it asserts."""
KILLS = "kills"
"""The reason of a test that is never run."""


@dataclass(frozen=True)
class Expectations:
    """Tests are named as `module.Class.test`."""

    version: str
    """The version of RQ that the table describes."""
    whole: list[str]
    """Modules of which every test is listed."""
    parts: list[str]
    """Modules of which those tests are listed that make a worker."""
    not_run: dict[str, str]
    """Module that is not run -> why."""
    passes: set[str]
    reasons: dict[str, str]
    """Test that does not apply -> why, in a word."""
    sentences: dict[str, str]
    """Each of these words -> what it means."""

    @property
    def modules(self) -> list[str]:
        """Every module that is run."""
        return self.whole + self.parts

    def tests_of(self, reason: str) -> list[str]:
        """Return the tests that a reason excuses."""
        return [test for test, said in self.reasons.items() if said == reason]


def load() -> Expectations:
    """Read the table."""
    table: dict[str, Any] = tomllib.loads(TABLE.read_text())
    groups: dict[str, dict[str, Any]] = table["does-not-apply"]
    tables = [table["passes"], *(group["tests"] for group in groups.values())]
    named = [test for one in tables for test in each(one)]
    assert len(named) == len(set(named)), "a test is listed twice"
    return Expectations(
        version=table["version"],
        whole=table["whole"],
        parts=table["parts"],
        not_run=table["not-run"],
        passes=set(each(table["passes"])),
        reasons={test: word for word, group in groups.items() for test in each(group["tests"])},
        sentences={word: group["because"] for word, group in groups.items()},
    )


def each(tests: dict[str, list[str]]) -> list[str]:
    """Name each test of a table `"module.Class" = [tests]`."""
    return [f"{case}.{test}" for case, names in tests.items() for test in names]
