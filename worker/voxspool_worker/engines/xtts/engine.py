"""The engine `xtts`: segments in, chunks out; a step is one audio token on every row, and the vocoding that is due.

    admit ─► Seat ─► Gpt (all rows, a token a step) ─► latents ─► vocoder ─► held back, or given away
                      ▲                                             │
                      └──── another seed, where the guard objects ◄─┘

Knows what is done when, and who is heard first. Where it is computed stands in the plan, how in gpt and vocoder, what
is plausible in guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import numpy as np
import torch

from voxspool_worker.engines.base import Chunk, Prepared, SegmentError
from voxspool_worker.engines.xtts import output_check
from voxspool_worker.engines.xtts.active_segment import TOKEN_S, Seat, to_pcm

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from voxspool_worker.engines.base import Segment
    from voxspool_worker.engines.xtts.gpt import Gpt
    from voxspool_worker.engines.xtts.prepared_voices import VoicedVoices
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
        self, gpt: Gpt, vocoder: Vocoder, tokenizer: XttsTokenizer, voiced: VoicedVoices, *,
        model: str, device: str, sample_rate: int, rows: int, tries: int = TRIES,
    ) -> None:  # fmt: skip
        """Take the parts. `tries` 1 switches the guard's second tries off; faults are still marked."""
        self.model, self.device, self.sample_rate, self.rows = model, device, sample_rate, rows
        self._gpt, self._vocoder, self._tokenizer, self._voiced = gpt, vocoder, tokenizer, voiced
        self._tries = tries
        self._together = device != "cpu"
        self._seats: list[Seat] = []
        self._loose: list[Chunk] = []
        """What came loose and was not given yet: a broken segment must not take its neighbours' audio with it."""
        self._broken: list[Seat] = []

    @property
    def free(self) -> int:
        """How many rows are open now."""
        return self.rows - len(self._seats)

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The checkpoint's speakers, then the cloned ones; mixes of them can be looked up."""
        return self._voiced.book

    def limits(self, language: str) -> Limits:
        """As much text as XTTS takes at once, in characters and in tokens."""
        return self._tokenizer.limits(language)

    def digest(self, voice: Voice) -> str:
        """Nothing: a voice's clips are among its parts, and the checkpoint's fingerprint in the model's name."""
        del voice
        return ""

    def prepare(self, voice: Voice) -> Prepared:
        """Make a voice's conditioning ready: in memory, from a cache, or computed. From any thread."""
        return self._voiced.prepare(voice)

    def admit(self, segment: Segment) -> None:
        """Seat a segment in a free row: its text is read here, 1 ms a token on two cores."""
        voiced = self._voiced.ready(segment.voice, self._gpt, self._vocoder)
        text = self._tokenizer.tokens(segment.text, segment.language)
        plausible = output_check.band(segment.text, self._tokenizer.limits(segment.language).max_chars)
        seat = Seat(segment, text, voiced, plausible)
        self._seats.append(seat)
        self._speak(seat)

    def step(self) -> list[Chunk]:
        """Move every running row by a token, and vocode what is due.

        Raises SegmentError where a segment's audio is no number: its row is free again.
        """
        if not self._broken:
            self._decode()
            for seat, samples in self._vocode(self._due()):
                if np.isfinite(samples).all():
                    self._loose += self._take(seat, samples)
                else:
                    self._broken.append(seat)
        if self._broken:
            self._give_up(self._broken.pop())
        chunks, self._loose = self._loose, []
        self._seats = [seat for seat in self._seats if not any(chunk.last and _is_of(chunk, seat) for chunk in chunks)]
        return chunks

    def drop(self, job: str) -> None:
        """Free the job's rows."""
        for seat in [seat for seat in self._seats if seat.segment.job == job]:
            self._leave(seat)
            self._seats.remove(seat)
        self._loose = [chunk for chunk in self._loose if chunk.job != job]
        self._broken = [seat for seat in self._broken if seat.segment.job != job]

    # -- speaking ----------------------------------------------------------------------------------------------------

    def _speak(self, seat: Seat) -> None:
        """Begin a try: no longer than is plausible, so that a runaway ends before most of it is made."""
        most = int(seat.plausible.longest_s / TOKEN_S) + 1
        row = self._gpt.start(seat.voiced.prefix, seat.text, seat.next_seed(), most)
        seat.begin(row, self._stream(seat))

    def _stream(self, seat: Seat) -> VocoderStream:
        return self._vocoder.stream(seat.voiced.condition, seat.segment.speed)

    def _leave(self, seat: Seat) -> None:
        if seat.row is not None:
            self._gpt.leave(seat.row)
            seat.row = None

    def _decode(self) -> None:
        """Say a token on every row; look at the length of those that ended."""
        seats = {seat.row: seat for seat in self._seats if seat.row is not None}
        for step in self._gpt.step():
            seat = seats[step.row]
            seat.latents.append(step.latent)
            if step.last:
                self._leave(seat)
                stopped = step.token == self._gpt.tokens.audio_stop
                seat.fault = seat.judge_length(stopped=stopped, most=self._gpt.tokens.audio_most)
                if seat.fault and not seat.heard:
                    self._judge(seat, None)

    def _judge(self, seat: Seat, samples: npt.NDArray[np.float32] | None) -> bool:
        """Look at a try that nobody has heard; True: it is the one, and `samples` is what it sounds like."""
        seat.remember(samples)
        best = seat.best
        assert best is not None
        if seat.fault and seat.tries < self._tries:
            self._speak(seat)
            return False
        if samples is not None and best.samples is samples:
            return True
        seat.settle(best, self._stream(seat))
        return False

    # -- being heard -------------------------------------------------------------------------------------------------

    def _is_live(self, seat: Seat) -> bool:
        """Whether its audio is what its job hears next."""
        one = seat.segment
        return one.live and not any(
            other.segment.job == one.job and other.segment.index < one.index for other in self._seats
        )

    def _due(self) -> list[Seat]:
        """Choose whose latents are vocoded in this step: on a CPU one seat's, live ones first; else all that wait."""
        due = [seat for seat in self._seats if seat.is_due(live=self._is_live(seat))]
        due.sort(key=lambda seat: (not self._is_live(seat), seat.vocoded))
        return due if self._together else due[:1]

    def _vocode(self, due: list[Seat]) -> list[tuple[Seat, npt.NDArray[np.float32]]]:
        """Vocode the next part of each: (n,) samples."""
        parts = [(seat, seat.take()) for seat in due]
        pushed = self._vocoder.push_many(
            [(seat.stream, torch.stack(part)) for seat, part in parts if part and seat.stream is not None]
        )
        heard = iter(pushed)
        samples = []
        for seat, part in parts:
            said = [next(heard)] if part else []
            if seat.decoded and not seat.waiting and seat.stream is not None:
                said.append(seat.stream.finish())
            samples.append((seat, np.concatenate(said).astype(np.float32)))
        return samples

    def _take(self, seat: Seat, samples: npt.NDArray[np.float32]) -> list[Chunk]:
        """Give away what a live seat said; hold back the others' until it is whole and was judged."""
        seat.held.append(samples)
        whole = seat.decoded and not seat.waiting
        if not self._is_live(seat):
            return self._take_whole(seat) if whole else []
        if whole and not seat.heard:
            return self._take_whole(seat)
        return [self._stream_on(seat, last=whole)]

    def _take_whole(self, seat: Seat) -> list[Chunk]:
        """Give away a segment of which nothing was heard, if it may be heard as it is."""
        samples = np.concatenate(seat.held)
        if not seat.settled:
            seat.fault = seat.fault or output_check.end_fault(samples, self.sample_rate)
            if not self._judge(seat, samples):
                return []
        return [Chunk(seat.segment.job, seat.segment.index, to_pcm(samples), last=True, spoken=seat.outcome())]

    def _stream_on(self, seat: Seat, *, last: bool) -> Chunk:
        """Give away what is held, and keep its last second for the guard."""
        segment, tail = seat.segment, seat.held[0] if seat.heard else np.zeros(0, np.float32)
        fresh = np.concatenate(seat.held[1:] if seat.heard else seat.held)
        seat.held = [np.concatenate((tail, fresh))[-round(2 * output_check.END_S * self.sample_rate) :]]
        seat.heard = True
        if not last:
            return Chunk(segment.job, segment.index, to_pcm(fresh), last=False)
        seat.fault = seat.fault or output_check.end_fault(seat.held[0], self.sample_rate)
        return Chunk(segment.job, segment.index, to_pcm(fresh), last=True, spoken=seat.outcome())

    def _give_up(self, seat: Seat) -> NoReturn:
        """End a segment whose audio is no number."""
        self._leave(seat)
        self._seats.remove(seat)
        raise SegmentError(
            seat.segment, f"XTTS gave no sound for segment {seat.segment.index}; try VOXSPOOL_PRECISION=fp32"
        )


def _is_of(chunk: Chunk, seat: Seat) -> bool:
    return (chunk.job, chunk.segment) == (seat.segment.job, seat.segment.index)
