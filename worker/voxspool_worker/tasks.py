"""The two functions that a job in RQ names. A voxspool worker calls neither: it reads the arguments of the job."""

from __future__ import annotations

from typing import Any, NoReturn


def synthesize(spec: dict[str, Any]) -> NoReturn:
    """Raise RuntimeError: only a voxspool worker can speak a job. `spec` is an encoded JobSpec."""
    raise RuntimeError(_refusal(spec))


def narrate(chapter: dict[str, Any]) -> NoReturn:
    """Raise RuntimeError: only a voxspool worker can narrate a chapter. `chapter` is an encoded ChapterSpec."""
    raise RuntimeError(_refusal(chapter))


def _refusal(argument: dict[str, Any]) -> str:
    """Return the error message for a job with this argument. The message never contains the text of the job."""
    del argument
    return "speech jobs need a voxspool worker; start one: voxspool-worker run"
