"""The environment variables of both packages in one table, and the check for mistyped names.

Each package's Settings reads its own variables. With this table each can warn of a `VOXSPOOL_` variable that nobody
reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxspool.errors import SettingsError
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "VOXSPOOL_"

REDIS_URL = "VOXSPOOL_REDIS_URL"
ENGINE = "VOXSPOOL_ENGINE"
VOICE = "VOXSPOOL_VOICE"
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
STORE = "VOXSPOOL_STORE"
PRONUNCIATIONS = "VOXSPOOL_PRONUNCIATIONS"

VARIABLES: dict[str, str] = {
    REDIS_URL: "where Redis is: redis://, rediss:// or unix://; then REDIS_URL, then redis://localhost:6379/0",
    ENGINE: "the engine that a producer asks for when it names none: auto, piper, tone, xtts or another (default auto)",
    VOICE: "the voice that a producer asks for when it names none (default: the engine's own)",
    WORKER_ENGINE: "the engine that `voxspool-worker run` loads: piper, tone, xtts or an installed one (default piper)",
    WORKER_JOBS: "how many jobs one worker process speaks at once (default 8)",
    PIPER_VOICES: "a folder of Piper voices: NAME.onnx beside NAME.onnx.json "
    "(default: where `voxspool-worker voices get` stores them)",
    PIPER_CATALOGUE: "the address of a catalogue of Piper voices, voices.json, with the voices beside it "
    "(default: piper-tts's own)",
    XTTS_DIR: "a folder with an XTTS checkpoint: config.json, model.pth, vocab.json, speakers_xtts.pth",
    DEVICE: "where XTTS computes: auto, mps, cuda or cpu (default auto)",
    PRECISION: "how XTTS computes: auto, fp32, bf16 or int8 (default auto: int8 on a CPU, bf16 on CUDA, fp32 on MPS)",
    CACHE_DIR: "a folder for what is computed once: voices' conditioning, kernels (default ~/.cache/voxspool)",
    HEALTH_DIR: "the folder of the health files that `voxspool-worker health` reads (default: a temporary one)",
    PRONUNCIATIONS: "a file of `word => spoken` lines for every book that `voxspool narrate` narrates (default: none)",
    STORE: "where spoken segments of books are kept: a folder or a URL (s3://…), the same for workers and narrators "
    "(default ~/.cache/voxspool/segments)",
    WORKER_MEMORY_MB: "the size in MiB at which a worker ends, to be started again (default: twice its first)",
}
"""Every variable that voxspool reads, with what it means."""

TELEMETRY_OFF = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""What libraries look at before they report home, set in our own processes alone.

ONNX Runtime, from 1.32 on and on Linux and macOS, makes up a device id and queues events under the user's cache folder
when it is imported. Hugging Face's library adds what runs it and where to the requests of a download.
"""

DEFAULT_REDIS_URL = "redis://localhost:6379/0"
DEFAULT_STORE = "~/.cache/voxspool/segments"


def redis_url(environ: Mapping[str, str]) -> str | None:
    """Return the URL that the environment names, `VOXSPOOL_REDIS_URL` before `REDIS_URL`, or None."""
    return environ.get(REDIS_URL) or environ.get("REDIS_URL") or None


def check_names(environ: Mapping[str, str]) -> None:
    """Refuse a `VOXSPOOL_` variable that nobody reads, and RQ under another prefix than the scripts'.

    Raises SettingsError, with the near name.
    """
    prefix = environ.get("RQ_KEY_PREFIX", "rq")
    if prefix != "rq":
        raise SettingsError(f"RQ_KEY_PREFIX is {prefix!r}; voxspool's jobs lie under rq:, unset it")
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in VARIABLES:
            hint = did_you_mean(name, VARIABLES)
            raise SettingsError(f"unknown environment variable {name}{hint}; unset it or correct its name")
