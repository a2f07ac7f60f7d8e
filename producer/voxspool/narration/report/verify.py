"""Check that the right words were spoken: each segment is transcribed by Whisper, and the words are compared.

What sounds alike counts as equal: case, punctuation, apostrophes, hyphens. All numbers count as equal, because 23 is
twenty-three; so a wrong number is not found. Chinese, Japanese, Thai and similar are compared by characters.
Transcribers make mistakes too, above all with names: LIMIT is above what their mistakes reach.

Whisper runs on the CPU, because accelerators belong to the workers. faster-whisper and jiwer are the extra `verify`.
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
"""The multilingual Whisper of 145 MB: faster-whisper fetches it at its first use."""
WHISPER_HZ: Final = 16_000
LIMIT: Final = 0.35
"""Word error rate: on Piper's speech the smallest Whisper (tiny.en) has 0.07 on the mean and 0.29 at worst, and another
sentence than the wanted one has 0.8 and more."""
LEAST_WORDS: Final = 5
"""A shorter segment has no fault of words: one name that is spelt otherwise would be one."""

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
"""English ones: what Whisper writes as digits."""
_WRITTEN_OUT: Final = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "vs": "versus"}
"""What Whisper may write short."""


@dataclass(frozen=True, slots=True)
class Transcription:
    """What was heard of a segment."""

    text: str
    word_error_rate: float
    """Words wrong, missing or too many, for each word that was to be spoken; 1 where all are, and more than that."""
    words: int
    """How many were to be spoken."""

    @property
    def fault(self) -> str:
        """`words` where other words were heard than a transcriber's errors explain."""
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
    listener: Transcriber | None = None
    for track in tracks:
        for index, cue in enumerate(track.cues):
            if not (cue.stored and words(cue.spoken)):
                continue
            key, stored = cue.stored.key, cue.stored
            if key not in known:
                listener = listener or Transcriber(model)
                known[key] = listener.hear(store.read(key), stored.sample_rate, stored.language)
            yield track.number, index, compare(cue.spoken, known[key])


class Transcriber:
    """A transcriber: Whisper in memory. Made in a second, it shows before anything is spoken whether all is there.

    `model` is a folder with a Whisper model of CTranslate2, or the name of one that faster-whisper knows. Raises
    MissingExtraError, also where only what compares is missing, and CheckpointError.
    """

    def __init__(self, model: str = MODEL) -> None:
        _jiwer()
        self._whisper = _load(model)

    def hear(self, pcm: NDArray[np.int16], rate: int, language: str | None = None) -> str:
        """Return what is said in samples, shape (n,); the language is a tag, None or an unknown one: it is guessed."""
        said = soxr.resample(pcm.astype(np.float32) / 2**15, rate, WHISPER_HZ)
        base = re.split("[-_]", language.lower())[0] if language else None
        known = base if base in self._whisper.supported_languages else None
        segments, _ = self._whisper.transcribe(
            said,
            language=known if self._whisper.model.is_multilingual else "en",
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)


def compare(spoken: str, heard: str) -> Transcription:
    """Return how far the transcription is from the text, which has at least one word. Raises MissingExtraError."""
    jiwer = _jiwer()
    wanted = words(spoken)
    return Transcription(heard, float(jiwer.wer(" ".join(wanted), " ".join(words(heard)))), len(wanted))


@lru_cache(maxsize=1024)
def words(text: str) -> tuple[str, ...]:
    """Return a text's words as they are compared."""
    plain = _APOSTROPHES.sub("", unicodedata.normalize("NFKC", text).casefold())
    plain = _UNSPACED.sub(r" \1 ", _DIGITS.sub(_NUMBER, plain))
    found = "".join(character if _counts(character) else " " for character in plain).split()
    return tuple(_merged("#" if word in _NUMBER_WORDS else _WRITTEN_OUT.get(word, word) for word in found))


def _counts(character: str) -> bool:
    return character == "#" or unicodedata.category(character)[0] in "LMN"


def _merged(found: Iterable[str]) -> Iterator[str]:
    """Make one number of several words of one: twenty-three, two hundred and one."""
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
    with contextlib.suppress(RuntimeError, ValueError, OSError):  # it is here: nobody is asked for a newer one
        return WhisperModel(model, device="cpu", compute_type="int8", local_files_only=True)
    try:
        return WhisperModel(model, device="cpu", compute_type="int8")
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"the Whisper model {model!r} cannot be loaded ({error}); name a folder that has one, or one of "
            "faster-whisper's: tiny, base, small, medium, large-v3"
        ) from error


def _jiwer() -> Any:  # noqa: ANN401 - optional
    try:
        import jiwer
    except ImportError as error:
        raise MissingExtraError(missing("verifying", "jiwer", "voxspool", "verify")) from error
    return jiwer
