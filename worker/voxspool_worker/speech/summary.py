"""The summary of a run: its end entry and its one log line, from what the run has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voxspool.protocol.stream import End

if TYPE_CHECKING:
    from voxspool_worker.speech.job_run import JobRun


def end_entry(job: JobRun, segments: int, sample_rate: int) -> End:
    """Return the end entry of a run that published all of its `segments`; `sample_rate` in Hz."""
    pos, elapsed_s = job.publisher.pos, job.elapsed_s
    audio_s = (pos - job.first_pos) / sample_rate if job.chunks else 0.0
    return End(
        pos,
        pos / sample_rate,
        segments,
        first_chunk_s=rounded(job.first_chunk_s),
        real_time_factor=rounded(elapsed_s / audio_s if audio_s else None),
        elapsed_s=rounded(elapsed_s),
        characters_per_s=rounded(job.characters / elapsed_s if job.characters else None),
        chunks=job.chunks,
        voice_source=job.prepared.source if job.prepared else "",
        rows=rounded(job.mean_rows),
        spoken_again=job.spoken_again,
        faults=job.faults,
        meta=job.spec.meta,
    )


def end_line(job: JobRun, end: End) -> str:
    """Return the log line of a job that ended: the values of its end entry, and the voice. It never holds the text."""
    measured = {
        "job": job.spec.id,
        "audio_s": rounded(end.duration_s),
        "elapsed_s": end.elapsed_s,
        "first_chunk_s": end.first_chunk_s,
        "real_time_factor": end.real_time_factor,
        "characters": len(job.spec.text),
        "characters_per_s": end.characters_per_s,
        "segments": end.segments,
        "chunks": end.chunks,
        "rows": end.rows,
        "voice_source": end.voice_source,
        "voice_s": rounded(job.prepared.seconds if job.prepared else None),
        "spoken_again": end.spoken_again,
        "faults": end.faults,
    }
    return " ".join(f"{name}={'-' if value in (None, '') else value}" for name, value in measured.items())


def rounded(value: float | None) -> float | None:
    """Return a measurement with four significant digits: more are noise, and an entry should be short."""
    return None if value is None else float(f"{value:.4g}")
