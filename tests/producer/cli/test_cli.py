"""The output and the exit codes of the command without a Redis; tests/system runs it with one."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import socket
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner, Result

from voxspool.cli import main
from voxspool.protocol.environment import VARIABLES
from voxspool.protocol.jobs import ENGINES, MAX_TEXT_CHARS, PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMANDS = sorted(main.commands)
VOICES = main.commands["voices"]
assert isinstance(VOICES, click.Group)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*(name for name in os.environ if name.startswith("VOXSPOOL_")), "REDIS_URL"]:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Yield the URL of a port of this machine on which no program listens, and which no other program can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"redis://127.0.0.1:{held.getsockname()[1]}"


def run(*arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, env=env)


def misused(*arguments: str) -> str:
    """Return the output of a usage error."""
    result = run(*arguments)
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Usage: ")
    return result.stderr


def refused(*arguments: str, code: int = 2, stdin: bytes | None = None, env: dict[str, str] | None = None) -> str:
    """Return the line of a VoxspoolError. It is a wrong value unless another exit code is expected."""
    result = run(*arguments, stdin=stdin, env=env)
    assert isinstance(result.exception, SystemExit), "an error other than VoxspoolError was raised"
    assert result.exit_code == code
    assert result.stdout == ""
    assert re.fullmatch(r"Error: [^\n]+\n", result.stderr)
    return result.stderr


# Usage


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speak", "-o", "a.wav"], "give the text, or - to read it from stdin, or --file FILE"),
        (["enqueue"], "give the text, or - to read it from stdin, or --file FILE"),
        (["enqueue", "text", "--file", "text.txt"], "give the text as an argument or with --file text.txt, not both"),
        (["enqueue", "-", "--file", "text.txt"], "not both"),
        (["speak", "hi", "-f", "x"], "not both"),
        (["speak", "text", "-o", "a.wav", "--engine", "eSpeak"], "'auto', 'piper', 'tone', 'xtts'"),
        (["enqueue", "text", "--priority", "urgent"], "'interactive', 'batch'"),
        (["enqueue", "text", "--speed", "fast"], "'fast' is not a valid float"),
        (["enqueue", "text", "--seed", "1.5"], "'1.5' is not a valid integer"),
        (["enqueue", "text", "more"], "unexpected extra argument"),
        (["follow"], "Missing argument 'JOB'"),
        (["follow", "job", "--play", "--raw"], "-o, --raw and --play exclude each other"),
        (["follow", "job", "--play", "-o", "a.wav"], "exclude each other"),
        (["follow", "job", "--raw", "-o", "a.wav"], "exclude each other"),
        (["follow", "job", "--from", "1-1"], "--from works only with --raw"),
        (["follow", "job", "--from", "1-1", "-o", "a.wav"], "--from works only with --raw"),
        (["follow", "job", "--raw", "--from", "yesterday"], "'yesterday' is not an entry's id"),
        (["cancel"], "Missing argument 'JOB'"),
        (["demo", "--engine", "auto"], "'piper', 'tone', 'xtts'"),
        (["nonsense"], "No such command 'nonsense'"),
        (["status", "--nonsense"], "--nonsense"),
    ],
)
def test_a_usage_error_shows_the_usage_and_the_reason(arguments: list[str], said: str) -> None:
    assert said in misused(*arguments)


# Voxspool's own errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--speed", "3"], "speed 3.0 is outside 0.5 to 2.0"),
        (["--speed", "nan"], "speed NaN is outside"),
        (["--seed", "-1"], "seed -1 is outside 0 to 4294967295"),
        (["--job-id", "two words"], 'job id "two words" has other characters'),
        (["--job-id", ""], 'job id ""'),
        (["--job-id", "a\n"], r'job id "a\n"'),
        (["--language", "english"], 'language "english" is not a language tag; write it like en or pt-br'),
        (["--voice", ""], 'voice ""'),
        (["--voice", "alice("], "voice 'alice(' is neither a name nor a mix of names"),
        (["--live", "0"], "live_s 0 is outside 1 to 86400 seconds"),
    ],
)
@pytest.mark.parametrize("command", [["enqueue"], ["speak", "-o", "-"]], ids=lambda words: words[0])
def test_a_wrong_option_of_a_job_is_refused_with_one_line_before_redis_is_asked(
    command: list[str], arguments: list[str], said: str, nowhere: str
) -> None:
    assert said in refused(*command, "text", *arguments, "--redis", nowhere)


def test_a_text_over_the_limit_is_refused(nowhere: str) -> None:
    said = refused("enqueue", "-", "--redis", nowhere, stdin=b"a" * (MAX_TEXT_CHARS + 1))
    assert "the text has 100,001 characters and the limit is 100,000; enqueue it in parts" in said


def test_a_text_at_the_limit_is_accepted(nowhere: str) -> None:
    umlauts = "\ufeff" + "ä" * MAX_TEXT_CHARS  # twice as many bytes, and a byte order mark, which does not count
    assert "no Redis answers" in refused("enqueue", "-", "--redis", nowhere, stdin=umlauts.encode(), code=1)


@pytest.mark.parametrize("text", ["", " \n\t ", "\ufeff", "\u200b\u2028"], ids=ascii)
@pytest.mark.parametrize("command", ["enqueue", "speak"])
def test_an_empty_text_is_refused_from_every_source(tmp_path: Path, text: str, command: str) -> None:
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    assert "Error: the text is empty; there is nothing to speak" in refused(command, text)
    assert f"Error: {path} is empty" in refused(command, "--file", str(path))
    assert "Error: stdin is empty" in refused(command, "-", stdin=text.encode())
    assert "Error: stdin is empty" in refused(command, "--file", "-", stdin=text.encode())


def test_an_argument_that_is_not_utf_8_is_refused() -> None:
    assert "the text is not UTF-8 text (byte 3)" in refused("enqueue", "abc\udcff")


@pytest.mark.parametrize(("content", "byte"), [(b"\xff\xfeH\0i\0", 0), ("Grüße".encode("latin-1"), 2), (b"abc\x80", 3)])
def test_a_text_that_is_not_utf_8_is_refused_with_the_position(tmp_path: Path, content: bytes, byte: int) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    said = f"is not UTF-8 text (byte {byte}); convert it first"
    assert f"{path} {said}" in refused("enqueue", "--file", str(path))
    assert f"stdin {said}" in refused("enqueue", "-", stdin=content)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path}/none: No such file" in refused("enqueue", "--file", f"{tmp_path}/none")
    assert f"cannot read {tmp_path}: Is a directory" in refused("enqueue", "-f", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.m4b", "end its name in one of .wav, .flac, .mp3, .ogg, .opus"),
        ("a", "end its name in one of"),
        ("none/a.wav", "create it first"),
    ],
)
def test_an_output_file_that_cannot_be_written_is_refused_before_redis_is_asked(
    tmp_path: Path, name: str, said: str, nowhere: str
) -> None:
    path = str(tmp_path / name)
    assert said in refused("speak", "text", "-o", path, "--redis", nowhere)
    assert said in refused("follow", "job", "-o", path, "--redis", nowhere)
    assert said in refused("demo", "-o", path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["enqueue", "text"],
        ["speak", "text", "-o", "-"],
        ["follow", "job"],
        ["follow", "job", "--raw", "--from", "1-1"],
        ["status"],
        ["status", "job", "--json"],
        ["cancel", "job"],
        ["voices"],
        ["voices", "list", "--json"],
        ["voices", "show", "alice"],
        ["voices", "rm", "alice"],
        ["voices", "add", "alice", "alice.wav"],
    ],
    ids=" ".join,
)
def test_a_redis_that_does_not_answer_is_one_line_with_its_url(arguments: list[str], nowhere: str) -> None:
    said = refused(*arguments, "--redis", nowhere.replace("//", "//user:hunter2@"), code=1)
    assert said.startswith(f"Error: no Redis answers at {nowhere.replace('//', '//user:***@')} (")
    assert "--redis or VOXSPOOL_REDIS_URL" in said
    assert "hunter2" not in said


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "nonsense", ""])
@pytest.mark.parametrize(
    "command", [["status"], ["speak", "hi"], ["enqueue", "hi"], ["demo"], ["voices"]], ids=" ".join
)
def test_a_text_that_is_not_a_redis_url_is_a_wrong_value(command: list[str], url: str) -> None:
    assert "write it like redis://localhost:6379/0" in refused(*command, "--redis", url)
    assert not url or "write it like" in refused(*command, env={"VOXSPOOL_REDIS_URL": url})


def test_an_error_about_a_file_name_with_a_line_break_is_one_line() -> None:
    refused("enqueue", "--file", "no\nfile")


@pytest.mark.parametrize("where", ["before", "after"])
def test_an_option_before_a_command_of_voices_applies_to_it(where: str, nowhere: str) -> None:
    said = ["--redis", nowhere]
    arguments = [*said, "show", "alice"] if where == "before" else ["show", "alice", *said]
    assert f"no Redis answers at {nowhere} " in refused("voices", *arguments, code=1)


# Settings


def test_the_command_line_overrides_the_environment(nowhere: str) -> None:
    env = {"VOXSPOOL_REDIS_URL": "redis://environment:1", "VOXSPOOL_ENGINE": "piper"}
    said = refused("enqueue", "a", "--redis", nowhere, "--engine", "tone", env=env, code=1)
    assert f"no Redis answers at {nowhere} " in said


def test_the_environment_is_read(nowhere: str) -> None:
    assert f"no Redis answers at {nowhere} " in refused("status", env={"VOXSPOOL_REDIS_URL": nowhere}, code=1)
    assert f"no Redis answers at {nowhere} " in refused("status", env={"REDIS_URL": nowhere}, code=1)
    assert "VOXSPOOL_ENGINE is 'Pipper'; there is no such engine (did you mean piper?)" in refused(
        "enqueue", "a", env={"VOXSPOOL_ENGINE": "Pipper"}
    )
    assert 'voice "\\n"' in refused("enqueue", "a", env={"VOXSPOOL_VOICE": "\n"})


def test_a_mistyped_variable_is_one_line_with_the_similar_name(nowhere: str) -> None:
    said = refused("status", "--redis", nowhere, env={"VOXSPOOL_VOICES": "a"})
    assert "VOXSPOOL_VOICES (did you mean VOXSPOOL_VOICE" in said


# Help


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_works_whatever_the_environment(command: str | None, flag: str) -> None:
    result = run(
        *([command] if command else []), flag, env={"VOXSPOOL_NONSENSE": "1", "VOXSPOOL_REDIS_URL": "nonsense"}
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"Usage: {' '.join(filter(None, ['main', command]))} [OPTIONS]")


def groups() -> Iterator[click.Group]:
    """Yield both commands, and the groups within them."""
    todo: list[click.Command] = [main, pytest.importorskip("voxspool_worker.cli").main]
    while todo:
        if isinstance(command := todo.pop(), click.Group):
            yield command
            todo += command.commands.values()


@pytest.mark.parametrize("group", list(groups()), ids=lambda group: str(group.name))
@pytest.mark.parametrize("columns", [80, 40])
def test_the_list_of_commands_is_not_cut(group: click.Group, columns: int) -> None:
    with click.Context(group, info_name="voxspool", terminal_width=columns, max_content_width=columns) as context:
        listed = group.get_help(context).split("\nCommands:\n")[1]
    assert "..." not in listed
    summaries = [re.sub(r"\s+", " ", one).strip() for one in re.split(r"^  (?=\w)", listed, flags=re.MULTILINE) if one]
    assert len(summaries) == len(group.commands)
    assert all(summary.endswith(".") for summary in summaries)
    if columns == 80:
        assert len(listed.splitlines()) == len(group.commands), "a summary takes one line"


def every_command() -> Iterator[click.Command]:
    for group in groups():
        yield group
        yield from group.commands.values()


@pytest.mark.parametrize("command", list(every_command()), ids=lambda command: str(command.name))
def test_help_fits_into_80_columns(command: click.Command) -> None:
    with click.Context(command, info_name="voxspool", terminal_width=80) as context:
        assert [line for line in command.get_help(context).splitlines() if len(line) > 80] == []


def test_the_version_is_that_of_the_package() -> None:
    from importlib.metadata import version

    assert run("--version").stdout.strip().endswith(f" {version('voxspool')}")


def examples(command: click.Command) -> list[str]:
    """Return the lines that a command's help shows as they are, right after its first paragraph."""
    _, _, rest = inspect.cleandoc(str(command.help)).partition("\n\n")
    return rest.removeprefix("\b\n").split("\n\n")[0].splitlines() if rest.startswith("\b\n") else []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_an_example_of_it(name: str) -> None:
    lines = examples(main.commands[name])
    assert lines
    assert all(line.startswith(f"voxspool {name}") for line in lines)


@pytest.mark.parametrize("name", sorted(VOICES.commands))
def test_the_help_of_a_command_of_voices_begins_with_an_example_of_it(name: str) -> None:
    lines = examples(VOICES.commands[name])
    assert lines
    for line in lines:
        first, second, command, *rest = shlex.split(line)
        assert (first, second, command) == ("voxspool", "voices", name)
        VOICES.commands[name].make_context(name, rest)


@pytest.mark.parametrize(
    "line", [line for command in (main, *map(main.commands.get, COMMANDS)) if command for line in examples(command)]
)
def test_every_example_in_a_help_text_can_be_parsed(line: str) -> None:
    shell = re.split(r" {3,}", line)[0]  # the text after it explains it
    (words,) = (words for part in shell.split("|") if (words := shlex.split(part.split(" < ")[0]))[0] == "voxspool")
    main.commands[words[1]].make_context(words[1], words[2:])


def options() -> list[click.Option]:
    found = [one for command in main.commands.values() for one in command.params if isinstance(one, click.Option)]
    return list({(one.name, one.help): one for one in found}.values())


def test_the_options_name_the_variables_that_they_override() -> None:
    named = {name for one in options() for name in re.findall(r"VOXSPOOL_\w+", one.help or "")}
    assert named <= set(VARIABLES)
    assert named == {"VOXSPOOL_REDIS_URL", "VOXSPOOL_ENGINE", "VOXSPOOL_VOICE", "VOXSPOOL_PRONUNCIATIONS"}


def test_each_option_names_the_variable_of_its_default() -> None:
    said = {
        one.name: one.help or "" for one in options() if "private" not in (one.help or "")
    }  # demo's has no variable
    assert "[VOXSPOOL_REDIS_URL, REDIS_URL]" in said["redis_url"]
    assert "[VOXSPOOL_VOICE" in said["voice"]
    for one in options():
        if one.name == "engine" and one.help:
            assert "[VOXSPOOL_ENGINE" in one.help


def test_the_choices_of_engine_and_priority_are_those_of_the_protocol() -> None:
    chosen = {one.name: one for one in main.commands["enqueue"].params}
    engine, priority = chosen["engine"].type, chosen["priority"].type
    assert isinstance(engine, click.Choice)
    assert isinstance(priority, click.Choice)
    assert list(engine.choices) == ["auto", *ENGINES]
    assert list(priority.choices) == list(PRIORITIES)
