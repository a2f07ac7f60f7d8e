"""Amounts as people read them: counts with the right plural, durations, speeds."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as "1 chapter" or "2,000 chapters"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration, rounded: "48 s", "12 min", "3 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """Return a position in time: "1:02:03", or "2:03"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def real_time(speed: float) -> str:
    """Return a speed, in seconds of audio per second of work: "6.7x real time"."""
    return f"{speed:.0f}x real time" if speed >= 10 else f"{speed:.2g}x real time"
