"""Tracks -> the report: everything that is known of each segment, and totals. It is written as report.json.

`page` shows it to people. The JSON object; times are in seconds, levels in dBFS, unknown values are null:

    version         1
    title, authors, language, unread     of the book; unread: what could not be read, one line each
    totals
      characters, segments, duration_s   of the text; of the audio with its pauses
      faults                             number of segments that were not spoken or failed a check
      spoken, reused                     number of segments spoken for this narration, and taken from the store
      spoken_again                       number of segments that took more than one attempt
      work_s, real_time_factor           work of the engines for the spoken segments; divided by their duration
      level_dbfs                         median of the segments
      word_error_rate                    mean of the transcribed segments, weighted by words
    workers         worker, spoken, reused (segments), audio_s, share (of the book's speech), work_s, real_time_factor
    chapters        chapter, title, start_s (in the book), duration_s, segments, faults
    segments        one row for each, in order:
      chapter, segment                   numbers, from 1 and from 0
      block, start, end                  block of the chapter, span of characters in it
      text, spoken                       text in the book, and text with pronunciations applied
      start_s, end_s, pause_s            in the chapter; the pause is the silence after end_s
      fault                              a word; empty if nothing is wrong
      reused                             whether the store had the segment before
      voice, language, engine, model, seed, tries, elapsed_s, worker, key
      level_dbfs, peak_dbfs, silent_share
      heard, word_error_rate             the transcript, and its error rate
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from voxspool.books.book import Book
    from voxspool.narration.report.verify import Transcription
    from voxspool.narration.track import Cue, Track

    Row = dict[str, Any]
    Report = dict[str, Any]

VERSION: Final = 1
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_KEPT: Final = ("voice", "language", "engine", "model", "seed", "tries", "elapsed_s", "worker", "key")
_MEASURED: Final = ("level_dbfs", "peak_dbfs", "silent_share")
_DECIMALS: Final = 3
_NO_ROWS: Final = "[]\n}"


def report(book: Book, tracks: Sequence[Track], heard: Mapping[tuple[int, int], Transcription] | None = None) -> Report:
    """Return the report of a spoken book, in the form above.

    `heard` maps chapter number and cue index to the transcription, for the segments that were transcribed.
    """
    rows = [row for track in tracks for row in _rows(track, heard or {})]
    return {
        "version": VERSION,
        "title": book.title,
        "authors": list(book.authors),
        "language": book.language,
        "unread": list(book.unread),
        "totals": _totals(rows, tracks),
        "workers": _workers(rows),
        "chapters": _chapters(rows, tracks),
        "segments": rows,
    }


def encoded(report: Report) -> str:
    """Return a report as JSON with one segment on each line, for tools that read lines."""
    whole = json.dumps(report | {"segments": []}, ensure_ascii=False, indent=1)
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in report["segments"])
    return _SURROGATE.sub("\ufffd", f"{whole.removesuffix(_NO_ROWS)}[\n{rows}\n]\n}}\n")


def _rows(track: Track, heard: Mapping[tuple[int, int], Transcription]) -> Iterable[Row]:
    """Yield the rows of a chapter."""
    for index, cue in enumerate(track.cues):
        transcribed = heard.get((track.number, index))
        yield {
            "chapter": track.number,
            "segment": index,
            "block": cue.block,
            "start": cue.start,
            "end": cue.end,
            "text": cue.text,
            "spoken": cue.spoken,
            "start_s": round(cue.pos / track.sample_rate, _DECIMALS),
            "end_s": round(cue.said_pos / track.sample_rate, _DECIMALS),
            "pause_s": round((cue.end_pos - cue.said_pos) / track.sample_rate, _DECIMALS),
            "fault": cue.fault or (transcribed.fault if transcribed else ""),
            "reused": cue.reused,
            **_stored(cue),
            "heard": transcribed.text if transcribed else None,
            "word_error_rate": round(transcribed.word_error_rate, _DECIMALS) if transcribed else None,
        }


def _stored(cue: Cue) -> Row:
    """Return the fields of a segment that come from the store; each is None if it could not be spoken."""
    found = {name: getattr(cue.stored, name, None) for name in (*_KEPT, *_MEASURED)}
    return {name: round(value, _DECIMALS) if isinstance(value, float) else value for name, value in found.items()}


def _totals(rows: Sequence[Row], tracks: Sequence[Track]) -> Row:
    spoken = [row for row in rows if row["key"] and not row["reused"]]
    work_s = sum(row["elapsed_s"] for row in spoken)
    levels = [row["level_dbfs"] for row in rows if row["key"] and _audio_s(row)]
    return {
        "characters": sum(len(row["text"]) for row in rows),
        "segments": len(rows),
        "duration_s": round(sum(track.duration_s for track in tracks), _DECIMALS),
        "faults": sum(bool(row["fault"]) for row in rows),
        "spoken": len(spoken),
        "reused": sum(row["reused"] for row in rows),
        "spoken_again": sum(row["tries"] > 1 for row in spoken),
        "work_s": round(work_s, _DECIMALS),
        "real_time_factor": _factor(work_s, spoken),
        "level_dbfs": round(median(levels), 1) if levels else None,
        "word_error_rate": _word_error_rate(rows),
    }


def _word_error_rate(rows: Iterable[Row]) -> float | None:
    """Return the mean of all transcribed segments, weighted by their words; None if there are none."""
    heard = [(row["word_error_rate"], len(row["spoken"].split())) for row in rows if row["heard"] is not None]
    words = sum(count for _, count in heard)
    return round(sum(rate * count for rate, count in heard) / words, _DECIMALS) if words else None


def _workers(rows: Iterable[Row]) -> list[Row]:
    """Return the totals of each worker, the one with the most audio first."""
    kept = [row for row in rows if row["key"]]
    all_s = sum(map(_audio_s, kept))
    of: dict[str, list[Row]] = defaultdict(list)
    for row in kept:
        of[row["worker"]].append(row)
    found = [{"worker": name} | _work(of[name], all_s) for name in sorted(of)]
    return sorted(found, key=lambda one: one["audio_s"], reverse=True)


def _work(rows: Sequence[Row], all_s: float) -> Row:
    """Return the totals of one worker's rows; `all_s` is the duration of the speech of all workers."""
    spoken = [row for row in rows if not row["reused"]]
    audio_s, work_s = sum(map(_audio_s, rows)), sum(row["elapsed_s"] for row in spoken)
    return {
        "spoken": len(spoken),
        "reused": len(rows) - len(spoken),
        "audio_s": round(audio_s, _DECIMALS),
        "share": round(audio_s / all_s, _DECIMALS) if all_s else 0.0,
        "work_s": round(work_s, _DECIMALS),
        "real_time_factor": _factor(work_s, spoken),
    }


def _factor(work_s: float, spoken: Iterable[Row]) -> float | None:
    """Return the real-time factor of some work; None without speech."""
    audio_s = sum(map(_audio_s, spoken))
    return round(work_s / audio_s, _DECIMALS) if audio_s else None


def _chapters(rows: Iterable[Row], tracks: Iterable[Track]) -> list[Row]:
    faults = Counter(row["chapter"] for row in rows if row["fault"])
    found: list[Row] = []
    start_s = 0.0
    for track in tracks:
        found.append(
            {
                "chapter": track.number,
                "title": track.title,
                "start_s": round(start_s, _DECIMALS),
                "duration_s": round(track.duration_s, _DECIMALS),
                "segments": len(track.cues),
                "faults": faults[track.number],
            }
        )
        start_s += track.duration_s
    return found


def _audio_s(row: Row) -> float:
    """Return the length of a segment's audio, in seconds."""
    return float(row["end_s"] - row["start_s"])
