"""The CPU decoder in C refuses wrong arguments, under AddressSanitizer and UBSan; without PyTorch."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = ROOT / "worker" / "voxspool_worker" / "engines" / "xtts" / "cpu_decoder.c"
FUZZER = ROOT / "tests" / "support" / "fuzz_cpu_decoder.c"
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
MACHINE = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
FLAGS = ("-std=gnu11", "-O1", "-g", "-pthread", "-Wno-psabi", "-fno-sanitize-recover=all", SANITIZERS, MACHINE)
CALLS = 5000
"""Three to ten seconds. Run the program by hand for more; its head describes how."""


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the compiler's path. Skips if there is none, or one without the sanitizers' libraries."""
    found = shutil.which("cc")
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    if found is None or run(found, *FLAGS, str(folder / "empty.c"), "-o", str(folder / "empty")).returncode:
        pytest.skip("for a C compiler with sanitizers")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # The program counts what it allocates; the search for leaks would need the right to trace processes.
    environ = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def test_random_calls_are_done_or_refused_without_an_error_of_memory(compiler: str, tmp_path: Path) -> None:
    program = str(tmp_path / "fuzz")
    made = run(compiler, *FLAGS, f'-DDECODER="{SOURCE}"', str(FUZZER), "-lm", "-o", program)
    assert made.returncode == 0, made.stderr
    done = run(program, "1", str(CALLS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "seed 1: ok" in done.stdout
    counts = [int(count) for count in done.stdout.rpartition(":")[2].split()]
    assert all(counts), "each status was returned, and so each kind of fault was tried"
