"""Create the card of a live worker: what it offers and how fast it is, for producers and for `voxspool status`.

The fields are part of the wire protocol (docs/protocol.md); `voxspool.workers` reads them.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from voxspool_worker.monitoring.process_identity import own_process
from voxspool_worker.voices.catalog import VoiceBook, built_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voxspool_worker.engines.base import Engine
    from voxspool_worker.monitoring.metrics import Gauges, Metrics


def card_fields(
    engine: Engine, metrics: Metrics, gauges: Gauges, *, queues: Sequence[str], fallback_from: str, store: str,
    warmup_rate: float | None, completed: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields of a card.

    `queues` are the queues from which the worker takes jobs now; empty while it stops. `warmup_rate` is the speech rate
    of the warm-up, in seconds of audio per second of work; the card shows it until the engine has spoken a job.
    """
    counts, recent = metrics.counts(), metrics.recent()
    return {
        "engine": gauges.engine,
        "model": gauges.model,
        "device": gauges.device,
        "sample_rate": engine.sample_rate,
        "voices": json.dumps({name: voice.languages for name, voice in built_in(engine.voices).items()}),
        "clones": int(isinstance(engine.voices, VoiceBook)),
        "queues": ",".join(queues),
        "jobs": gauges.jobs,
        "running": gauges.running,
        "rows": gauges.rows,
        "rows_in_use": gauges.rows_in_use,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process": own_process(),
        "completed": int(completed),
        "fallback_from": fallback_from,
        "jobs_ended": counts.jobs["ended", ""],
        "jobs_failed": counts.failed,
        "spoken_again": counts.spoken_again,
        "voice_hit_rate": shown(counts.voice_hit_rate),
        "first_chunk_s": shown(recent.first_chunk_s),
        "real_time_factor": shown(recent.real_time_factor),
        "jobs_per_minute": shown(recent.jobs_per_minute),
        "speech_rate": shown(gauges.work.speech_rate(engine.sample_rate) or warmup_rate),
        "store": store,
    }


def shown(value: float | None) -> str:
    """Return a measurement with four significant digits; an empty text for None."""
    return "" if value is None else f"{value:.4g}"
