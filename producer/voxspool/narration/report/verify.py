"""Check that the right words were spoken: transcribe each segment with Whisper, and compare the words.

Case, punctuation, apostrophes and hyphens do not count. All numbers count as equal, because 23 may be transcribed as
twenty-three; so a wrong number is not found. Chinese, Japanese, Thai and similar scripts are compared by characters.
Transcribers make mistakes too, mostly with names, so only error rates above LIMIT are faults.

Whisper runs on the CPU, because accelerators are for the workers. faster-whisper and jiwer are the extra `verify`.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import soxr

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.hints import missing
from voxspool.settings import forbid_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableMapping

    from numpy.typing import NDArray

    from voxspool.narration.track import Track
    from voxspool.store.segments import Store

MODEL: Final = "base"
"""The default model: multilingual Whisper, 145 MB. faster-whisper downloads it when it is first used."""
WHISPER_HZ: Final = 16_000
"""The sample rate of Whisper's input."""
LIMIT: Final = 0.35
"""Word error rate above which a segment has a fault. On Piper's speech the smallest Whisper (tiny.en) has 0.07 on
average and 0.29 at most; a different sentence has 0.8 or more."""
LEAST_WORDS: Final = 5
"""A segment with fewer words has no fault of words: one name that is spelt differently would exceed the limit."""

_UNSPACED: Final = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff])")
_APOSTROPHES: Final = re.compile("['\u2018\u2019\u02bc`]")
_DIGITS: Final = re.compile(r"[$\u00a3\u20ac]?\d(?:[\d.,:/]*\d)?(?:st|nd|rd|th|%)?(?!\w)")
_NUMBER: Final = " # "
_NUMBER_WORDS: Final = frozenset(
    [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
        "thirty",
        "forty",
        "fifty",
        "sixty",
        "seventy",
        "eighty",
        "ninety",
        "hundred",
        "thousand",
        "million",
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "sixth",
        "seventh",
        "eighth",
        "ninth",
        "tenth",
        "eleventh",
        "twelfth",
    ]
)
"""English number words, which Whisper may write as digits."""
_WRITTEN_OUT: Final = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "vs": "versus"}
"""Abbreviations that Whisper may use -> the whole word."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """The transcription of a segment, compared with its text."""

    text: str
    word_error_rate: float
    """The number of wrong, missing and additional words, divided by the number of words in the text. It may exceed
    1."""
    words: int
    """The number of words in the text."""

    @property
    def fault(self) -> str:
        """`words` if the error rate is higher than the mistakes of a transcriber explain; else an empty text."""
        return "words" if self.words >= LEAST_WORDS and self.word_error_rate > LIMIT else ""


def verify(
    tracks: Iterable[Track], store: Store, model: str = MODEL, heard: MutableMapping[str, str] | None = None
) -> Iterator[tuple[int, int, Transcription]]:
    """Yield chapter number, cue index and transcription for every spoken cue that has a word.

    `model` is the one a Transcriber takes. `heard` maps store keys to what the same model heard before: those segments
    are not transcribed again, and new results are added to it. Takes about 0.5 s a segment with a small model on two
    cores. Raises what Transcriber raises, and StoreError if the store has lost a segment.
    """
    known = {} if heard is None else heard
    transcriber: Transcriber | None = None
    for track in tracks:
        for index, cue in enumerate(track.cues):
            if not (cue.stored and words(cue.spoken)):
                continue
            key, stored = cue.stored.key, cue.stored
            if key not in known:
                transcriber = transcriber or Transcriber(model)
                known[key] = transcriber.transcribe(store.read(key), stored.sample_rate, stored.language)
            yield track.number, index, compare(cue.spoken, known[key])


class Transcriber:
    """A Whisper model in memory. It loads within a second, so it can be loaded before a book is spoken, as a check.

    `model` is a folder with a Whisper model of CTranslate2, or a name that faster-whisper knows. Raises
    CheckpointError, and MissingExtraError if faster-whisper or jiwer is not installed.
    """

    def __init__(self, model: str = MODEL) -> None:
        _jiwer()
        self._whisper = _load(model)

    def transcribe(self, pcm: NDArray[np.int16], rate: int, language: str | None = None) -> str:
        """Return the text of samples, shape (n,). Whisper detects the language if it is None or unknown to it."""
        audio = soxr.resample(pcm.astype(np.float32) / 2**15, rate, WHISPER_HZ)
        base = re.split("[-_]", language.lower())[0] if language else None
        known = base if base in self._whisper.supported_languages else None
        segments, _ = self._whisper.transcribe(
            audio,
            language=known if self._whisper.model.is_multilingual else "en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


def compare(spoken: str, heard: str) -> Transcription:
    """Compare a transcription with the text that was spoken, which has at least one word. Raises MissingExtraError."""
    jiwer = _jiwer()
    wanted = words(spoken)
    return Transcription(heard, float(jiwer.wer(" ".join(wanted), " ".join(words(heard)))), len(wanted))


@lru_cache(maxsize=1024)
def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in the form in which they are compared."""
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold())
    plain = _UNSPACED.sub(r" \1 ", _DIGITS.sub(_NUMBER, plain))
    found = "".join(character if _counts(character) else " " for character in plain).split()
    return tuple(_merged("#" if word in _NUMBER_WORDS else _WRITTEN_OUT.get(word, word) for word in found))


def _counts(character: str) -> bool:
    """Return whether a character is part of a word: letter, mark, number, or the # that stands for a number."""
    return character == "#" or unicodedata.category(character)[0] in "LMN"


def _merged(found: Iterable[str]) -> Iterator[str]:
    """Yield the words with each number as one word: twenty-three and "two hundred and one" have several."""
    held: list[str] = []
    before = ""
    for word in found:
        if before == "#" and word == "and":
            held = [word]
            continue
        if not (word == "#" and before == "#"):
            yield from held
            yield word
        held, before = [], word
    yield from held


def _load(model: str) -> Any:  # noqa: ANN401 - optional
    forbid_telemetry()
    try:
        from faster_whisper import WhisperModel
    except ImportError as error:
        raise MissingExtraError(missing("verifying", "faster-whisper", "voxspool", "verify")) from error
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # without a request to the network, if it is here
        return WhisperModel(model, device="cpu", compute_type="int8", local_files_only=True)
    try:
        return WhisperModel(model, device="cpu", compute_type="int8")
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the Whisper model {model!r} cannot be loaded ({error}); name a folder that contains one, or a model of "
            "faster-whisper: tiny, base, small, medium, large-v3"
        ) from error


def _jiwer() -> Any:  # noqa: ANN401 - optional
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError(missing("verifying", "jiwer", "voxspool", "verify")) from error
    return jiwer
