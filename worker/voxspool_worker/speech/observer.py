"""The interface through which jobs report what they do: the worker's metrics implement it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from voxspool.protocol.stream import End, Mark
    from voxspool_worker.engines.base import Prepared


class Observer(Protocol):
    """Receives events of all jobs, from the threads of the jobs."""

    def voice_ready(self, prepared: Prepared) -> None:
        """Count a voice that is prepared."""

    def first_audio(self, after_s: float) -> None:
        """Record the time from the start of a run to its first audio, in seconds."""

    def audio(self, duration_s: float) -> None:
        """Count an audio entry of `duration_s` seconds."""

    def segment_done(self, mark: Mark) -> None:
        """Count a segment that is complete."""

    def job_ended(self, end: End) -> None:
        """Count a job that is complete."""
