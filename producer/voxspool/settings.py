"""The producer's settings: one frozen value, and the only place that reads the environment. Flags come on top."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voxspool.protocol import environment
from voxspool.protocol.jobs import AUTO

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Settings:
    """What a producer or a consumer may be told."""

    redis_url: str = environment.DEFAULT_REDIS_URL
    redis_named: bool = False
    """Whether somebody named the URL; if not, `speak` may start a Redis of its own."""
    engine: str = AUTO
    voice: str | None = None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises SettingsError for a VOXSPOOL_ variable that nobody reads."""
        environment.check_names(environ)
        url = environment.redis_url(environ)
        return cls(
            redis_url=url or environment.DEFAULT_REDIS_URL,
            redis_named=url is not None,
            engine=environ.get(environment.ENGINE) or AUTO,
            voice=environ.get(environment.VOICE) or None,
        )
