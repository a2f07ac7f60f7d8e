"""What `narrate` and `preview` say of a book before anybody speaks, and how they refuse; with no Redis."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from voxspool.cli import main

if TYPE_CHECKING:
    from pathlib import Path

BOOK = "# One\n\nThe keeper lit it.[pause:1s] It burned.\n\n# Two\n\n[voice:bob] Good night, Siobhan.\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in os.environ if name.startswith("VOXSPOOL_")), "REDIS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VOXSPOOL_REDIS_URL", "redis://127.0.0.1:1")  # nobody listens there


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.md"
    path.write_text(BOOK)
    return path


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=stdin)


def refused(*arguments: str | Path, code: int = 1, stdin: str | None = None) -> str:
    """Give what a refusal says: one line, behind a usage error's own."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *_, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    return last


def test_a_plan_shows_chapters_and_time_and_size_though_nobody_is_there(book: Path) -> None:
    result = run("narrate", book, "--plan", "--to", "m4b")
    assert result.exit_code == 0, result.output
    assert "1  One" in result.stdout
    assert "2  Two" in result.stdout
    assert "2 chapters, 56 characters" in result.stdout
    assert "no live worker takes books" in result.stdout
    assert "m4b" in result.stdout


def test_a_plan_for_scripts_is_json(book: Path) -> None:
    said = json.loads(run("narrate", book, "--plan", "--json", "--chapters", "2").stdout)
    assert said["title"] == "One"
    assert [(one["chapter"], one["title"]) for one in said["chapters"]] == [(2, "Two")]
    assert said["audio_s"] > 1
    assert said["work_s"] is None


def test_a_preview_is_the_text_as_it_will_be_spoken(book: Path, tmp_path: Path) -> None:
    rules = tmp_path / "names.txt"
    rules.write_text("Siobhan => Shivawn\n")
    result = run("preview", book, "--pronunciations", rules, "--voice-of", "1=alice")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "1. One [voice:alice]"
    assert "The keeper lit it. [pause:1s]" in lines
    assert "[voice:bob] Good night, Shivawn. [pause:2s]" in lines


def test_a_book_may_come_from_a_pipe() -> None:
    assert "Hello there." in run("preview", "-", stdin="Hello there.\n").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a BOOK"),
        (("{book}",), "say where the files go: -o DIR"),
        (("{book}", "--attach", "lamp-123456"), "--attach ID goes alone"),
        (("--attach", "lamp-123456", "--voice", "bob"), "--attach ID goes alone"),
        (("{book}", "-o", "{book}"), "is a file"),
        (("{book}", "-o", "out", "--to", "ogg"), "is not one of"),
    ],
)
def test_a_command_that_cannot_be_is_a_usage_error(book: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in refused("narrate", *(one.format(book=book) for one in arguments), code=2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--chapters", "3"), "chapters '3' are not there: the book has 1 to 2"),
        (("--skip", "1-2"), "no chapter is left"),
        (("--voice-of", "bob"), "names no voice for a chapter"),
        (("--to", "epub"), "is no EPUB"),
        (("--speed", "9"), "speed 9.0 is outside"),
        (("--pronunciations", "/nowhere/names.txt"), "names.txt"),
        ((), "no Redis answers"),
    ],
)
def test_what_cannot_be_narrated_is_refused_in_one_line(
    book: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused("narrate", book, "-o", tmp_path / "out", *arguments)


def test_a_book_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "no-book.epub" in refused("narrate", tmp_path / "no-book.epub", "--plan")
    (tmp_path / "bad.epub").write_bytes(b"PK\x03\x04 and no more")
    assert "bad.epub cannot be read" in refused("narrate", tmp_path / "bad.epub", "--plan")
    assert "[pause:soon]" in refused("preview", "-", stdin="[pause:soon] Hello.\n")


@pytest.mark.parametrize(
    ("options", "module", "extra"),
    [
        (("--to", "m4b"), "av", "m4b"),
        (("--loudness", "ebu"), "pyloudnorm", "books"),
        (("--verify",), "faster_whisper", "verify"),
    ],
)
def test_a_library_that_is_missing_is_named_before_anything_is_begun(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"[{extra}]" in refused("narrate", book, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_redis_is_asked(book: Path) -> None:
    assert "cannot write" in refused("narrate", book, "-o", book / "out")
