"""Every command that the README and the documentation show works word for word in a minimal environment.

A command in a code block, or in backquotes with an argument, is run. A command in backquotes without arguments must
exist. NOT_RUN lists the commands that cannot run here, with the reasons.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.support import bare
from tests.support.make_epub import epub, packed
from tests.support.processes import ROOT, RedisServer, until
from tests.support.reference import SENTENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "supervisor" / "README.md"]
COMMAND = re.compile(r"(?:[A-Z]\w*=\S+ )*(?:(?:cat|echo) [^|]*\| )?voxspool(?:-worker)?(?: (?P<words>.*))?")
RUNS: Final = re.compile(r"voxspool-worker run\b")
PLAYS: Final = re.compile(r"--play|voxspool speak (?!.*(-o|--output) )")
JOB: Final = "shown"
"""Id of an existing job, for commands that need one."""

NOT_RUN: Final = {
    r"--engine xtts|worker warm|check --fidelity": "needs XTTS's weights: 2 GB under a licence that must be accepted",
    r"voices (add|show|rm)\b|clara|alice": "needs XTTS to clone a voice; see tests/system/test_voices.py",
    r"voices (search|get|try)\b|ljspeech": "needs Piper's catalogue; see tests/system/test_voice_commands.py",
    r"--metrics": "needs the extra metrics and a fixed port; see tests/system/test_metrics.py",
    r"voxspool retry": "needs a job that failed; see tests/worker/queue/test_job_list.py",
    r"thewarmlamp-": "contains the id of another run; see tests/system/test_narration_docs.py",
}
"""Pattern of a shown command -> why this test does not run it."""


def shown(page: Path) -> Iterator[str]:
    """Yield the commands that a page shows, in order: lines of code blocks and texts in backquotes."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    parts = re.split(r"^```(.*)$", text, flags=re.MULTILINE)  # text, language, block, "", text, language, block …
    for prose, language, block in zip(parts[::4], [*parts[1::4], ""], [*parts[2::4], ""], strict=True):
        inline = [one.replace("\n", " ") for one in re.findall(r"`([^`]+)`", prose)]
        for line in [*inline, *(block.splitlines() if language in {"", "sh"} else [])]:
            command = re.split(r"\s#\s", line)[0].strip()
            if COMMAND.fullmatch(command):
                yield command


ALL = {page: some for page in PAGES if (some := list(dict.fromkeys(shown(page))))}


def why_not(command: str) -> str | None:
    """Return why a command is not run; None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


def test_every_pattern_of_not_run_matches_a_shown_command() -> None:
    commands = [command for some in ALL.values() for command in some]
    assert len(commands) > 30
    for pattern in NOT_RUN:
        assert any(re.search(pattern, command) for command in commands), f"no page shows {pattern}: remove it"


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the commands of a minimal environment."""
    return bare.environment(tmp_path_factory, bare.RUNNING)


@pytest.fixture
def environ(commands: Path, redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    """Return a new user's environment with a Redis, and write a book and texts into the working folder."""
    (tmp_path / "book.epub").write_bytes(packed(epub(3, paragraphs=2).entries))
    for name in ("page.txt", "chapter.txt", "article.md"):
        (tmp_path / name).write_text(SENTENCE, encoding="utf-8")
    names = re.search(r"```text\n(# names.txt\n.*?)```", (ROOT / "docs" / "narration.md").read_text(), re.DOTALL)
    (tmp_path / "names.txt").write_text(names[1] if names else "Siobhan => Shivawn\n", encoding="utf-8")
    variables = bare.loudspeaker(tmp_path)[0] if bare.has_portaudio() else {}
    return variables | {
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PATH": f"{commands}:/usr/bin:/bin",
        "VOXSPOOL_REDIS_URL": redis_server.url,
    }


def run(line: str, folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a shell command."""
    command = ["sh", "-c", line]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def worker(commands: Path, environ: dict[str, str], tmp_path: Path) -> Iterator[None]:
    """Start a worker as in the README: in the minimal environment, with Piper."""
    log = tmp_path / "worker.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [commands / "voxspool-worker", "run"], cwd=tmp_path, env=environ, stdout=out, stderr=out
        )
    until(lambda: "worker.ready" in log.read_text() or process.poll() is not None, "a worker", limit_s=120)
    assert process.poll() is None, log.read_text()
    yield
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0, log.read_text()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("page", ALL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_shown_command_works(page: Path, environ: dict[str, str], tmp_path: Path) -> None:
    assert run(f"voxspool enqueue --job-id {JOB} --engine piper 'One two.'", tmp_path, environ).returncode == 0
    for command in ALL[page]:
        words = COMMAND.fullmatch(command)
        assert words
        if why_not(command) or (PLAYS.search(command) and not bare.has_portaudio()):
            continue
        if RUNS.search(command):
            run_until_ready(command, tmp_path, environ)
            continue
        exact = re.sub(r"\bJOB\b", JOB, command)
        if not (words["words"] or "").partition(" ")[2] and exact == command and "|" not in command:
            exact = f"{command} --help"  # the page only names the command
        done = run(exact, tmp_path, environ | ({"VOXSPOOL_WORKER_ENGINE": "tone"} if "--bench" in exact else {}))
        assert done.returncode == 0, f"{page.name} shows {command!r}, and it fails:\n{done.stdout}\n{done.stderr}"


def run_until_ready(command: str, folder: Path, environ: dict[str, str]) -> None:
    """Run a worker's command until the worker is ready, and stop it as a supervisor does."""
    log = folder / "shown-worker.log"
    with log.open("w") as out:
        process = subprocess.Popen(shlex.split(command), cwd=folder, env=environ, stdout=out, stderr=out)
    try:
        until(lambda: "worker.ready" in log.read_text() or process.poll() is not None, command, limit_s=120)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_bash_completes_commands_options_and_values(commands: Path) -> None:
    """Bash completes commands, options and values with the line for ~/.bashrc from docs/cli.md."""
    bash = shutil.which("bash") or bare.unavailable("there is no bash")
    line = re.search(
        r"\| bash [^|]*\|[^|]*\| `(eval [^`]+)` \|", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    )
    assert line
    for typed, expected in {"sp": "speak", "speak hi --eng": "--engine", "speak hi --engine x": "xtts"}.items():
        typed_words = ["voxspool", *typed.split()]
        script = (
            f"{line[1]}\ncomplete -p voxspool >/dev/null || exit 3\n"
            f"COMP_WORDS=({shlex.join(typed_words)}); COMP_CWORD={len(typed_words) - 1}\n"
            '_voxspool_completion voxspool; echo "${COMPREPLY[@]}"\n'
        )
        done = subprocess.run(
            [bash, "--norc", "-c", script], env={"PATH": f"{commands}:/usr/bin:/bin"}, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout.split()) == (0, [expected]), done.stderr
