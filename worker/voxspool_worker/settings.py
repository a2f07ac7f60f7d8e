"""The worker's settings: one frozen value, and the only place that reads the environment. Flags come on top."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from voxspool.errors import SettingsError
from voxspool.protocol import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_JOBS = 8
"""Jobs at once: one a row of a batching engine, and cheap for one that does not batch."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker may be told."""

    redis_url: str = environment.DEFAULT_REDIS_URL
    engine: str = "piper"
    jobs: int = DEFAULT_JOBS
    piper_voices: Path | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises SettingsError, naming the variable, its value and what it may be."""
        environment.check_names(environ)
        voices = environ.get(environment.PIPER_VOICES)
        return cls(
            redis_url=environment.redis_url(environ) or environment.DEFAULT_REDIS_URL,
            engine=environ.get(environment.WORKER_ENGINE) or "piper",
            jobs=_positive(environ, environment.WORKER_JOBS, DEFAULT_JOBS),
            piper_voices=Path(voices) if voices else None,
        )


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    """Read a whole number from 1 up."""
    value = environ.get(name)
    if not value:
        return default
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise SettingsError(f"{name} is {value!r}; it takes a whole number from 1 up")
    return int(value)
