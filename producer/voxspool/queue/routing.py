"""Which engine's queue a job goes into: a table, evaluated from top to bottom. docs/routing.md shows it to people.

Pure functions of a job, the cards of the live workers and the names of the cloned voices. The job itself keeps the
engine `auto`, so enqueueing the same id again is the same job, even if routing would now choose another engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.protocol.jobs import AUTO
from voxspool.protocol.voices import CLONING_ENGINE
from voxspool.workers import LAST, is_mix

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from voxspool.protocol.jobs import JobSpec
    from voxspool.workers import WorkerCard

SHORT_CHARS: Final = 200
"""The longest text that counts as short: two or three sentences, about 13 s of speech, which Piper speaks in 0.3 s on
two cores. For a short notice a fast start matters more than a better voice. While a listener hears a longer text, XTTS
stays ahead."""
QUICK: Final = "piper"
FINE: Final = "xtts"


@dataclass(frozen=True, slots=True)
class Route:
    """The queue of a job, and the reason for it."""

    engine: str
    """An engine; or `auto`, the queue from which the first free worker of any engine takes jobs."""
    why: str
    """The rule that chose it, as text for people."""


@dataclass(frozen=True, slots=True)
class _Case:
    """The facts that the rules check."""

    job: JobSpec
    xtts_alone: bool
    """True if only XTTS can have the voice: it is cloned, or a mix."""
    live: set[str]
    """The engines of the workers that take jobs."""
    able: set[str]
    """Those of them that can speak the job."""

    @property
    def short(self) -> bool:
        """True if the text is so short that speed matters more than the quality of the voice."""
        return self.job.priority == "interactive" and len(self.job.text) <= SHORT_CHARS

    def first_able(self, *preferred: str) -> str:
        """Return the first of the preferred engines that can speak the job, else the first other one by name."""
        return next((engine for engine in preferred if engine in self.able), min(self.able))


class Rule(NamedTuple):
    """A line of the table."""

    when: str
    holds: Callable[[_Case], bool]
    engine: Callable[[_Case], str]


TABLE: Final = (
    Rule("it names an engine", lambda case: case.job.engine != AUTO, lambda case: case.job.engine),
    Rule("its voice is cloned or a mix", lambda case: case.xtts_alone, lambda _: CLONING_ENGINE),
    Rule("no worker is live", lambda case: not case.live, lambda _: AUTO),
    Rule("all live workers have the same engine", lambda case: len(case.live) == 1, lambda _: AUTO),
    Rule("no live worker has its voice", lambda case: not case.able, lambda _: AUTO),
    Rule("only one live engine can speak it", lambda case: len(case.able) == 1, lambda case: min(case.able)),
    Rule(
        f"it is interactive and has at most {SHORT_CHARS} characters",
        lambda case: case.short,
        lambda case: case.first_able(QUICK, FINE),
    ),
    Rule("it is anything else", lambda _: True, lambda case: case.first_able(FINE, QUICK)),
)
"""The first rule that holds chooses the engine."""


def route(job: JobSpec, cards: Iterable[WorkerCard], cloned: Collection[str] = ()) -> Route:
    """Return the engine whose queue a job goes into, and why. The order of the cards does not matter."""
    taking = [card for card in cards if card.queues]
    case = _Case(job, _xtts_alone(job.voice, taking, cloned), {card.engine for card in taking}, _able(job, taking))
    rule = next(rule for rule in TABLE if rule.holds(case))
    return Route(rule.engine(case), rule.when)


def _xtts_alone(voice: str | None, taking: list[WorkerCard], cloned: Collection[str]) -> bool:
    """Return whether only XTTS can have a voice: a cloned one, or a mix, unless a worker lists its name."""
    if voice is None or any(voice in card.voices for card in taking):
        return False
    return voice in cloned or is_mix(voice)


def _able(job: JobSpec, taking: list[WorkerCard]) -> set[str]:
    """Return the engines that can speak a job. If none speaks its language, return those that have its voice.

    The worker of such an engine then lists the languages of the voice in the job's stream.
    """
    having = [card for card in taking if card.has(job.voice)]
    able = {card.engine for card in having if card.could_speak(job)} or {card.engine for card in having}
    return able - {LAST} or able
