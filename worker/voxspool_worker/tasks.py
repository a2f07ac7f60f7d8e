"""The only two functions that a job may name. RQ imports this module inside the worker to find them, so it stays light.

It uses no engine and no Redis; the worker sets who speaks, through `speaker` and `narrator`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from voxspool.protocol.jobs import JobSpec
from voxspool.protocol.narration import ChapterSpec

if TYPE_CHECKING:
    from collections.abc import Callable

speaker: ContextVar[Callable[[JobSpec], dict[str, Any]]] = ContextVar("speaker")
narrator: ContextVar[Callable[[ChapterSpec], dict[str, Any]]] = ContextVar("narrator")
"""Who speaks for the job that this thread runs; set by the worker, a job at a time."""

_Who = TypeVar("_Who")


def synthesize(spec: dict[str, Any]) -> dict[str, Any]:
    """Speak a job to its end; give a summary for RQ's result.

    Only a voxspool worker can: under any other RQ worker this raises RuntimeError.
    """
    return _who(speaker)(JobSpec.decode(spec))


def narrate(chapter: dict[str, Any]) -> dict[str, Any]:
    """Narrate a chapter of a book to its end, likewise."""
    return _who(narrator)(ChapterSpec.decode(chapter))


def _who(variable: ContextVar[_Who]) -> _Who:
    """Return whom the worker set."""
    try:
        return variable.get()
    except LookupError:
        raise RuntimeError("speech jobs need a voxspool worker; start one: voxspool-worker run") from None
