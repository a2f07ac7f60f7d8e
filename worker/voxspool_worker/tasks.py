"""The only function that a job may name. Light for ever: RQ imports this module to find it, inside the worker.

Knows no engine and no Redis; the worker says who speaks, through `speaker`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from voxspool.protocol.jobs import JobSpec

if TYPE_CHECKING:
    from collections.abc import Callable

speaker: ContextVar[Callable[[JobSpec], dict[str, Any]]] = ContextVar("speaker")
"""Who speaks for the job that this thread runs; set by the worker, a job at a time."""


def synthesize(spec: dict[str, Any]) -> dict[str, Any]:
    """Speak a job to its end; give a summary for RQ's result.

    Only a voxspool worker can: under any other RQ worker this raises RuntimeError.
    """
    try:
        speak = speaker.get()
    except LookupError:
        raise RuntimeError("speech jobs need a voxspool worker; start one: voxspool-worker run") from None
    return speak(JobSpec.decode(spec))
