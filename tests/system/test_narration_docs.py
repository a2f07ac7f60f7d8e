"""docs/narration.md is correct: its commands run as they are, and its tables list all codes, events and options."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.make_epub import epub, packed
from tests.support.processes import ROOT, RedisServer, clean_env
from voxspool.cli import main, narration_progress
from voxspool.narration.options import FORMATS
from voxspool.narration.report.page import FAULTS
from voxspool.protocol.environment import VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.processes import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

DOCS = (ROOT / "docs" / "narration.md").read_text(encoding="utf-8")
MOST_PICTURE_BYTES = 150_000
CHAPTERS = 4


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)


def rows(heading: str) -> dict[str, list[str]]:
    """Return the table whose first heading is `heading`: first cell of each row, without backquotes -> other cells."""
    table = DOCS.split(f"\n| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    return {first.strip("` "): others for first, *others in cells}


def named(text: str) -> set[str]:
    """Return the words in backquotes."""
    return set(re.findall(r"`([^`]+)`", text))


@pytest.fixture
def narrator(redis_server: RedisServer, start_worker: StartWorker, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that runs a shell script in a folder with book.epub and names.txt, while a worker runs."""
    store = {"VOXSPOOL_STORE": str(tmp_path / "store"), "VOXSPOOL_REDIS_URL": redis_server.url}
    start_worker("tone", environ=store)
    (tmp_path / "book.epub").write_bytes(packed(epub(CHAPTERS, paragraphs=2).entries))
    (tmp_path / "names.txt").write_text(blocks("text")[0], encoding="utf-8")
    environ = clean_env() | store
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", script]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=120, check=False
        )

    return run


def test_the_commands_of_the_page_run_and_write_the_files_that_it_lists(
    narrator: Callable[..., Any], tmp_path: Path
) -> None:
    said = narrator("set -e\n" + "".join(blocks("sh")))
    assert said.returncode == 0, said.stderr
    made = {path.suffix for path in (tmp_path / "book").iterdir()}
    assert made == {"", ".flac", ".srt", ".vtt", ".m4b", ".html", ".json"}
    assert {path.name for path in (tmp_path / "later").iterdir()} == {".voxspool"}, (
        "a detached narration writes no files"
    )
    again = narrator(re.findall(r"^ *(voxspool narrate --attach \S+)", said.stderr, re.MULTILINE)[-1])
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "later").glob("*.flac"))) == CHAPTERS + 1


def test_the_pronunciation_file_of_the_page_has_the_effect_that_it_describes(
    narrator: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "log.md").write_text("Siobhan saw Ch. 4 at ten Knots.")
    assert "Shivawn saw Chapter 4 at ten nots." in narrator("voxspool preview log.md --pronunciations names.txt").stdout


def test_the_exit_codes_are_those_of_the_page(narrator: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_text("[pause:2h]")
    assert narrator("voxspool narrate book.epub -o out --chapters 1").returncode == 0
    assert narrator("voxspool narrate bad.md -o out").returncode == 1
    assert narrator("voxspool narrate book.epub").returncode == 2
    assert list(rows("exit code")) == ["0", "1", "2", "130"]


def test_every_event_and_its_fields_are_in_the_table(narrator: Callable[..., Any]) -> None:
    table = {event: re.findall(r"`([^`]+)`", cells[0]) for event, cells in rows("event").items()}
    assert table == events()
    lines = narrator("voxspool narrate book.epub -o out --to mp3 --json").stdout.splitlines()
    told = [json.loads(line) for line in lines]
    assert {one["event"] for one in told} == {"begin", "placed", "segment", "chapter", "file", "end"}
    for one in told:
        assert list(one)[1:] == table[one["event"]]


def events() -> dict[str, list[str]]:
    """Return the events in the source code, with their fields."""
    tree = ast.parse(Path(narration_progress.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._say"]
    return {ast.literal_eval(call.args[0]): [str(word.arg) for word in call.keywords] for call in calls}


def test_the_page_names_every_option_of_narrate_and_no_unknown_one() -> None:
    known = {name for command in main.commands.values() for option in command.params for name in option.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", DOCS)) <= known
    own = {name for option in main.commands["narrate"].params for name in option.opts if name.startswith("--")}
    assert own - {"--output", "--redis"} == {name for name in own if name in DOCS}


def test_every_variable_on_the_page_exists() -> None:
    assert set(re.findall(r"VOXSPOOL_[A-Z_]+", DOCS)) <= VARIABLES.keys()


def test_every_format_and_every_fault_is_on_the_page() -> None:
    assert set(FORMATS) <= named(rows("option")["--to"][0]) | {"flac", "srt", "vtt"}
    assert set(FAULTS) - rows("fault").keys() == set()


def test_links_lead_to_files_and_pictures_are_small() -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", DOCS):
        if not link.startswith("https://"):
            target = ROOT / "docs" / link
            assert target.exists(), link
            assert target.suffix not in {".svg", ".png"} or target.stat().st_size < MOST_PICTURE_BYTES
