"""The engine `xtts`: segments of text in, chunks of audio out. A step generates one audio token in every row.

    admit ─► ActiveSegment ─► Gpt (all rows, one token per step) ─► latents ─► vocoder ─► returned, or held back
                               ▲                                                 │
                               └────── next seed, if the output check fails ◄────┘

This module decides which segment is vocoded when, and which one is streaming. The GPT and the vocoder compute; the
output check judges the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from redis.exceptions import RedisError

from voxspool.errors import VoxspoolError
from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError
from voxspool_worker.engines.xtts import output_check
from voxspool_worker.engines.xtts.active_segment import TOKEN_S, ActiveSegment, to_pcm
from voxspool_worker.engines.xtts.gpt import DecoderError

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

MAX_TRIES: Final = 3
"""Maximum number of attempts at a segment; each takes as long as the first."""


class XttsEngine:
    """The engine `xtts`. See `engines.base.Engine` for the methods, and `load` of this package for construction."""

    name: Final = "xtts"

    def __init__(
        self, gpt: Gpt, vocoder: Vocoder, tokenizer: XttsTokenizer, prepared: PreparedVoices, *,
        model: str, device: str, sample_rate: int, rows: int, tries: int = MAX_TRIES,
    ) -> None:  # fmt: skip
        """Store the parts. `tries` is the maximum number of attempts at a segment; with 1, faults are only reported."""
        self.model, self.device, self.sample_rate, self.rows = model, device, sample_rate, rows
        self._gpt, self._vocoder, self._tokenizer, self._prepared = gpt, vocoder, tokenizer, prepared
        self._tries = tries
        self._vocode_all = device != "cpu"
        self._active: list[ActiveSegment] = []
        self._ready: list[AudioChunk] = []
        """Chunks for the next return of `step`; they must not be lost when it raises an error of another segment."""
        self._failed: list[SegmentError] = []
        """Errors of segments that `step` has not raised yet; it raises one at a time. Each still counts as a row."""

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self.rows - len(self._active) - len(self._failed)

    @property
    def voices(self) -> Mapping[str, Voice]:
        """The checkpoint's speakers, then the cloned voices; mixes of them can be looked up, too."""
        return self._prepared.book

    def limits(self, language: str) -> Limits:
        """Return the limits of a segment in this language, in characters and in tokens."""
        return self._tokenizer.limits(language)

    def digest(self, voice: Voice) -> str:
        """Return an empty text: the parts of a voice name its clips, and `model` names the checkpoint's fingerprint."""
        del voice
        return ""

    def prepare(self, voice: Voice) -> Prepared:
        """Fetch the conditioning of a voice from a cache, or compute it. Any thread may call it."""
        return self._prepared.prepare(voice)

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row. This runs the prefill of its text: 1 ms per token on two cores.

        If its voice cannot be used after all, the next `step` raises SegmentError.
        """
        try:
            prepared = self._prepared.ready(segment.voice, self._gpt, self._vocoder)
            text = self._tokenizer.tokens(segment.text, segment.language)
            max_chars = self._tokenizer.limits(segment.language).max_chars
            active = ActiveSegment(segment, text, prepared, output_check.plausible_duration(segment.text, max_chars))
            self._start_attempt(active)
        except (DecoderError, VoxspoolError, RedisError) as error:  # the voice may have to be fetched again
            self._failed.append(SegmentError(segment, f"segment {segment.index} cannot be spoken: {error}"))
        else:
            self._active.append(active)

    def step(self) -> list[AudioChunk]:
        """Generate one token in every row, vocode what is due, and return the audio.

        Raises SegmentError if the audio of a segment has NaN or infinite samples; its row is free then.
        """
        if not self._failed:
            self._decode()
            for active, samples in self._vocode(self._due()):
                if np.isfinite(samples).all():
                    self._ready += self._chunks(active, samples)
                else:
                    self._fail(active)
        if self._failed:
            raise self._failed.pop()
        chunks, self._ready = self._ready, []
        self._active = [
            active for active in self._active if not any(chunk.last and _is_of(chunk, active) for chunk in chunks)
        ]
        return chunks

    def drop(self, job: str) -> None:
        """Free the rows of a job and discard its audio."""
        for active in [active for active in self._active if active.segment.job == job]:
            self._release_row(active)
            self._active.remove(active)
        self._ready = [chunk for chunk in self._ready if chunk.job != job]
        self._failed = [error for error in self._failed if error.segment.job != job]

    # -- generation --------------------------------------------------------------------------------------------------

    def _start_attempt(self, active: ActiveSegment) -> None:
        """Start the next attempt at a segment. It ends at the maximum plausible duration, to save time."""
        max_tokens = int(active.plausible.max_s / TOKEN_S) + 1
        row = self._gpt.start(active.prepared.prefix, active.text, active.next_seed(), max_tokens)
        active.begin(row, self._new_stream(active))

    def _new_stream(self, active: ActiveSegment) -> VocoderStream:
        return self._vocoder.stream(active.prepared.condition, active.segment.speed)

    def _release_row(self, active: ActiveSegment) -> None:
        if active.row is not None:
            self._gpt.release(active.row)
            active.row = None

    def _decode(self) -> None:
        """Generate one token in every row, and check the length of the attempts that are complete."""
        by_row = {active.row: active for active in self._active if active.row is not None}
        for generated in self._gpt.step():
            active = by_row[generated.row]
            active.latents.append(generated.latent)
            if generated.last:
                self._release_row(active)
                stopped = generated.token == self._gpt.tokens.audio_stop
                active.fault = active.length_fault(stopped=stopped, max_tokens=self._gpt.tokens.max_audio_tokens)
                if active.fault and not active.heard:
                    self._end_attempt(active, None)

    def _end_attempt(self, active: ActiveSegment, samples: npt.NDArray[np.float32] | None) -> bool:
        """Decide what follows a complete attempt of which no audio was returned.

        Return True if `samples`, the audio of this attempt, is the final audio. Otherwise the next attempt starts, or
        the best of all attempts is vocoded again. `samples` is None if the attempt failed the check of its length.
        """
        active.record_attempt(samples)
        best = active.best
        assert best is not None
        if active.fault and active.tries < self._tries:
            self._start_attempt(active)
            return False
        if samples is not None and best.samples is samples:
            return True
        active.settle(best, self._new_stream(active))
        return False

    # -- vocoding and output -----------------------------------------------------------------------------------------

    def _is_streaming(self, active: ActiveSegment) -> bool:
        """Return whether the audio of a segment is the next that its job needs, and is wanted at once."""
        segment = active.segment
        return segment.live and not any(
            other.segment.job == segment.job and other.segment.index < segment.index for other in self._active
        )

    def _due(self) -> list[ActiveSegment]:
        """Return the segments to vocode in this step: on a CPU one, streaming segments first; else all that are due."""
        due = [active for active in self._active if active.is_due(streaming=self._is_streaming(active))]
        due.sort(key=lambda active: (not self._is_streaming(active), active.vocoded))
        return due if self._vocode_all else due[:1]

    def _vocode(self, due: list[ActiveSegment]) -> list[tuple[ActiveSegment, npt.NDArray[np.float32]]]:
        """Vocode the next chunk of each segment; return its samples (n,)."""
        parts = [(active, active.next_latents()) for active in due]
        pushed = self._vocoder.push_many(
            [(active.stream, torch.stack(part)) for active, part in parts if part and active.stream is not None]
        )
        results = iter(pushed)
        vocoded = []
        for active, part in parts:
            samples = [next(results)] if part else []
            if active.decoded and not active.waiting and active.stream is not None:
                samples.append(active.stream.finish())
            vocoded.append((active, np.concatenate(samples).astype(np.float32)))
        return vocoded

    def _chunks(self, active: ActiveSegment, samples: npt.NDArray[np.float32]) -> list[AudioChunk]:
        """Add new samples to a segment, and return the chunks that are ready.

        A streaming segment returns its audio at once, the others when it is complete and has passed the output check.
        """
        active.held.append(samples)
        complete = active.decoded and not active.waiting
        if not self._is_streaming(active):
            return self._complete_segment(active) if complete else []
        if complete and not active.heard:
            return self._complete_segment(active)
        return [self._next_chunk(active, last=complete)]

    def _complete_segment(self, active: ActiveSegment) -> list[AudioChunk]:
        """Return a complete segment as one chunk, of which no audio was returned yet; nothing if it must be redone."""
        samples = np.concatenate(active.held)
        if not active.settled:
            active.fault = active.fault or output_check.end_fault(samples, self.sample_rate)
            if not self._end_attempt(active, samples):
                return []
        return [
            AudioChunk(active.segment.job, active.segment.index, to_pcm(samples), last=True, spoken=active.outcome())
        ]

    def _next_chunk(self, active: ActiveSegment, *, last: bool) -> AudioChunk:
        """Return the held samples of a streaming segment, and keep the latest ones for the check of its end."""
        segment, tail = active.segment, active.held[0] if active.heard else np.zeros(0, np.float32)
        fresh = np.concatenate(active.held[1:] if active.heard else active.held)
        active.held = [np.concatenate((tail, fresh))[-round(2 * output_check.END_S * self.sample_rate) :]]
        active.heard = True
        if not last:
            return AudioChunk(segment.job, segment.index, to_pcm(fresh), last=False)
        active.fault = active.fault or output_check.end_fault(active.held[0], self.sample_rate)
        return AudioChunk(segment.job, segment.index, to_pcm(fresh), last=True, spoken=active.outcome())

    def _fail(self, active: ActiveSegment) -> None:
        """End a segment whose audio has NaN or infinite samples."""
        self._release_row(active)
        self._active.remove(active)
        reason = f"XTTS produced invalid audio for segment {active.segment.index}; try VOXSPOOL_PRECISION=fp32"
        self._failed.append(SegmentError(active.segment, reason))


def _is_of(chunk: AudioChunk, active: ActiveSegment) -> bool:
    return (chunk.job, chunk.segment) == (active.segment.job, active.segment.index)
