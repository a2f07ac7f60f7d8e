"""The two functions that a job may name. A voxspool worker calls neither: it reads the argument of the job itself."""

from __future__ import annotations

from typing import Any, NoReturn


def synthesize(spec: dict[str, Any]) -> NoReturn:
    """Refuse to speak an encoded JobSpec under another worker of RQ. Raises RuntimeError."""
    raise RuntimeError(_refusal(spec))


def narrate(chapter: dict[str, Any]) -> NoReturn:
    """Refuse to narrate an encoded ChapterSpec under another worker of RQ. Raises RuntimeError."""
    raise RuntimeError(_refusal(chapter))


def _refusal(argument: dict[str, Any]) -> str:
    """Return the message for a job with this argument; its text is never shown."""
    del argument
    return "speech jobs need a voxspool worker; start one: voxspool-worker run"
