"""The output of `narrate --plan` and `preview`, and what these commands refuse, without a Redis."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from tests.support.processes import skip_if_a_redis_is_running
from voxspool.cli import main

if TYPE_CHECKING:
    from pathlib import Path

BOOK = "# One\n\nThe keeper lit it.[pause:1s] It burned.\n\n# Two\n\n[voice:bob] Good night, Siobhan.\n"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [*(name for name in os.environ if name.startswith("VOXSPOOL_")), "REDIS_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VOXSPOOL_REDIS_URL", "redis://127.0.0.1:1")  # no program listens there
    monkeypatch.setenv("VOXSPOOL_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "lamp.md"
    path.write_text(BOOK)
    return path


def run(*arguments: str | Path, stdin: str | None = None) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), input=stdin)


def refused(*arguments: str | Path, code: int = 1, stdin: str | None = None) -> str:
    """Return the last line that a refused command prints, after checking its exit code."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    *_, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    return last


def test_a_plan_without_a_redis_shows_chapters_time_and_size(book: Path) -> None:
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


def test_a_plan_without_workers_uses_the_measured_speed_of_this_machine_or_says_how_to_measure_it(
    book: Path, tmp_path: Path
) -> None:
    said = run("narrate", book, "--plan", "--engine", "tone").stdout
    assert "measure this machine with `voxspool-worker check --bench --engine tone`" in said
    worker = pytest.importorskip("voxspool_worker.cli").main
    measured = CliRunner().invoke(worker, ["check", "--bench", "--engine", "tone"])
    assert measured.exit_code == 0, measured.output
    planned = json.loads(run("narrate", book, "--plan", "--engine", "tone", "--json").stdout)
    (rate,) = [
        float(one["speech_rate"]) for one in json.loads((tmp_path / "cache" / "speeds.json").read_text()).values()
    ]
    assert planned["work_s"] == pytest.approx(56 * 0.06 / rate), "56 characters at 0.06 s"
    assert "on this machine" in planned["why"]
    assert "measure this machine" in run("narrate", book, "--plan").stdout, (
        "the measured speed was that of another engine"
    )


def test_an_unreadable_file_of_speeds_counts_as_not_measured(book: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    for content in ("", "[]", '{"piper": 3}', '{"piper": {"speech_rate": "NaN", "day": "a"}}'):
        (tmp_path / "cache" / "speeds.json").write_text(content)
        assert "time unknown" in run("narrate", book, "--plan").stdout


def test_a_preview_shows_the_text_as_it_will_be_spoken(book: Path, tmp_path: Path) -> None:
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
        ((), "name a BOOK, such as: voxspool narrate book.epub -o book"),
        (("--verify", "-o", "out"), "name a BOOK, such as"),
        (("--verify", "tiny", "-o", "out"), "name a BOOK (tiny after --verify is read as a Whisper model), such as"),
        (("{book}",), "name a folder for the files, such as: voxspool narrate {book} -o book"),
        (("--verify", "{book}"), "name a folder for the files, such as: voxspool narrate {book} -o book"),
        (("{book}", "--attach", "lamp-123456"), "--attach ID takes no BOOK and no option but --json and --redis"),
        (
            ("--attach", "lamp-123456", "--seed", "0"),
            "--attach ID takes no BOOK and no option but --json and --redis",
        ),
        (
            ("--attach", "lamp-123456", "--voice", "bob"),
            "--attach ID takes no BOOK and no option but --json and --redis",
        ),
        (("{book}", "-o", "{book}"), "is a file, but a folder is needed; name one, such as -o book"),
        (("{book}", "-o", "no/app.py"), "no/app.py looks like a file, but a folder is needed; write -o app"),
        (("{book}", "-o", "lamp.m4b"), "write -o lamp --to m4b"),
        (("{book}", "-o", "lamp.flac"), "write -o lamp"),
        (("{book}", "-o", "out", "--to", "ogg"), "is not one of"),
    ],
)
def test_an_impossible_command_line_is_a_usage_error(book: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says.format(book=book) in refused("narrate", *(one.format(book=book) for one in arguments), code=2)


def test_detaching_without_a_shared_redis_is_a_usage_error(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOXSPOOL_REDIS_URL")
    skip_if_a_redis_is_running()
    said = refused("narrate", book, "-o", tmp_path / "out", "--detach", code=2)
    assert "--detach needs a Redis and workers that continue without this command" in said
    assert not (tmp_path / "out").exists()


def test_a_book_after_verify_is_read_as_the_book(book: Path) -> None:
    assert "2 chapters" in run("narrate", "--plan", "--verify", book).stdout
    assert "2 chapters" in run("narrate", "--plan", "--verify", "tiny", book).stdout
    assert "1 chapter," in run("narrate", "--plan", "--verify", "-", stdin="Hello.").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--chapters", "3"), "chapters '3' do not exist: the book has 1 to 2"),
        (("--skip", "1-2"), "no chapter is left"),
        (("--voice-of", "bob"), "names no voice for a chapter"),
        (("--to", "epub"), "is not an EPUB"),
        (("--speed", "9"), "speed 9.0 is outside"),
        (("--pronunciations", "/nowhere/names.txt"), "names.txt"),
    ],
)
def test_a_wrong_option_of_a_narration_is_refused_with_one_line(
    book: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused("narrate", book, "-o", tmp_path / "out", *arguments, code=2)


def test_a_redis_that_does_not_answer_is_a_failure_not_a_wrong_value(book: Path, tmp_path: Path) -> None:
    assert "no Redis answers" in refused("narrate", book, "-o", tmp_path / "out")


def test_an_unknown_kind_of_store_is_refused_before_anything_is_started(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.setenv("VOXSPOOL_STORE", "s4://bucket")
    assert "s4://bucket cannot be a segment store" in refused("narrate", book, "-o", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_a_readable_book_is_refused(tmp_path: Path) -> None:
    assert "no-book.epub" in refused("narrate", tmp_path / "no-book.epub", "--plan", code=2)
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
def test_a_missing_library_is_named_before_anything_is_started(
    book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert f"[{extra}]" in refused("narrate", book, "-o", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_created_is_refused_before_redis_is_asked(book: Path) -> None:
    assert "cannot write" in refused("narrate", book, "-o", book / "out", code=2)


# Text that others wrote

WRITTEN = "# The [/b] End \x1b]0;title\x07\n\nHe went [sic] home.\x1b[2J\u202e It burned.\n"


def test_brackets_in_a_title_are_shown_in_the_plan_and_in_the_preview(tmp_path: Path) -> None:
    path = tmp_path / "end.md"
    path.write_text("# The [/b] End [sic]\n\nThe keeper [sic] lit it.\n\n# [bold]Two[/bold] :smile:\n\nIt burned.\n")
    planned = run("narrate", path, "--plan").stdout
    assert "1  The [/b] End [sic]" in planned
    assert "2  [bold]Two[/bold] :smile:" in planned
    assert "The keeper [sic] lit it." in run("preview", path).stdout


@pytest.mark.parametrize("command", [["narrate", "--plan"], ["preview"]])
def test_a_book_sends_no_control_character_to_the_terminal(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "b\x1b[31m.html"
    path.write_text(f"<html><title>A\x9bb\u202e</title><body><h1>B\u2066</h1><p>{WRITTEN}</p></body></html>")
    result = run(command[0], path, *command[1:])
    assert result.exit_code == 0, result.output
    assert_fit_to_show(result.output)


@pytest.mark.parametrize(
    "arguments",
    [
        ["narrate", "\x1b[31m.epub", "--plan"],
        ["narrate", "missing\n2026.epub", "-o", "out"],
        ["narrate", "b\x1bb.md", "-o", "b\x1b.mp3"],
        ["narrate", "--\x1b[31m"],
        ["--\x1b[31m"],
        ["\x1b[31m"],
        ["speak", "--engine", "\x1b[31m", "hi"],
        ["speak", "--voice", "\x1b[31m", "hi", "-o", "a.wav"],
        ["speak", "-f", "\x1b[31m"],
        ["enqueue", "hi", "--job-id", "a\x1b[31m"],
        ["preview", "b.md", "--chapters", "\x1b[31m"],
        ["preview", "b.md", "--pronunciations", "\x1b[31m"],
        ["voices", "\x1b[31m"],
        ["follow", "a\x1b[31m", "--raw", "--from", "\x1b[31m"],
    ],
)
def test_no_error_repeats_a_control_character(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code in {1, 2}
    assert_fit_to_show(result.output)


@pytest.mark.parametrize(
    "variable", ["VOXSPOOL_REDIS_URL", "VOXSPOOL_ENGINE", "VOXSPOOL_STORE", "VOXSPOOL_PRONUNCIATIONS"]
)
def test_no_error_repeats_a_control_character_of_a_variable(
    book: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "s9://\x1b[31m\n2026 forged")
    result = run("narrate", book, "-o", book.parent / "out")
    assert result.exit_code in {1, 2}
    assert_fit_to_show(result.output)


def assert_fit_to_show(printed: str) -> None:
    assert printed
    assert [one for one in printed if one != "\n" and (one < " " or "\x7f" <= one <= "\x9f")] == []
    assert not set("\u202e\u2066") & set(printed)
