"""The commands play speech through the real PortAudio, which writes into a file, so each sample is compared."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import redis
import soundfile

from tests.support import bare
from tests.support.processes import RedisServer, clean_env
from tests.support.reference import SENTENCE, tone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]
    Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(redis_server: RedisServer, tmp_path: Path) -> Run:
    """Run `voxspool …` in the test's folder with the test's Redis and additional environment variables."""

    def run(*arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
        variables = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url} | environ
        command = [sys.executable, "-m", "voxspool", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_speak_without_a_file_plays_each_sample(run: Run, start_worker: StartWorker, tmp_path: Path) -> None:
    variables, heard = bare.loudspeaker(tmp_path)
    start_worker()
    done = run("speak", SENTENCE, environ=variables)
    assert done.returncode == 0, done.stderr
    assert heard.read_bytes() == tone(SENTENCE)
    assert (done.stdout, re.match(r"played: \d\.\d s of speech", done.stderr) is not None) == ("", True)


def test_follow_plays_a_job(run: Run, start_worker: StartWorker, client: Client, tmp_path: Path) -> None:
    variables, heard = bare.loudspeaker(tmp_path)
    start_worker()
    job = client.enqueue(SENTENCE).id
    done = run("follow", job, "--play", environ=variables)
    assert done.returncode == 0, done.stderr
    assert heard.read_bytes() == tone(SENTENCE)


def test_the_demo_plays_what_it_writes(
    run: Run, start_worker: StartWorker, redis_server: RedisServer, tmp_path: Path
) -> None:
    variables, heard = bare.loudspeaker(tmp_path)
    start_worker()
    done = run("demo", "--play", "--engine", "tone", "--redis", redis_server.url, environ=variables)
    assert done.returncode == 0, done.stderr
    assert heard.read_bytes() == soundfile.read(tmp_path / "demo.wav", dtype="int16")[0].tobytes()
    assert "demo --play" in done.stderr, "the demo suggests playing, since this machine can play"


def without_sounddevice(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine on which the package sounddevice is not installed."""
    return fake_sounddevice(tmp_path, "raise ImportError('no sounddevice')")


def without_portaudio(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine without PortAudio's library."""
    return fake_sounddevice(tmp_path, "raise OSError('PortAudio library not found')")


def without_a_device(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a machine without a sound device."""
    if not bare.has_portaudio():
        pytest.skip("there is no PortAudio on ALSA here: apt install libportaudio2")
    return bare.no_loudspeaker(tmp_path)


def fake_sounddevice(tmp_path: Path, how: str) -> dict[str, str]:
    """Write a module `sounddevice` that raises the real one's error on import; return the environment that uses it."""
    (tmp_path / "sounddevice.py").write_text(how)
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))}


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        (without_sounddevice, r"needs the Python package sounddevice; install it with: .*install .*\[play\]"),
        (without_portaudio, r"needs PortAudio; install it: sudo apt install libportaudio2 \(Debian"),
        (without_a_device, r"no loudspeaker that works \(Error querying device -1\)"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_commands_that_cannot_play_say_what_is_missing_before_they_enqueue(
    run: Run, db: redis.Redis, tmp_path: Path, lacking: Callable[[Path], dict[str, str]], named: str
) -> None:
    environ = lacking(tmp_path)
    for arguments in (["speak", "Hello."], ["follow", "job", "--play"]):
        done = run(*arguments, environ=environ)
        assert done.returncode == 1
        assert re.fullmatch(rf"Error: [^\n]*{named}[^\n]*; (or )?write a file instead: -o hello\.wav\n", done.stderr)
    assert run("demo", "--play", environ=environ).returncode == 1
    assert db.keys() == []
    assert not list(tmp_path.glob("demo*"))


def test_the_demo_runs_without_a_loudspeaker(
    run: Run, start_worker: StartWorker, redis_server: RedisServer, tmp_path: Path
) -> None:
    start_worker()
    done = run("demo", "--engine", "tone", "--redis", redis_server.url, environ=without_sounddevice(tmp_path))
    assert done.returncode == 0, done.stderr
    _, steps = done.stderr.split("\nNext steps:\n")
    assert 'speak "Hello." -o hello.wav' in steps
    assert "--play" not in steps


def test_the_demo_names_the_language_of_its_text(
    run: Run, start_worker: StartWorker, redis_server: RedisServer, client: Client, tmp_path: Path
) -> None:
    start_worker()
    done = run("demo", "--engine", "tone", "--redis", redis_server.url, environ=without_sounddevice(tmp_path))
    assert done.returncode == 0, done.stderr
    with contextlib.closing(redis.Redis.from_url(redis_server.url)) as db:
        (key,) = db.keys("rq:job:*")
    spec = client.speech(key.decode().removeprefix("rq:job:")).spec()
    assert spec is not None
    assert spec.language == "en", "the default voice of a machine may speak another language"


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("/bin/zsh", "source {}activate "),
        ("/usr/bin/fish", "source {}activate.fish "),
        ("/bin/tcsh", "source {}activate.csh "),
        ("/bin/dash", ". {}activate "),
    ],
)
def test_the_next_steps_activate_the_environment_in_the_users_shell(
    run: Run, start_worker: StartWorker, redis_server: RedisServer, tmp_path: Path, shell: str, line: str
) -> None:
    start_worker()
    environ = {"SHELL": shell, "PATH": "/usr/bin:/bin"} | without_sounddevice(tmp_path)
    done = run("demo", "--engine", "tone", "--redis", redis_server.url, environ=environ)
    verb, script = line.split("{}")
    assert f"  {verb}{shlex.quote(f'{sys.prefix}/bin/{script.strip()}')} " in done.stderr
