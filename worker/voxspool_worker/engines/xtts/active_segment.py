"""The state of one segment in XTTS: what it has produced, what of that was heard, how often it was tried. No maths.

A segment is *live* while its audio is what its job hears next: while no earlier segment of the job is in the engine.
A live segment gives its audio away as it is made; the others hold it back, so that they can be spoken again, unheard,
if the output check finds a fault.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool_worker.engines.base import SpokenSegment
from voxspool_worker.engines.xtts import output_check

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from voxspool_worker.engines.base import SpeechSegment
    from voxspool_worker.engines.xtts.prepared_voices import PreparedVoice
    from voxspool_worker.engines.xtts.vocoder import VocoderStream

TOKEN_S: Final = 1024 / 22050
"""Seconds of speech that an audio token stands for, at speed 1."""
FIRST_TOKENS: Final = 8
"""Tokens in a job's first chunk: with the vocoder's look-ahead, 0.18 s that can be played."""
NEXT_TOKENS: Final = 16
"""Tokens in the first chunk of a later segment: something is being played already."""
GROWTH: Final = 1.5
"""Each chunk has so many times the tokens of the one before: the vocoder's context costs less in a longer one."""
MOST_TOKENS: Final = 40
"""Tokens in a chunk at the most, 1.9 s: a third of a second of vocoding on two cores, in which no other row moves."""


@dataclass(frozen=True, slots=True)
class Try:
    """One way in which a segment was spoken."""

    spoken: SpokenSegment
    rank: tuple[int, float]
    """The smallest is the best."""
    latents: tuple[Tensor, ...]
    samples: npt.NDArray[np.float32] | None
    """(n,); None where it was given up before it was vocoded."""


@dataclass(slots=True)
class ActiveSegment:
    """A segment that was admitted."""

    segment: SpeechSegment
    text: Sequence[int]
    prepared: PreparedVoice
    plausible: output_check.Band
    row: int | None = None
    """Its row in the GPT, while that speaks it."""
    stream: VocoderStream | None = None
    seed: int = 0
    tries: int = 0
    fault: str = ""
    latents: list[Tensor] = field(default_factory=list)
    """All of this try, (width,) each."""
    vocoded: int = 0
    """How many of them went into the vocoder."""
    held: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """Audio that is not given away yet; of a live segment, the last second of what was."""
    heard: bool = False
    """Whether any of it was given away: then it cannot be spoken again."""
    settled: bool = False
    """Whether this try is the one to be heard, whatever it sounds like."""
    chunk_tokens: int = NEXT_TOKENS
    best: Try | None = None

    @property
    def waiting(self) -> int:
        """Latents that were not vocoded."""
        return len(self.latents) - self.vocoded

    @property
    def decoded(self) -> bool:
        """Whether the GPT is done with it."""
        return self.row is None

    @property
    def seconds(self) -> float:
        """How long what was said is, at speed 1."""
        return len(self.latents) * TOKEN_S

    def begin(self, row: int, stream: VocoderStream) -> None:
        """Begin a try in a row of the GPT."""
        self.row, self.stream = row, stream
        self.fault, self.latents, self.vocoded, self.held = "", [], 0, []
        self.chunk_tokens = FIRST_TOKENS if self.segment.index == 0 else NEXT_TOKENS

    def next_seed(self) -> int:
        """Return the seed of the next try: first the segment's own, then others that follow from it."""
        self.tries += 1
        self.seed = self.segment.seed if self.tries == 1 else again_seed(self.segment.seed, self.tries)
        return self.seed

    def is_due(self, *, live: bool) -> bool:
        """Whether some of it should be vocoded now."""
        if self.decoded:
            return True
        return live and self.waiting >= self.chunk_tokens

    def take(self) -> list[Tensor]:
        """Return the latents to vocode next.

        A segment is always cut at the same places, live or not: the vocoder's windows decide its samples' last bits.
        """
        part = self.latents[self.vocoded : self.vocoded + self.chunk_tokens]
        self.vocoded += len(part)
        self.chunk_tokens = min(round(self.chunk_tokens * GROWTH), MOST_TOKENS)
        return part

    def judge_length(self, *, stopped: bool, most: int) -> str:
        """Return what is wrong with the number of tokens, now that the last one has arrived."""
        if not stopped:
            return "cap" if len(self.latents) >= most else "rate"
        return "rate" if not self.plausible.shortest_s <= self.seconds <= self.plausible.longest_s else ""

    def remember(self, samples: npt.NDArray[np.float32] | None) -> None:
        """Keep this try if it is the best so far."""
        rank = output_check.worse(self.fault, self.seconds, self.plausible)
        one = Try(SpokenSegment(self.seed, self.tries, self.fault), rank, tuple(self.latents), samples)
        if self.best is None or one.rank < self.best.rank:
            self.best = one

    def settle(self, one: Try, stream: VocoderStream) -> None:
        """Take a try as the one to be heard."""
        self.settled, self.row, self.stream = True, None, stream
        self.seed, self.fault = one.spoken.seed, one.spoken.fault
        self.latents, self.vocoded, self.held = list(one.latents), 0, []

    def outcome(self) -> SpokenSegment:
        """Return how the segment was spoken."""
        return SpokenSegment(self.seed, self.tries, self.fault)


def again_seed(seed: int, tries: int) -> int:
    """Derive the seed of a later try: 32 bits, the same for ever."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/again/{tries}".encode(), digest_size=4).digest(), "little")


def to_pcm(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Turn samples, -1 to 1, into 16 bits; what is beyond is cut."""
    return np.rint(np.clip(samples, -1.0, 1.0) * np.iinfo(np.int16).max).astype(np.int16)
