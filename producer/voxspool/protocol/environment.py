"""Define the environment variables of both packages in one table, and check for mistyped names.

Each package's Settings reads its own variables. With this table each package refuses a `VOXSPOOL_` variable that no
package reads.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from voxspool.errors import SettingsError
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "VOXSPOOL_"

REDIS_URL = "VOXSPOOL_REDIS_URL"
NAMESPACE = "VOXSPOOL_NAMESPACE"
ENGINE = "VOXSPOOL_ENGINE"
VOICE = "VOXSPOOL_VOICE"
MAX_WAITING = "VOXSPOOL_MAX_WAITING"
WORKER_ENGINE = "VOXSPOOL_WORKER_ENGINE"
WORKER_JOBS = "VOXSPOOL_WORKER_JOBS"
PIPER_VOICES = "VOXSPOOL_PIPER_VOICES"
PIPER_CATALOGUE = "VOXSPOOL_PIPER_CATALOGUE"
XTTS_DIR = "VOXSPOOL_XTTS_DIR"
DEVICE = "VOXSPOOL_DEVICE"
PRECISION = "VOXSPOOL_PRECISION"
CACHE_DIR = "VOXSPOOL_CACHE_DIR"
HEALTH_DIR = "VOXSPOOL_HEALTH_DIR"
WORKER_MEMORY_MB = "VOXSPOOL_WORKER_MEMORY_MB"
WORKER_UNSERVED_S = "VOXSPOOL_WORKER_UNSERVED_S"
STORE = "VOXSPOOL_STORE"
PRONUNCIATIONS = "VOXSPOOL_PRONUNCIATIONS"

VARIABLES: dict[str, str] = {
    REDIS_URL: "the URL of Redis: redis://, rediss://, unix:// or redis+sentinel:// (default: REDIS_URL, then redis://localhost:6379/0)",
    NAMESPACE: "the name space of the deployment, if several share one Redis: letters, digits, _ and - (default none)",
    ENGINE: "the engine of jobs that do not name one: auto, piper, tone, xtts or another (default auto)",
    VOICE: "the voice of jobs that do not name one (default: the engine's own)",
    MAX_WAITING: "the largest number of jobs that may wait in a queue (default 10,000)",
    WORKER_ENGINE: "the engine that `voxspool-worker run` loads: piper, tone, xtts or an installed one (default piper)",
    WORKER_JOBS: "the number of jobs that one worker process speaks at the same time (default 8)",
    PIPER_VOICES: "a folder of Piper voices: NAME.onnx beside NAME.onnx.json "
    "(default: where `voxspool-worker voices get` stores them)",
    PIPER_CATALOGUE: "the address of a catalogue of Piper voices, voices.json, with the voices beside it "
    "(default: piper-tts's own)",
    XTTS_DIR: "a folder with an XTTS checkpoint: config.json, model.pth, vocab.json, speakers_xtts.pth",
    DEVICE: "the device that XTTS computes on: auto, mps, cuda or cpu (default auto)",
    PRECISION: "XTTS's precision: auto, fp32, bf16 or int8 (default auto: int8 on a CPU, bf16 on CUDA, fp32 on MPS)",
    CACHE_DIR: "a folder for computed data: the conditioning of voices, kernels (default ~/.cache/voxspool)",
    HEALTH_DIR: "the folder of the health files that `voxspool-worker health` reads (default: a temporary one)",
    PRONUNCIATIONS: "a file of `word => spoken` lines for every book that `voxspool narrate` narrates (default: none)",
    STORE: "the store for spoken segments of books: a folder or a URL (s3://…), the same for workers and narrators "
    "(default ~/.cache/voxspool/segments)",
    WORKER_UNSERVED_S: "how long a job may wait while no live worker can speak it, in seconds (default 86400: a day)",
    WORKER_MEMORY_MB: "the memory in MiB at which a worker exits, to be restarted (default: twice its memory at start)",
}
"""Every variable that voxspool reads, with its meaning."""

TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""The variables that switch off the telemetry of libraries. They are set in voxspool's own processes only.

On Linux and macOS, ONNX Runtime 1.32 and later creates a device id and stores events in the user's cache folder as soon
as it is imported. Hugging Face's library adds facts about the program and the machine to its download requests.
"""

DEFAULT_REDIS_URL = "redis://localhost:6379/0"
DEFAULT_STORE = "~/.cache/voxspool/segments"
DEFAULT_MAX_WAITING = 10_000
"""Hours of work, and at most some 100 MB of text."""


def redis_url(environ: Mapping[str, str]) -> str | None:
    """Return the value of `VOXSPOOL_REDIS_URL`, else of `REDIS_URL`, else None. Empty values count as not set."""
    return environ.get(REDIS_URL) or environ.get("REDIS_URL") or None


def namespace(environ: Mapping[str, str]) -> str:
    """Return the value of VOXSPOOL_NAMESPACE; empty if it is not set. Raises SettingsError."""
    return check_namespace(environ.get(NAMESPACE, ""))


def positive(environ: Mapping[str, str], name: str) -> int | None:
    """Return the whole number in a variable, 1 or more; None if it is not set. Raises SettingsError."""
    value = environ.get(name)
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise SettingsError(f"{name} is {value!r}; it must be a whole number, 1 or more")
    return int(value)


def check_namespace(name: str) -> str:
    """Return a name space. Raises SettingsError for a name that cannot be one."""
    if name and (not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) or name in ("rq", "voxspool")):
        raise SettingsError(
            f"{NAMESPACE} is {name!r}; it must be 1 to 40 letters, digits, _ and -, and neither rq nor voxspool"
        )
    return name


def check_names(environ: Mapping[str, str]) -> None:
    """Raise SettingsError for an unknown `VOXSPOOL_` variable, with the nearest known name in the message.

    Also raise it if RQ_KEY_PREFIX is neither `rq` nor that of the name space: the Lua scripts name keys of RQ.
    """
    prefix, name = environ.get("RQ_KEY_PREFIX", "rq"), namespace(environ)
    if prefix not in ("rq", f"{name}:rq" if name else "rq"):
        raise SettingsError(
            f"RQ_KEY_PREFIX is {prefix!r}, but voxspool works with the prefix rq alone; unset it, or name a "
            f"{NAMESPACE} for several deployments on one Redis"
        )
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in VARIABLES:
            hint = did_you_mean(name, VARIABLES)
            raise SettingsError(f"unknown environment variable {name}{hint}; unset it or correct its name")
