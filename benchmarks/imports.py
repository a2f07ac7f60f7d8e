"""Import times in a new interpreter, without the start of the interpreter itself.

A sample is the time of `python -c IMPORT` minus the time of `python -c pass` directly before it; files are cached.
voxspool imports a module when one of its names is first used, so Client is measured too: it imports redis and rq.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import Final

from benchmarks.figures import OURS, Figure, Samples, alternate
from benchmarks.testbed import environment

STATEMENTS: Final = ("import voxspool", "from voxspool import Client")


def imports(rounds: int, times: int) -> list[Figure]:
    """Measure each of the STATEMENTS, in ms."""
    for statement in STATEMENTS:
        _took_ms(statement)
    return [
        figure
        for statement in STATEMENTS
        for figure in alternate(rounds, {OURS: partial(_differences, statement, times)})
    ]


def _differences(statement: str, times: int) -> Samples:
    """Return the samples of one round, in ms."""
    samples = []
    for _ in range(times):
        bare_ms = _took_ms("pass")
        samples.append(_took_ms(statement) - bare_ms)
    return {statement: samples}


def _took_ms(statement: str) -> float:
    """Return the time of a new interpreter that runs a statement, in ms."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=environment())
    return (time.perf_counter() - started) * 1e3
