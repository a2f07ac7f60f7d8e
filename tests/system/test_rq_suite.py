"""RQ's own tests of workers, against ours: what passes and what does not apply is as tests/rq_suite lists it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT, clean_env, server_path

NOT_TO_BE_HAD = 3


@pytest.mark.long
def test_rqs_own_tests_of_workers_do_with_ours_what_is_listed() -> None:
    command = [sys.executable, "tests/rq_suite/run.py"]
    environ = clean_env() | {"REDIS_SERVER": str(server_path())}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == NOT_TO_BE_HAD and not os.environ.get("CI"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
