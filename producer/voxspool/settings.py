"""The producer's settings, from environment variables. No other module of this package reads the environment."""

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
"""The same as the worker's default."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a producer or a consumer. The variables are described in docs/settings.md."""

    redis_url: str = field(default=environment.DEFAULT_REDIS_URL, repr=False)
    """The URL of Redis. It may hold a password, so it is never shown."""
    redis_named: bool = False
    """True if the user named the URL; otherwise `speak` may start a private Redis."""
    engine: str = AUTO
    """The engine of a speech that names none."""
    voice: str | None = None
    """The voice of a speech that names none; None: the engine's own."""
    max_waiting: int = environment.DEFAULT_MAX_WAITING
    """The largest number of jobs that may wait in a queue. A program that would enqueue more gets BusyError."""
    store: str = environment.DEFAULT_STORE
    """The segment store of narrations: a folder or a URL."""
    pronunciations: Path | None = None
    """A file of pronunciations for all narrations."""
    cache_dir: Path = DEFAULT_CACHE_DIR
    """The folder with the measured speed of this machine. It may begin with ~."""
    shell: str = ""
    """The user's shell, from the variable SHELL: `demo` prints how to activate the environment in it."""
    namespace: str = ""
    """The name space of the deployment, if several share one Redis; empty: none."""

    def __post_init__(self) -> None:
        environment.check_namespace(self.namespace)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of an environment. Raises SettingsError for a wrong value or unknown VOXSPOOL_ name."""
        environment.check_names(environ)
        url = environment.redis_url(environ)
        engine = environ.get(environment.ENGINE) or AUTO
        if engine != AUTO and not is_engine_name(engine):
            hint = did_you_mean(engine, (AUTO, *ENGINES))
            raise SettingsError(f"{environment.ENGINE} is {engine!r}; there is no such engine{hint}")
        return cls(
            redis_url=url or environment.DEFAULT_REDIS_URL,
            redis_named=url is not None,
            namespace=environment.namespace(environ),
            engine=engine,
            voice=environ.get(environment.VOICE) or None,
            max_waiting=environment.positive(environ, environment.MAX_WAITING) or environment.DEFAULT_MAX_WAITING,
            pronunciations=Path(said).expanduser() if (said := environ.get(environment.PRONUNCIATIONS)) else None,
            cache_dir=Path(environ.get(environment.CACHE_DIR) or DEFAULT_CACHE_DIR),
            shell=environ.get("SHELL", ""),
            store=environ.get(environment.STORE) or environment.DEFAULT_STORE,
        )


def child_environment(changes: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of this process with changes, for a program that it starts."""
    return os.environ | changes


def forbid_telemetry(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the telemetry of libraries. Call it before one of them is imported."""
    environ.update(environment.TELEMETRY_OFF)
