"""The speed of the engines on this machine: `voxspool-worker check --bench` measures it, `narrate --plan` reads it.

The speeds are stored in one JSON file in the cache folder. An absent or unreadable file counts as not measured.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.files.atomic_file import write_whole
from voxspool.files.private_files import make_private

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = "speeds.json"


@dataclass(frozen=True, slots=True)
class StoredSpeed:
    """The measured speed of an engine on this machine."""

    speech_rate: float
    """Seconds of audio per second of the engine's work, with all rows in use."""
    day: str
    """The date of the measurement, such as 2026-01-31."""


def remember(cache_dir: Path, engine: str, speech_rate: float) -> None:
    """Store the speed of an engine. If the folder cannot be written, nothing is stored: it is a cache."""
    folder = cache_dir.expanduser()
    known = _read(folder) | {engine: {"speech_rate": speech_rate, "day": time.strftime("%Y-%m-%d")}}
    with suppress(OSError):
        make_private(folder)
        write_whole(folder / _FILE, json.dumps(known).encode(), sync=False)


def recall(cache_dir: Path, engine: str) -> StoredSpeed | None:
    """Return the speed of an engine, or None if it was not measured."""
    try:
        found = _read(cache_dir.expanduser())[engine]
        measured = StoredSpeed(float(found["speech_rate"]), str(found["day"]))
    except (KeyError, TypeError, ValueError):
        return None
    return measured if 0 < measured.speech_rate < math.inf else None


def _read(folder: Path) -> dict[str, Any]:
    """Return all measurements: engine -> its fields. Empty if there are none."""
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
