"""Create small random checkpoints of XTTS once for all tests: writing one takes seconds and imports all of PyTorch."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from filelock import FileLock

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "build" / "checkpoints"
MAKERS = (ROOT / "benchmarks" / "random_xtts.py", ROOT / "benchmarks" / "random_vocab.py")
LIBRARIES = ("torch", "coqui-tts")
LIMIT_S = 180

DECODER_ROWS, DECODER_POSITIONS = 6, 1072
"""The size of the decoders that the tests make for the small checkpoint: rows, and positions of each row."""


def small_checkpoint(*, stop_bias: float = 0.0) -> Path:
    """Return the folder of a small random checkpoint, for reading only. A test that changes it must copy it.

    `stop_bias` is added to the logit of the stop token: a higher value makes segments shorter.
    """
    made_of = [path.read_text(encoding="utf-8") for path in MAKERS] + [version(name) for name in LIBRARIES]
    key = hashlib.sha256(repr((made_of, stop_bias)).encode()).hexdigest()[:16]
    folder = FOLDER / key
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER / f"{key}.lock"):
        if not folder.exists():
            making = FOLDER / f"{key}.part"
            program = [sys.executable, "-m", "benchmarks.random_xtts"]
            command = [*program, str(making), "--small", "--stop-bias", str(stop_bias)]
            subprocess.run(command, cwd=ROOT, timeout=LIMIT_S, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            making.rename(folder)
    return folder
