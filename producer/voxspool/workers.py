"""The cards of live workers, for both packages: what each offers, and whether it could speak a job.

A worker renews its card with every heartbeat; the card of a worker that died expires. This module reads cards;
`routing` decides for a producer what follows from them, `queue.recovery` for a worker.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from voxspool.connections.namespaces import plain
from voxspool.protocol import keys
from voxspool.protocol.jobs import AUTO, ENGINES, engine_of, is_engine_name
from voxspool.protocol.languages import meant
from voxspool.protocol.numbers import parse_count
from voxspool.protocol.voices import CLONING_ENGINE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from redis import Redis

    from voxspool.protocol.jobs import JobSpec

LAST: Final = "tone"
"""The engine that routing chooses last: its sine wave is for tests."""
RQ_QUEUES: Final = "rq:queues"
"""RQ's set of the keys of all queues that ever had a job."""
WRONG_TYPE: Final = "WRONGTYPE"
"""How an error of Redis begins if a key has another type than its name says: another program wrote it."""
MAX_CARD_BYTES: Final = 2**20
"""Limit for a card: a thousand voices take 40 KB."""
MAX_COUNT: Final = 10**15
LEAST_MEASURED: Final = 1e-9
MOST_MEASURED: Final = 1e9
"""What times, rates and shares of a card may be, if they are not 0."""
_QUEUE_PREFIX: Final = "rq:queue:"
_MIX: Final = re.compile(r"\+|\(\s*[\d.]+\s*\)\s*$")


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What a live worker states about itself, and what it has done since it started."""

    name: str
    engine: str
    model: str
    device: str
    sample_rate: int
    voices: dict[str, list[str]]
    """Voice -> its languages, the default first; empty: any language. Without the cloned voices."""
    queues: list[str]
    """The queues that it takes jobs from; empty: it stops when its running jobs have ended."""
    jobs: int
    """The most jobs that it speaks at once."""
    running: int
    """The jobs that it speaks now."""
    rows: int
    """The segments that its engine can speak at once."""
    rows_in_use: int
    host: str
    pid: int
    """Its process id on that host."""
    fallback_from: str = ""
    """`xtts: REASON` if the worker could not load the engine that it was started for, and uses another."""
    clones: bool = False
    """True if the worker speaks cloned voices and mixes of voices."""
    jobs_ended: int = 0
    """The jobs that ended since it started. The next two count from the same time."""
    jobs_failed: int = 0
    spoken_again: int = 0
    """Segments that took more than one try."""
    voice_hit_rate: float | None = None
    """The share of prepared voices that came from a cache, 0 to 1, since it started; None: none was needed."""
    first_chunk_s: float | None = None
    """The median time from the start of a run to its first audio, in seconds, of the last 50 jobs that ended."""
    real_time_factor: float | None = None
    """Processing time divided by audio time: the mean of the same jobs."""
    jobs_per_minute: float | None = None
    """The rate at which the same jobs ended."""
    speech_rate: float | None = None
    """Seconds of audio per second of its engine's work, all rows together, since the worker started."""
    store: str = ""
    """The id of its segment store; empty: it has none, or has not opened it yet, and narrates no book."""

    def has(self, voice: str | None) -> bool:
        """Return whether it has a voice; None is the engine's own. Any mix counts as a voice of XTTS."""
        return voice is None or voice in self.voices or (self.engine == CLONING_ENGINE and is_mix(voice))

    def could_speak(self, spec: JobSpec) -> bool:
        """Return whether it takes jobs, and has the engine, voice and language that a job names."""
        if not self.queues or spec.engine not in (AUTO, self.engine) or not self.has(spec.voice):
            return False
        if spec.language is None:
            return True
        voices = [self.voices[spec.voice]] if spec.voice in self.voices else self.voices.values()
        return any(meant(spec.language, languages) for languages in voices)


def is_mix(voice: str) -> bool:
    """Return whether a voice's name is a mix, such as `a(2)+b(1)`."""
    return bool(_MIX.search(voice))


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards of the live workers, and what could not be read."""

    live: list[WorkerCard]
    """By name."""
    spoilt: list[str]
    """Keys that are no card of a worker, or no set of workers, each as a sentence."""


def live(redis: Redis) -> list[WorkerCard]:
    """Return the live workers' cards, by name."""
    return look(redis).live


def look(redis: Redis) -> Cards:
    """Return the live workers' cards, and name those that cannot be read."""
    try:
        members: Any = redis.smembers(keys.WORKERS)
    except ResponseError as error:
        if not str(error).startswith(WRONG_TYPE):
            raise
        return Cards([], [f"{keys.WORKERS} is not a set"])
    names = names_of(members)
    return read_cards(names, ask_cards(names, redis))


def names_of(members: Collection[bytes]) -> list[str]:
    """Return the names in a reply of SMEMBERS on keys.WORKERS, sorted."""
    return sorted(name.decode(errors="surrogateescape") for name in members)


def ask_cards(names: Sequence[str], redis: Any) -> Any:  # noqa: ANN401 - a plain or an asyncio client, untyped replies
    """Ask for the workers' cards; errors of Redis are among the replies. With an asyncio client this is awaitable."""
    pipeline = redis.pipeline(transaction=False)
    for name in names:
        pipeline.hgetall(keys.worker(name).encode(errors="surrogateescape"))
    return pipeline.execute(raise_on_error=False)


def cards(names: Sequence[str], replies: Sequence[Any]) -> list[WorkerCard]:
    """Return the cards in the replies to `ask_cards`, without those that are gone or that no worker wrote."""
    return read_cards(names, replies).live


def read_cards(names: Sequence[str], replies: Sequence[Any]) -> Cards:
    """Return the cards in the replies to `ask_cards`. One broken card must not hide the others."""
    found, spoilt = [], []
    for name, reply in zip(names, replies, strict=True):
        if isinstance(reply, Exception) and not str(reply).startswith(WRONG_TYPE):
            raise reply
        try:
            if reply:
                found.append(_read(name, reply))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            shown = name.encode(errors="surrogateescape").decode(errors="replace")
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            spoilt.append(f"{keys.worker(shown):.100} is not the card of a worker ({why:.100})")
    return Cards(found, spoilt)


def engines(redis: Redis) -> list[str]:
    """Return the engines that jobs may wait for: those of voxspool, then others that a job was ever enqueued for."""
    members: set[Any] = redis.smembers(RQ_QUEUES)
    names = (plain(key.decode(errors="replace")).removeprefix(_QUEUE_PREFIX) for key in members)
    named = {engine_of(name) for name in names}
    return [*ENGINES, *sorted(name for name in named if name and name not in (AUTO, *ENGINES))]


def _read(name: str, fields: Any) -> WorkerCard:  # noqa: ANN401 - any program may have written it
    """Return a card. Raises KeyError, ValueError, TypeError or RecursionError if it cannot be read."""
    if isinstance(fields, Exception):
        raise TypeError("it is not a hash")
    if (size := sum(len(field) + len(value) for field, value in fields.items())) > MAX_CARD_BYTES:
        raise ValueError(f"it has {size:,} bytes, and the limit is {MAX_CARD_BYTES:,}")
    card = {field.decode(): value.decode() for field, value in fields.items()}
    if not is_engine_name(card["engine"]):
        raise ValueError("engine is not a name of an engine")
    return WorkerCard(
        name=name,
        engine=card["engine"],
        model=card["model"],
        device=card["device"],
        sample_rate=_count(card, "sample_rate"),
        voices=_voices(card["voices"]),
        queues=[queue for queue in card["queues"].split(",") if queue],
        jobs=_count(card, "jobs"),
        running=_count(card, "running"),
        rows=_count(card, "rows"),
        rows_in_use=_count(card, "rows_in_use"),
        host=card["host"],
        pid=_count(card, "pid"),
        fallback_from=card.get("fallback_from", ""),
        clones=card.get("clones") == "1",
        jobs_ended=_count(card, "jobs_ended", "0"),
        jobs_failed=_count(card, "jobs_failed", "0"),
        spoken_again=_count(card, "spoken_again", "0"),
        voice_hit_rate=_measured(card, "voice_hit_rate"),
        first_chunk_s=_measured(card, "first_chunk_s"),
        real_time_factor=_measured(card, "real_time_factor"),
        jobs_per_minute=_measured(card, "jobs_per_minute"),
        speech_rate=_measured(card, "speech_rate"),
        store=card.get("store", ""),
    )


def _voices(text: str) -> dict[str, list[str]]:
    """Return the voices of a card. Raises ValueError or RecursionError."""
    found = json.loads(text)
    lists = found.values() if isinstance(found, dict) else [None]
    if not all(isinstance(one, list) and all(isinstance(language, str) for language in one) for one in lists):
        raise ValueError("voices is not a JSON object of lists of languages")
    return dict(found)


def _count(card: dict[str, str], name: str, default: str | None = None) -> int:
    """Return a whole number of a card. Raises KeyError if it is missing, ValueError."""
    text = card[name] if default is None else card.get(name, default)
    count = parse_count(text)
    if count > MAX_COUNT:
        raise ValueError(f"{name} is larger than {MAX_COUNT}")
    return count


def _measured(card: dict[str, str], name: str) -> float | None:
    """Return a measurement of a card; None if there is none yet, or the worker is too old to have it."""
    text = card.get(name)
    if not text:
        return None
    value = float(text)
    if value and not LEAST_MEASURED <= value <= MOST_MEASURED:  # also NaN
        raise ValueError(f"{name} is {text:.20}")
    return value
