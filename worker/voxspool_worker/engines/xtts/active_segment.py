"""The state of one segment in the engine: its tokens and audio so far, its attempts, and what was returned of it.

A segment is *streaming* if its audio is the next that its job needs: if no earlier segment of the job is in the engine.
A streaming segment returns its audio as it is produced. The others hold theirs back until they are complete, so that
they can be generated again, unheard, if the output check finds a fault. This module computes no audio.
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
    from voxspool_worker.text.duration import PlausibleDuration

TOKEN_S: Final = 1024 / 22050
"""Duration of an audio token at speed 1, in seconds."""
FIRST_CHUNK_TOKENS: Final = 8
"""Tokens in the first chunk of a job: after the vocoder's look-ahead, 0.18 s of audio."""
NEXT_CHUNK_TOKENS: Final = 16
"""Tokens in the first chunk of a later segment: the listener still hears the segment before it."""
CHUNK_GROWTH: Final = 1.5
"""Ratio of tokens in one chunk and the next. Longer chunks are cheaper: the vocoder's context is a smaller share."""
MAX_CHUNK_TOKENS: Final = 40
"""Maximum tokens in a chunk, 1.9 s: on two cores, vocoding takes 0.3 s, during which no row generates tokens."""


@dataclass(frozen=True, slots=True)
class GenerationAttempt:
    """One complete generation of a segment."""

    spoken: SpokenSegment
    badness: tuple[int, float]
    """The best attempt has the smallest value."""
    latents: tuple[Tensor, ...]
    samples: npt.NDArray[np.float32] | None
    """(n,); None if the attempt was rejected by its length, before vocoding."""


@dataclass(slots=True)
class ActiveSegment:
    """A segment in the engine, and the state of its current attempt."""

    segment: SpeechSegment
    text: Sequence[int]
    """The tokens of the text."""
    prepared: PreparedVoice
    plausible: PlausibleDuration
    row: int | None = None
    """The segment's row in the GPT; None after the last token."""
    stream: VocoderStream | None = None
    seed: int = 0
    tries: int = 0
    """Number of attempts, including the current one."""
    fault: str = ""
    latents: list[Tensor] = field(default_factory=list)
    """All latents of this attempt, (width,) each."""
    vocoded: int = 0
    """Number of latents that were passed to the vocoder."""
    held: list[npt.NDArray[np.float32]] = field(default_factory=list)
    """Samples that were not returned yet. Of a streaming segment, the first array is the end of what was returned."""
    heard: bool = False
    """True if any audio was returned; the segment cannot be generated again then."""
    settled: bool = False
    """True if this attempt is the final one, even if the output check finds a fault."""
    chunk_tokens: int = NEXT_CHUNK_TOKENS
    """Number of tokens in the next chunk."""
    best: GenerationAttempt | None = None

    @property
    def waiting(self) -> int:
        """Number of latents that were not passed to the vocoder yet."""
        return len(self.latents) - self.vocoded

    @property
    def decoded(self) -> bool:
        """True if all tokens of this attempt were generated."""
        return self.row is None

    @property
    def seconds(self) -> float:
        """Duration of the tokens generated so far, at speed 1."""
        return len(self.latents) * TOKEN_S

    def begin(self, row: int, stream: VocoderStream) -> None:
        """Reset the state for an attempt in a row of the GPT."""
        self.row, self.stream = row, stream
        self.fault, self.latents, self.vocoded, self.held = "", [], 0, []
        self.chunk_tokens = FIRST_CHUNK_TOKENS if self.segment.index == 0 else NEXT_CHUNK_TOKENS

    def next_seed(self) -> int:
        """Count an attempt and return its seed: the segment's own for the first, a seed derived from it for others."""
        self.tries += 1
        self.seed = self.segment.seed if self.tries == 1 else retry_seed(self.segment.seed, self.tries)
        return self.seed

    def is_due(self, *, streaming: bool) -> bool:
        """Return whether latents of this segment should be vocoded now."""
        if self.decoded:
            return True
        return streaming and self.waiting >= self.chunk_tokens

    def next_latents(self) -> list[Tensor]:
        """Return the latents of the next chunk, and count them as vocoded.

        Chunk boundaries do not depend on whether the segment is streaming: they affect the last bits of the samples.
        """
        part = self.latents[self.vocoded : self.vocoded + self.chunk_tokens]
        self.vocoded += len(part)
        self.chunk_tokens = min(round(self.chunk_tokens * CHUNK_GROWTH), MAX_CHUNK_TOKENS)
        return part

    def length_fault(self, *, stopped: bool, max_tokens: int) -> str:
        """Return the fault in the number of tokens of a complete attempt: `cap`, `rate` or an empty text.

        `stopped` is whether it ended with the stop token, `max_tokens` the maximum that the model supports.
        """
        if not stopped:
            return "cap" if len(self.latents) >= max_tokens else "rate"
        return "" if self.plausible.min_s <= self.seconds <= self.plausible.max_s else "rate"

    def record_attempt(self, samples: npt.NDArray[np.float32] | None) -> None:
        """Store the current attempt as the best if it is better than the earlier ones; samples (n,)."""
        badness = output_check.badness(self.fault, self.seconds, self.plausible)
        spoken = SpokenSegment(self.seed, self.tries, self.fault)
        if self.best is None or badness < self.best.badness:
            self.best = GenerationAttempt(spoken, badness, tuple(self.latents), samples)

    def settle(self, attempt: GenerationAttempt, stream: VocoderStream) -> None:
        """Make an attempt the final one; its latents are vocoded again, from the beginning of `stream`."""
        self.settled, self.row, self.stream = True, None, stream
        self.seed, self.fault = attempt.spoken.seed, attempt.spoken.fault
        self.latents, self.vocoded, self.held = list(attempt.latents), 0, []

    def outcome(self) -> SpokenSegment:
        """Return seed, number of attempts and fault of the segment."""
        return SpokenSegment(self.seed, self.tries, self.fault)


def retry_seed(seed: int, tries: int) -> int:
    """Return the seed of attempt number `tries` of a segment: 32 bits, the same on every machine and version."""
    return int.from_bytes(hashlib.blake2s(f"{seed}/again/{tries}".encode(), digest_size=4).digest(), "little")


def to_pcm(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """Convert samples from -1 to 1 to 16-bit integers; values outside are clipped."""
    return np.rint(np.clip(samples, -1.0, 1.0) * np.iinfo(np.int16).max).astype(np.int16)
