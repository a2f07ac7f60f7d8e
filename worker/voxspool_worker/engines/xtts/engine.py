"""The engine `xtts`: segments in, chunks out. A step is one audio token on every row, and the vocoding that is due.

    admit ─► ActiveSegment ─► Gpt (all rows, a token a step) ─► latents ─► vocoder ─► held back, or given away
                               ▲                                              │
                               └──── another seed, if the output check fails ◄┘

This module decides what is done when, and which segment is heard first. The plan says where it is computed; gpt and
vocoder compute; output_check judges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np
import torch

from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError
from voxspool_worker.engines.xtts import output_check
from voxspool_worker.engines.xtts.active_segment import TOKEN_S, ActiveSegment, to_pcm

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from voxspool_worker.engines.base import SpeechSegment
    from voxspool_worker.engines.xtts.gpt import Gpt
    from voxspool_worker.engines.xtts.prepared_voices import PreparedVoices
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.engines.xtts.vocoder import Vocoder, VocoderStream
    from voxspool_worker.text import Limits
    from voxspool_worker.voices.catalog import Voice

TRIES: Final = 3
"""How often a segment is spoken at the most; each costs as much as the first."""


class XttsEngine:
    """XTTS, loaded and warm. See `load` in this package."""

    name: Final = "xtts"

    def __init__(
        self, gpt: Gpt, vocoder: Vocoder, tokenizer: XttsTokenizer, prepared: PreparedVoices, *,
        model: str, device: str, sample_rate: int, rows: int, tries: int = TRIES,
    ) -> None:  # fmt: skip
        """Store the parts. With `tries` 1 no segment is spoken again; faults are still marked."""
        self.model, self.device, self.sample_rate, self.rows = model, device, sample_rate, rows
        self._gpt, self._vocoder, self._tokenizer, self._prepared = gpt, vocoder, tokenizer, prepared
        self._tries = tries
        self._together = device != "cpu"
        self._active: list[ActiveSegment] = []
        self._loose: list[AudioChunk] = []
        """What came loose and was not given yet: a broken segment must not take its neighbours' audio with it."""
        self._broken: list[ActiveSegment] = []

    @property
    def free(self) -> int:
        """How many rows are open now."""
        return self.rows - len(self._active)

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The checkpoint's speakers, then the cloned ones; mixes of them can be looked up."""
        return self._prepared.book

    def limits(self, language: str) -> Limits:
        """As much text as XTTS takes at once, in characters and in tokens."""
        return self._tokenizer.limits(language)

    def digest(self, voice: Voice) -> str:
        """Nothing: a voice's clips are among its parts, and the checkpoint's fingerprint in the model's name."""
        del voice
        return ""

    def prepare(self, voice: Voice) -> Prepared:
        """Make a voice's conditioning ready: in memory, from a cache, or computed. From any thread."""
        return self._prepared.prepare(voice)

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row. Its prompt is read here, which takes 1 ms a token on two cores."""
        prepared = self._prepared.ready(segment.voice, self._gpt, self._vocoder)
        text = self._tokenizer.tokens(segment.text, segment.language)
        plausible = output_check.band(segment.text, self._tokenizer.limits(segment.language).max_chars)
        active = ActiveSegment(segment, text, prepared, plausible)
        self._active.append(active)
        self._speak(active)

    def step(self) -> list[AudioChunk]:
        """Move every running row by a token, and vocode what is due.

        Raises SegmentError where a segment's audio is no number: its row is free again.
        """
        if not self._broken:
            self._decode()
            for active, samples in self._vocode(self._due()):
                if np.isfinite(samples).all():
                    self._loose += self._take(active, samples)
                else:
                    self._broken.append(active)
        if self._broken:
            self._give_up(self._broken.pop())
        chunks, self._loose = self._loose, []
        self._active = [
            active for active in self._active if not any(chunk.last and _is_of(chunk, active) for chunk in chunks)
        ]
        return chunks

    def drop(self, job: str) -> None:
        """Free the job's rows."""
        for active in [active for active in self._active if active.segment.job == job]:
            self._leave(active)
            self._active.remove(active)
        self._loose = [chunk for chunk in self._loose if chunk.job != job]
        self._broken = [active for active in self._broken if active.segment.job != job]

    # -- speaking ----------------------------------------------------------------------------------------------------

    def _speak(self, active: ActiveSegment) -> None:
        """Begin a try: no longer than is plausible, so that a runaway ends before most of it is made."""
        most = int(active.plausible.longest_s / TOKEN_S) + 1
        row = self._gpt.start(active.prepared.prefix, active.text, active.next_seed(), most)
        active.begin(row, self._stream(active))

    def _stream(self, active: ActiveSegment) -> VocoderStream:
        return self._vocoder.stream(active.prepared.condition, active.segment.speed)

    def _leave(self, active: ActiveSegment) -> None:
        if active.row is not None:
            self._gpt.release(active.row)
            active.row = None

    def _decode(self) -> None:
        """Decode one token on every row, and check the length of the rows that ended."""
        by_row = {active.row: active for active in self._active if active.row is not None}
        for step in self._gpt.step():
            active = by_row[step.row]
            active.latents.append(step.latent)
            if step.last:
                self._leave(active)
                stopped = step.token == self._gpt.tokens.audio_stop
                active.fault = active.judge_length(stopped=stopped, most=self._gpt.tokens.max_audio_tokens)
                if active.fault and not active.heard:
                    self._judge(active, None)

    def _judge(self, active: ActiveSegment, samples: npt.NDArray[np.float32] | None) -> bool:
        """Look at a try that nobody has heard; True: it is the one, and `samples` is what it sounds like."""
        active.remember(samples)
        best = active.best
        assert best is not None
        if active.fault and active.tries < self._tries:
            self._speak(active)
            return False
        if samples is not None and best.samples is samples:
            return True
        active.settle(best, self._stream(active))
        return False

    # -- being heard -------------------------------------------------------------------------------------------------

    def _is_live(self, active: ActiveSegment) -> bool:
        """Whether its audio is what its job hears next."""
        one = active.segment
        return one.live and not any(
            other.segment.job == one.job and other.segment.index < one.index for other in self._active
        )

    def _due(self) -> list[ActiveSegment]:
        """Return the segments whose latents are vocoded in this step.

        On a CPU that is one segment, live ones first; elsewhere all that have latents.
        """
        due = [active for active in self._active if active.is_due(live=self._is_live(active))]
        due.sort(key=lambda active: (not self._is_live(active), active.vocoded))
        return due if self._together else due[:1]

    def _vocode(self, due: list[ActiveSegment]) -> list[tuple[ActiveSegment, npt.NDArray[np.float32]]]:
        """Vocode the next part of each: (n,) samples."""
        parts = [(active, active.take()) for active in due]
        pushed = self._vocoder.push_many(
            [(active.stream, torch.stack(part)) for active, part in parts if part and active.stream is not None]
        )
        heard = iter(pushed)
        samples = []
        for active, part in parts:
            said = [next(heard)] if part else []
            if active.decoded and not active.waiting and active.stream is not None:
                said.append(active.stream.finish())
            samples.append((active, np.concatenate(said).astype(np.float32)))
        return samples

    def _take(self, active: ActiveSegment, samples: npt.NDArray[np.float32]) -> list[AudioChunk]:
        """Return what a live segment said; hold back the others' until it is whole and was judged."""
        active.held.append(samples)
        whole = active.decoded and not active.waiting
        if not self._is_live(active):
            return self._take_whole(active) if whole else []
        if whole and not active.heard:
            return self._take_whole(active)
        return [self._stream_on(active, last=whole)]

    def _take_whole(self, active: ActiveSegment) -> list[AudioChunk]:
        """Return the chunk of a segment of which nothing was heard, if its audio may be used."""
        samples = np.concatenate(active.held)
        if not active.settled:
            active.fault = active.fault or output_check.end_fault(samples, self.sample_rate)
            if not self._judge(active, samples):
                return []
        return [
            AudioChunk(active.segment.job, active.segment.index, to_pcm(samples), last=True, spoken=active.outcome())
        ]

    def _stream_on(self, active: ActiveSegment, *, last: bool) -> AudioChunk:
        """Return what is held, and keep a copy of its last second for the output check."""
        segment, tail = active.segment, active.held[0] if active.heard else np.zeros(0, np.float32)
        fresh = np.concatenate(active.held[1:] if active.heard else active.held)
        active.held = [np.concatenate((tail, fresh))[-round(2 * output_check.END_S * self.sample_rate) :]]
        active.heard = True
        if not last:
            return AudioChunk(segment.job, segment.index, to_pcm(fresh), last=False)
        active.fault = active.fault or output_check.end_fault(active.held[0], self.sample_rate)
        return AudioChunk(segment.job, segment.index, to_pcm(fresh), last=True, spoken=active.outcome())

    def _give_up(self, active: ActiveSegment) -> NoReturn:
        """End a segment whose audio is no number."""
        self._leave(active)
        self._active.remove(active)
        raise SegmentError(
            active.segment, f"XTTS gave no sound for segment {active.segment.index}; try VOXSPOOL_PRECISION=fp32"
        )


def _is_of(chunk: AudioChunk, active: ActiveSegment) -> bool:
    return (chunk.job, chunk.segment) == (active.segment.job, active.segment.index)
