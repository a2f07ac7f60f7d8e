"""The tests run in parallel, from any shell, and a failed test cannot stop the run by its output."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PROCESS = "import os, pathlib, pytest, time\n@pytest.mark.parametrize('n', range(4))\ndef test_a(n):\n"


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs test files with this conftest.py in two processes and returns pytest's output."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n")
    (tmp_path / "tests").mkdir()
    shutil.copy(CONFTEST, tmp_path / "tests")

    def started(files: dict[str, str], shell: str = "") -> str:
        for name, text in files.items():
            path = tmp_path / "tests" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        command = ["sh", "-c", f'{shell} exec "$0" -m pytest --quiet --numprocesses 2 tests', sys.executable]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    return started


def test_a_failure_with_a_lone_surrogate_does_not_stop_the_run(run: Callable[..., str]) -> None:
    said = run({"test_a.py": 'def test_a(): assert "\\ud800" == "a"\ndef test_b(): pass\ndef test_c(): pass\n'})
    assert "1 failed, 2 passed" in said
    assert "\\ud800" in said


def test_all_tests_that_compute_with_pytorch_run_in_one_process(run: Callable[..., str], tmp_path: Path) -> None:
    note = f"    (pathlib.Path({str(tmp_path)!r}) / f'{{kind}}-{{n}}').write_text(str(os.getpid())); time.sleep(0.2)\n"
    said = run(
        {
            "worker/engines/xtts/test_a.py": f"kind = 'xtts'\n{PROCESS}{note}",
            "system/test_xtts.py": f"kind = 'xtts-system'\n{PROCESS}{note}",
            "system/test_other.py": f"kind = 'other'\n{PROCESS}{note}",
        }
    )
    assert "12 passed" in said
    assert len({path.read_text() for path in tmp_path.glob("xtts*-?")}) == 1
    assert {path.read_text() for path in tmp_path.glob("other-?")} - {
        path.read_text() for path in tmp_path.glob("xtts*")
    }


def test_programs_under_test_react_to_signals_that_the_shell_ignores(run: Callable[..., str]) -> None:
    ignored = "import signal; print(signal.SIG_IGN in map(signal.getsignal, (signal.SIGHUP, signal.SIGINT)))"
    child = f"subprocess.check_output([sys.executable, '-c', {ignored!r}])"
    test = f"import subprocess, sys\ndef test_a():\n    assert {child} == b'False\\n'\n"
    said = run({"test_a.py": test}, shell="trap '' HUP INT;")
    assert "1 passed" in said, said
