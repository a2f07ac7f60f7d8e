"""The systems that `bench-xtts` compares, behind one interface: upstream's two interfaces and voxspool's engine.

    upstream TTS.api            `TTS.api.TTS(...).tts(sentence, speaker_wav=...)`: conditioning computed per sentence
    upstream inference_stream   the low-level class with cached conditioning; a chunk every 20 tokens
    voxspool fp32, bf16, int8   the engine, as a worker loads it

All use the same random checkpoint, which never generates the stop token. Each sentence ends after the number of audio
tokens that a human speaker would need, so all systems do the same work. Run as a program, this module loads one
system, speaks a few words, and prints the load time and the peak memory.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

RATE_HZ: Final = 24_000
TOKEN_S: Final = 1024 / 22050
CHARS_PER_SECOND: Final = 15.0
"""Speaking rate of English."""
API: Final = "upstream TTS.api"
STREAM: Final = "upstream inference_stream"
VOXSPOOL: Final = {"voxspool fp32": "fp32", "voxspool bf16": "bf16", "voxspool int8": "int8"}
"""System -> its precision."""
SILENCE_SAMPLES: Final = 10_000
"""Silence that TTS.api adds after each sentence, in samples; it is not counted."""
CLIP_S: Final = 10.0
"""Duration of the voice's clip; typical clips have 6 to 30 s."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text, and the number of audio tokens to generate for it."""

    text: str
    tokens: int

    @classmethod
    def of_text(cls, text: str) -> Sentence:
        """Return a sentence with the number of tokens that a human speaker would need."""
        return cls(text, max(2, round(len(text) / CHARS_PER_SECOND / TOKEN_S)))


class XttsSystem(Protocol):
    """A system with its model and voice in memory."""

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Speak one sentence; yield the number of samples of each chunk when it is ready."""

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak many sentences in the fastest way; yield the number of samples of each chunk when it is ready."""


def write_clip(path: Path) -> None:
    """Write the voice's clip: a buzz with the rhythm of syllables. Its content does not affect the speed."""
    import soundfile

    time_s = np.arange(int(CLIP_S * 22050)) / 22050
    buzz = sum(np.sin(2 * np.pi * 120 * overtone * time_s) / overtone for overtone in range(1, 20))
    soundfile.write(path, 0.2 * buzz * np.abs(np.sin(2 * np.pi * 2 * time_s)), 22050)


class UpstreamApi:
    """Upstream's high-level interface, called as in its documentation: once per sentence, with the path of the clip."""

    def __init__(self, folder: Path, clip: Path) -> None:
        from TTS.api import TTS
        from TTS.tts.models import xtts

        xtts.load_audio = _load_audio
        self._clip = clip
        with _quiet():
            self._tts = TTS(model_path=str(folder), config_path=str(folder / "config.json"), progress_bar=False)

    @property
    def model(self) -> Any:
        """Upstream's Xtts."""
        return self._tts.synthesizer.tts_model

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Speak the whole sentence, then yield its number of samples: this interface does not stream."""
        with _quiet():
            samples = self._tts.tts(
                sentence.text, language="en", speaker_wav=str(self._clip), split_sentences=False,
                max_new_tokens=sentence.tokens,
            )  # fmt: skip
            yield len(samples) - SILENCE_SAMPLES

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak one sentence after another: upstream has no batches."""
        for sentence in sentences:
            yield from self.speak(sentence)


class UpstreamStream:
    """Upstream's low-level class with the conditioning of a built-in speaker."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._voice = next(iter(model.speaker_manager.speakers.values()))

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Yield the number of samples of each chunk; a chunk has 20 tokens."""
        with _quiet():
            for chunk in self._model.inference_stream(
                sentence.text, "en", self._voice["gpt_cond_latent"], self._voice["speaker_embedding"],
                max_new_tokens=sentence.tokens,
            ):  # fmt: skip
                yield len(chunk)

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak one sentence after another: upstream has no batches."""
        for sentence in sentences:
            yield from self.speak(sentence)


class VoxspoolEngine:
    """voxspool's engine as a worker loads it, with the first built-in speaker."""

    def __init__(self, folder: Path, precision: str) -> None:
        from voxspool_worker.engines import xtts
        from voxspool_worker.settings import Settings
        from voxspool_worker.voices.catalog import find

        self.engine = xtts.load(Settings(xtts_dir=folder, precision=precision, tos_agreed=True))
        self._voice = find(None, self.engine.voices, "xtts")
        self.engine.prepare(self._voice)
        self._tokens = 0
        self._jobs = 0
        self._fix_lengths()

    def _fix_lengths(self) -> None:
        """Make the engine end each segment after the sentence's number of tokens, and never repeat a faulty segment."""
        gpt, self.engine._tries = self.engine._gpt, 1  # noqa: SLF001 - the engine has no option for this
        start = gpt.start
        gpt.start = lambda prefix, text, seed, _most: start(prefix, text, seed, self._tokens)

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Speak one segment, and yield the number of samples of each chunk."""
        yield from self.narrate([sentence])

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak sentences in parallel: start the next one when a row is free, as the scheduler does."""
        waiting = list(sentences)
        active = 0
        while waiting or active:
            while waiting and self.engine.free:
                self._admit(waiting.pop(0))
                active += 1
            for chunk in self.engine.step():
                active -= chunk.last
                if len(chunk.pcm):
                    yield len(chunk.pcm)

    def _admit(self, sentence: Sentence) -> None:
        """Start a sentence in a free row, as a separate job."""
        from voxspool_worker.engines.base import SpeechSegment

        self._tokens, self._jobs = sentence.tokens, self._jobs + 1
        text = sentence.text
        self.engine.admit(
            SpeechSegment(str(self._jobs), 0, text, 0, len(text), 0.0, self._voice, "en", 1.0, self._jobs)
        )


def decoding_speeds(folder: Path, precision: str, batches: Sequence[int], steps: int) -> Iterator[tuple[int, float]]:
    """Yield each number of rows with the tokens per second of the GPT alone, including sampling."""
    from dataclasses import replace

    from voxspool_worker.engines import xtts
    from voxspool_worker.engines.xtts import checkpoint, device, model
    from voxspool_worker.engines.xtts.tokenizer import XttsTokenizer
    from voxspool_worker.settings import Settings

    found = checkpoint.inspect(folder)
    loaded, tokenizer = model.load(found), XttsTokenizer(found.vocab)
    plan = replace(device.plan("auto", precision), rows=max(batches))
    gpt = xtts.make_gpt(loaded, tokenizer, plan, Settings())
    prefix = gpt.prefix(next(iter(loaded.speakers.values())).latents)
    text = tokenizer.encode("It was a comfort to him to know it, on a night of rain and of wind.", "en")
    for rows in batches:
        running = [gpt.start(prefix, text, seed) for seed in range(rows)]
        gpt.step()
        started = time.perf_counter()
        for _ in range(steps):
            gpt.step()
        yield rows, rows * steps / (time.perf_counter() - started)
        for row in running:
            gpt.release(row)
    gpt.close()


def _load_audio(path: str, rate_hz: int) -> Any:
    """Read a clip as upstream's function does, but without torchcodec, which needs FFmpeg's libraries."""
    import soundfile
    import torch
    import torchaudio

    samples: npt.NDArray[np.float32]
    samples, found_hz = soundfile.read(path, dtype="float32")
    return torchaudio.functional.resample(torch.from_numpy(samples)[None], found_hz, rate_hz).clip(-1, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress upstream's warnings about sentences that end without a stop token."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(name: str, folder: Path, clip: Path) -> XttsSystem:
    """Load a system by its name."""
    if name in VOXSPOOL:
        return VoxspoolEngine(folder, VOXSPOOL[name])
    api = UpstreamApi(folder, clip)
    return api if name == API else UpstreamStream(api.model)


def main() -> None:
    """Load a system; print the time from the start of the process until it was loaded, and the peak memory, as JSON."""
    name, folder, clip, started = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    system = load(name, folder, clip)
    load_s = time.time() - started
    sum(system.speak(Sentence.of_text("A few words, to touch all of the weights.")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"load_s": load_s, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
