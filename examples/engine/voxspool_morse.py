"""An engine for voxspool that speaks Morse code at 20 words per minute, up to four segments at the same time."""

from __future__ import annotations

import unicodedata
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from voxspool_worker.engines.base import AudioChunk, Limits, Prepared, Voice

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from voxspool_worker.engines.base import SpeechSegment
    from voxspool_worker.settings import Settings

DOT_S: Final = 0.06
"""Length of a dot at 20 words per minute, in seconds. The standard word is PARIS."""
PITCHES_HZ: Final = {"radio": 600, "low-radio": 400}
"""Voice -> pitch in Hz."""
CHARACTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789.,?"
CODES: Final = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.."
)
MORSE: Final = dict(zip(CHARACTERS, CODES.split(), strict=True)) | {" ": " "}
"""Character -> its dots and dashes (ITU-R M.1677)."""
KEYED: Final = {".": [1, 0], "-": [1, 1, 1, 0], " ": [0, 0, 0, 0]}
"""Symbol -> one value per dot length: 1 is tone, 0 is silence. A letter ends with 3 dots of silence, a word with 7."""


class MorseEngine:
    """The engine `morse`. Each step returns the audio of the next letter of every segment."""

    name: Final = "morse"
    model: Final = "morse-1"
    device: Final = "cpu"
    sample_rate: Final = 16_000
    rows: Final = 4
    voices: Final[Mapping[str, Voice]] = {name: Voice(name, ()) for name in PITCHES_HZ}
    """An empty tuple of languages means that the voice speaks every language."""

    def __init__(self, settings: Settings) -> None:
        del settings  # other engines read their device, precision or cache folder from it
        self._rows: list[tuple[SpeechSegment, deque[str]]] = []

    @property
    def free(self) -> int:
        return self.rows - len(self._rows)

    def limits(self, language: str) -> Limits:
        del language
        return Limits(max_chars=200, first_max_chars=40)

    def digest(self, voice: Voice) -> str:
        del voice
        return ""  # the voices have no files

    def prepare(self, voice: Voice) -> Prepared:
        del voice
        return Prepared()

    def admit(self, segment: SpeechSegment) -> None:
        self._rows.append((segment, deque(symbols(segment.text) or [" "])))

    def step(self) -> list[AudioChunk]:
        chunks = [
            AudioChunk(segment.job, segment.index, sound(left.popleft(), segment, self.sample_rate), last=not left)
            for segment, left in self._rows
        ]
        self._rows = [(segment, left) for segment, left in self._rows if left]
        return chunks

    def drop(self, job: str) -> None:
        self._rows = [(segment, left) for segment, left in self._rows if segment.job != job]


def symbols(text: str) -> list[str]:
    """Return the dots and dashes of each letter, without accents. A letter without a Morse code becomes `?`."""
    plain = unicodedata.normalize("NFKD", text).lower()
    sent = "".join(letter for letter in plain if letter in MORSE or letter.isalnum() or letter.isspace())
    return [MORSE.get(letter, MORSE["?"]) for letter in " ".join(sent.split())]


def sound(symbol: str, segment: SpeechSegment, sample_rate: int) -> npt.NDArray[np.int16]:
    """Return the samples of a letter and of the silence after it, shape (n,)."""
    keyed = np.array([on for mark in symbol for on in KEYED[mark]] + ([0, 0] if symbol != " " else []))
    on = np.repeat(keyed, round(DOT_S / segment.speed * sample_rate))
    tone = np.sin(2 * np.pi * PITCHES_HZ[segment.voice.name] * np.arange(len(on)) / sample_rate)
    return np.rint(8_000 * on * tone).astype(np.int16)
