"""The examples for systemd and launchd are valid, and match the commands and variables of the worker."""

from __future__ import annotations

import configparser
import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from voxspool.protocol.environment import check_names
from voxspool_worker.cli import main
from voxspool_worker.monitoring.health_file import STALE_S, SUFFIX
from voxspool_worker.queue.lifecycle import EXIT_ENGINE_LOST, EXIT_RESTART
from voxspool_worker.queue.worker import ENGINE_STOP_S, HAND_BACK_S
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2] / "examples/supervisor"
UNITS = sorted(path for path in FOLDER.iterdir() if path.suffix in {".service", ".timer"})
INSTALLED = "/opt/voxspool"
INSTANCE = "piper"


class Unit(configparser.RawConfigParser):
    """A systemd unit. For a repeated name, indexing returns the last value and `every` returns all values."""

    def __init__(self, path: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.text = path.read_text()
        self.read_string(self.text)

    def optionxform(self, optionstr: str) -> str:
        return optionstr

    def every(self, name: str) -> list[str]:
        return re.findall(rf"^{name}=(.*)$", self.text, flags=re.MULTILINE)


WORKER = Unit(FOLDER / "voxspool-worker@.service")
HEALTH = Unit(FOLDER / "voxspool-worker-health@.service")
TIMER = Unit(FOLDER / "voxspool-worker-health@.timer")
AGENT: dict[str, Any] = plistlib.loads((FOLDER / "com.voxspool.worker.plist").read_bytes())


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Yield every command line of the examples: its source and its words."""
    for unit in (WORKER, HEALTH):
        for line in unit.every("ExecStart"):
            yield line, shlex.split(line)
    yield "launchd", AGENT["ProgramArguments"]


def calls(words: list[str]) -> Iterator[list[str]]:
    """Yield the arguments of each call of voxspool-worker in a command line, also within `sh -c`."""
    if words[:2] == ["/bin/sh", "-c"]:
        for part in re.split(r"\|\||&&|;", words[2]):
            yield from calls(shlex.split(part.strip().removeprefix("exec ")))
    elif words and words[0].endswith("/voxspool-worker"):
        yield words[1:]


def variables(unit: Unit) -> dict[str, str]:
    """Return the environment variables that a unit sets for one instance."""
    pairs = (line.replace("%i", INSTANCE).partition("=") for line in unit.every("Environment"))
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(("where", "words"), list(command_lines()))
def test_every_command_line_is_accepted_by_the_parser(where: str, words: list[str]) -> None:
    found = list(calls(words))
    assert found, where
    for name, *arguments in found:
        main.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_reports_no_problem_in_a_unit(path: Path, tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if not systemd:
        pytest.skip("systemd-analyze is not installed")
    assert verified(systemd, path.name, tmp_path) == ""


def test_systemd_reports_unknown_keys_and_missing_programs(tmp_path: Path) -> None:
    systemd = shutil.which("systemd-analyze")
    if not systemd:
        pytest.skip("systemd-analyze is not installed")
    said = verified(systemd, "voxspool-worker@.service", tmp_path, ("RestartSec", "RestartSecs"))
    assert "Unknown key 'RestartSecs'" in said
    assert "not executable" in verified(systemd, "voxspool-worker@.service", tmp_path, ("/bin/voxspool", "/bin/vox"))


def verified(systemd: str, name: str, folder: Path, change: tuple[str, str] = ("", "")) -> str:
    """Check a unit with systemd in a folder where its program exists, and return systemd's output.

    `change` is a text in the unit and its replacement.
    """
    program = folder / "bin/voxspool-worker"
    program.parent.mkdir(exist_ok=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in UNITS:
        text = path.read_text().replace(INSTALLED, str(folder))
        (folder / path.name).write_text(text.replace(*change) if change[0] else text)
    done = subprocess.run(
        [systemd, "verify", "--man=no", name.replace("@", f"@{INSTANCE}")],
        env={"SYSTEMD_UNIT_PATH": f"{folder}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def test_systemd_always_restarts_a_worker_and_gives_it_time_to_stop() -> None:
    service = WORKER["Service"]
    assert service["Restart"] == "always"
    assert WORKER["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["SuccessExitStatus"] == str(EXIT_RESTART)
    assert (service["KillSignal"], service["KillMode"]) == ("SIGTERM", "mixed")
    assert int(service["TimeoutStopSec"]) >= 30


def test_supervisors_kill_later_than_a_worker_has_handed_back_its_jobs() -> None:
    limits_s = [int(WORKER["Service"]["TimeoutStopSec"]), AGENT["ExitTimeOut"]]
    lines = [words for _, words in command_lines() if any(call[0] == "run" for call in calls(words))]
    for words, kill_s in zip(lines, limits_s, strict=True):
        ((command, *arguments),) = calls(words)
        grace_s = main.commands[command].make_context(command, arguments).params["grace_s"]
        assert grace_s + HAND_BACK_S + ENGINE_STOP_S + 1 < kill_s


def test_the_worker_and_its_health_check_use_the_folder_that_systemd_creates() -> None:
    folder = WORKER["Service"]["RuntimeDirectory"].replace("%i", INSTANCE)
    for unit in (WORKER, HEALTH):
        assert variables(unit)["VOXSPOOL_HEALTH_DIR"] == f"%t/{folder}"
    assert f"%t/{folder}/*{SUFFIX} " in HEALTH["Service"]["ExecCondition"].replace("%i", INSTANCE)
    assert "systemctl kill --signal=KILL voxspool-worker@%i.service" in HEALTH["Service"]["ExecStart"]
    assert float(TIMER["Timer"]["OnUnitInactiveSec"]) < STALE_S


@pytest.mark.parametrize("unit", [WORKER, HEALTH])
def test_units_set_only_variables_that_voxspool_reads(unit: Unit) -> None:
    check_names(variables(unit))
    assert Settings.from_env(variables(unit)).health_dir


def test_the_launchd_agent_sets_only_variables_that_voxspool_reads_and_is_restarted() -> None:
    assert Settings.from_env(AGENT["EnvironmentVariables"]).engine == "xtts"
    assert AGENT["KeepAlive"] is True
    assert AGENT["ExitTimeOut"] >= 30
    assert AGENT["ProcessType"] != "Background"


def test_passwords_are_in_a_file_of_variables_and_not_on_a_command_line() -> None:
    lines = [line for line in (FOLDER / "worker.env").read_text().splitlines() if not line.startswith("#")]
    said = dict(line.split("=", 1) for line in lines)
    assert Settings.from_env(said).redis_url.startswith("rediss://worker:CHANGE-ME@")
    assert WORKER.every("EnvironmentFile")[0] == "/etc/voxspool/worker.env"
    assert "/worker.env" in AGENT["ProgramArguments"][2]
    for path in FOLDER.iterdir():
        if path.name != "worker.env":
            assert not re.search(r"rediss?://\S*@|--redis", path.read_text()), path.name


def test_the_readme_names_every_file_and_both_exit_codes() -> None:
    text = (FOLDER / "README.md").read_text()
    for code in (EXIT_ENGINE_LOST, EXIT_RESTART):
        assert f"| {code} |" in text
    for name in ("worker.env", "com.voxspool.worker.plist", "voxspool-worker-health@.timer"):
        assert name in text
