"""How long an import takes in a fresh interpreter, beyond the interpreter's own start.

Each sample is the time of `python -c IMPORT` less that of a `python -c pass` before it, files cached. The names of
voxspool are loaded when first used, so `import voxspool` is not all that a producer waits for: Client brings redis and
rq along.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import Final

from figures import OURS, Figure, Samples, alternate
from stage import environment

STATEMENTS: Final = ("import voxspool", "from voxspool import Client")


def imports(rounds: int, times: int) -> list[Figure]:
    """Measure the imports, in turn."""
    for statement in STATEMENTS:
        _took_ms(statement)
    return [
        figure
        for statement in STATEMENTS
        for figure in alternate(rounds, {OURS: partial(_differences, statement, times)})
    ]


def _differences(statement: str, times: int) -> Samples:
    """Measure one round, in ms."""
    samples = []
    for _ in range(times):
        bare_ms = _took_ms("pass")
        samples.append(_took_ms(statement) - bare_ms)
    return {statement: samples}


def _took_ms(statement: str) -> float:
    """Run a statement in an interpreter of its own."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment())
    return (time.perf_counter() - began) * 1e3
