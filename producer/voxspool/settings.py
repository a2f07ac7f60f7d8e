"""The producer's settings: one frozen value. Only this module reads the environment; options overrule it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from voxspool.errors import SettingsError
from voxspool.protocol import environment
from voxspool.protocol.jobs import AUTO, ENGINES, is_engine_name
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

DEFAULT_CACHE_DIR: Final = Path("~/.cache/voxspool")
"""The worker's default too."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a producer or a consumer may be told."""

    redis_url: str = field(default=environment.DEFAULT_REDIS_URL, repr=False)
    """May hold a password: never shown."""
    redis_named: bool = False
    """Whether somebody named the URL; if not, `speak` may start a Redis of its own."""
    engine: str = AUTO
    voice: str | None = None
    store: str = environment.DEFAULT_STORE
    """Where spoken segments of books are kept: a folder or a URL."""
    pronunciations: Path | None = None
    """How words are spoken in every book."""
    cache_dir: Path = DEFAULT_CACHE_DIR
    """Where the measured speed of this machine is kept. It may begin with ~."""
    shell: str = ""
    """The shell of the user, by the variable SHELL: `demo` shows how to activate the environment in it."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises SettingsError for a value that cannot be, and for a name nobody reads."""
        environment.check_names(environ)
        url = environment.redis_url(environ)
        engine = environ.get(environment.ENGINE) or AUTO
        if engine != AUTO and not is_engine_name(engine):
            hint = did_you_mean(engine, (AUTO, *ENGINES))
            raise SettingsError(f"{environment.ENGINE} is {engine!r}; there is no such engine{hint}")
        return cls(
            redis_url=url or environment.DEFAULT_REDIS_URL,
            redis_named=url is not None,
            engine=engine,
            voice=environ.get(environment.VOICE) or None,
            pronunciations=Path(said).expanduser() if (said := environ.get(environment.PRONUNCIATIONS)) else None,
            cache_dir=Path(environ.get(environment.CACHE_DIR) or DEFAULT_CACHE_DIR),
            shell=environ.get("SHELL", ""),
            store=environ.get(environment.STORE) or environment.DEFAULT_STORE,
        )


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program that we start: our own, with changes."""
    return os.environ | changes


def forbid_telemetry(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the telemetry of libraries. Call it before one of them is imported."""
    environ.update(environment.TELEMETRY_OFF)
