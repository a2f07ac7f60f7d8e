"""The worker's settings. Only this module reads the environment; the options of a command override it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from voxspool.errors import SettingsError
from voxspool.protocol import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

DEFAULT_JOBS = 32
"""Number of jobs that run at once. A job that waits costs a thread; one that is not taken cannot say its first word."""
DEFAULT_GRACE_S: Final = 6.0
"""Time for which jobs may run after SIGTERM, in seconds. Handing the others back takes up to 3 s more
(`queue.worker.HAND_BACK_S`, `ENGINE_STOP_S`), and Docker sends SIGKILL after 10 s."""
DEFAULT_UNSERVED_S: Final = 24 * 3600
"""How long a job may wait while no live worker can speak it, in seconds: whoever asked for it has gone after a day."""
DEVICES: Final = ("auto", "mps", "cuda", "cpu")
PRECISIONS: Final = ("auto", "fp32", "bf16", "int8")
DEFAULT_CACHE_DIR: Final = Path("~/.cache/voxspool")
"""Like the folders below, expanded where it is used: an import must not read the system."""
DEFAULT_COQUI_DIR: Final = Path(
    "~/Library/Application Support/tts" if sys.platform == "darwin" else "~/.local/share/tts"
)
DEFAULT_HUB_DIR: Final = Path("~/.cache/huggingface/hub")
DEFAULT_DATA_DIR: Final = Path("~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share")
VOICES_DIR: Final = Path("voxspool", "piper-voices")
"""Folder of a user's own Piper voices, relative to the user's data folder."""


SPIN_COUNT: Final = "2000"
"""Number of loop turns that an OpenMP thread waits before it sleeps; the default of OpenMP is about 300,000.

On an idle machine both values are equally fast. If another process needs a core, a sentence took five times as long
with the default, and twice as long with this value (measured). The threads of cpu_decoder.c wait for a similar time.
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a worker."""

    redis_url: str = field(default=environment.DEFAULT_REDIS_URL, repr=False)
    """Never shown: it may contain a password."""
    engine: str = "piper"
    jobs: int = DEFAULT_JOBS
    piper_voices: Path | None = None
    xtts_dir: Path | None = None
    device: str = "auto"
    precision: str = "auto"
    cache_dir: Path = DEFAULT_CACHE_DIR
    store: str = environment.DEFAULT_STORE
    """The segment store of books: a folder or a URL."""
    health_dir: Path | None = None
    """The folder of the health files; None: this user's folder in the system's folder for temporary files."""
    memory_mb: int | None = None
    """Memory in MiB above which the worker exits to be started again; None: see `watchdog.MemoryLimit`."""
    unserved_s: int = DEFAULT_UNSERVED_S
    """How long a job may wait while no live worker can speak it, in seconds; then it is cancelled."""
    tos_agreed: bool = False
    """True if the user agreed to Coqui's licence for XTTS's weights: COQUI_TOS_AGREED=1, Coqui's own variable."""
    coqui_dir: Path = DEFAULT_COQUI_DIR
    """The folder of Coqui's models."""
    hub_dir: Path = DEFAULT_HUB_DIR
    """Hugging Face's download cache, where newer versions of Coqui store XTTS."""
    voices_dir: Path = DEFAULT_DATA_DIR / VOICES_DIR
    """This user's own folder of Piper voices, used if `piper_voices` is None."""
    piper_catalogue: str | None = None
    """The address of a catalogue of Piper voices; None: piper-tts's own."""
    namespace: str = ""
    """The name space of the deployment, if several share one Redis; empty: none."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings of the environment.

        Raises SettingsError, which names the variable, its value and the allowed values.
        """
        environment.check_names(environ)
        return cls(
            redis_url=environment.redis_url(environ) or environment.DEFAULT_REDIS_URL,
            namespace=environment.namespace(environ),
            engine=environ.get(environment.WORKER_ENGINE) or "piper",
            jobs=environment.positive(environ, environment.WORKER_JOBS) or DEFAULT_JOBS,
            piper_voices=_path(environ, environment.PIPER_VOICES),
            xtts_dir=_path(environ, environment.XTTS_DIR),
            device=_one_of(environ, environment.DEVICE, DEVICES),
            precision=_one_of(environ, environment.PRECISION, PRECISIONS),
            cache_dir=_path(environ, environment.CACHE_DIR) or DEFAULT_CACHE_DIR,
            store=environ.get(environment.STORE) or environment.DEFAULT_STORE,
            health_dir=_path(environ, environment.HEALTH_DIR),
            memory_mb=environment.positive(environ, environment.WORKER_MEMORY_MB),
            unserved_s=environment.positive(environ, environment.WORKER_UNSERVED_S) or DEFAULT_UNSERVED_S,
            coqui_dir=_coqui_dir(environ),
            hub_dir=_hub_dir(environ),
            voices_dir=Path(environ.get("XDG_DATA_HOME") or DEFAULT_DATA_DIR) / VOICES_DIR,
            piper_catalogue=_web_address(environ, environment.PIPER_CATALOGUE),
            tos_agreed=environ.get("COQUI_TOS_AGREED") == "1",
        )


def let_threads_sleep(environ: MutableMapping[str, str] = os.environ) -> None:
    """Set GOMP_SPINCOUNT so that PyTorch's threads (GNU OpenMP) sleep sooner, unless it is set already.

    Call it before torch is imported.
    """
    environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def forbid_telemetry(environ: MutableMapping[str, str] = os.environ) -> None:
    """Switch off the telemetry of libraries. Call it before one of them is imported."""
    environ.update(environment.TELEMETRY_OFF)


def _coqui_dir(environ: Mapping[str, str]) -> Path:
    """Return Coqui's folder, by the rule of Coqui's library (trainer.io.get_user_data_dir)."""
    home = environ.get("TTS_HOME") or environ.get("XDG_DATA_HOME")
    return Path(home) / "tts" if home else DEFAULT_COQUI_DIR


def _hub_dir(environ: Mapping[str, str]) -> Path:
    """Return Hugging Face's folder, by the rule of its library (huggingface_hub.constants)."""
    said = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if said:
        return Path(said)
    if home := environ.get("HF_HOME"):
        return Path(home) / "hub"
    cache = environ.get("XDG_CACHE_HOME")
    return Path(cache) / "huggingface" / "hub" if cache else DEFAULT_HUB_DIR


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the path in a variable, or None if it is not set."""
    value = environ.get(name)
    return Path(value).expanduser() if value else None


def _web_address(environ: Mapping[str, str], name: str) -> str | None:
    """Return the web address in a variable, or None if it is not set."""
    value = environ.get(name)
    if not value:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:
        shown = "it has a password" if "@" in value else f"it is {value!r:.200}"
        raise SettingsError(f"{name} is not an address like https://example.org/voices.json: {shown}")
    return value


def _one_of(environ: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    """Return the value of a variable, which must be one of `allowed`; the first is the default."""
    value = environ.get(name) or allowed[0]
    if value not in allowed:
        raise SettingsError(f"{name} is {value!r}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}")
    return value
