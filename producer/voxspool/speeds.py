"""How fast engines are on this machine: `voxspool-worker check --bench` measures it, `narrate --plan` reads it.

One small JSON file in the cache folder. It may be deleted; an unreadable file counts as not measured.
"""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.atomic_file import write_whole

if TYPE_CHECKING:
    from pathlib import Path

_FILE: Final = "speeds.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """The speed of an engine."""

    speech_rate: float
    """Seconds of audio that it makes in a second, all rows in use."""
    day: str
    """When it was measured, as 2026-01-31."""


def remember(cache_dir: Path, engine: str, speech_rate: float) -> None:
    """Store the speed of an engine. A folder that cannot be written is left alone: it is a cache."""
    folder = cache_dir.expanduser()
    known = _read(folder) | {engine: {"speech_rate": speech_rate, "day": time.strftime("%Y-%m-%d")}}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FILE, json.dumps(known).encode(), sync=False)


def recall(cache_dir: Path, engine: str) -> Measured | None:
    """Return the speed of an engine, or None where it was not measured."""
    try:
        found = _read(cache_dir.expanduser())[engine]
        measured = Measured(float(found["speech_rate"]), str(found["day"]))
    except (KeyError, TypeError, ValueError):
        return None
    return measured if 0 < measured.speech_rate < math.inf else None


def _read(folder: Path) -> dict[str, Any]:
    """Read all that was measured."""
    try:
        found = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
