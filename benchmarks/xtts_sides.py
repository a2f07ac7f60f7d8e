"""Who speaks in `bench-xtts`: upstream's two interfaces and voxspool's engine, behind one small one of their own.

    upstream TTS.api            `TTS.api.TTS(...).tts(sentence, speaker_wav=...)`: listens to the clip for each sentence
    upstream inference_stream   the low-level class with conditioning kept; a chunk every 20 tokens
    voxspool fp32, bf16, int8   the engine, as a worker loads it

All speak the same random checkpoint, which never stops by itself, and are cut after as many audio tokens as a reader
would need for the text: so all do the same work. Run as a program, it loads one side, speaks a little and prints what
that took and how much memory it had at its peak.
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
CHARS_A_SECOND: Final = 15.0
"""Of English, read aloud."""
API: Final = "upstream TTS.api"
STREAM: Final = "upstream inference_stream"
OURS: Final = {"voxspool fp32": "fp32", "voxspool bf16": "bf16", "voxspool int8": "int8"}
SILENCE_SAMPLES: Final = 10_000
"""What TTS.api puts behind each sentence: no work of the model."""
CLIP_S: Final = 10.0
"""Of the voice's clip; people use 6 to 30 s."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What to say, and in how many audio tokens."""

    text: str
    tokens: int

    @classmethod
    def read(cls, text: str) -> Sentence:
        """Return a text as many tokens as a reader would need."""
        return cls(text, max(2, round(len(text) / CHARS_A_SECOND / TOKEN_S)))


class Side(Protocol):
    """Somebody who speaks, loaded and warm, its voice known."""

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Speak one sentence; give the samples of each chunk as it comes."""

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak many, in whatever way is fastest; give the samples of each chunk as it comes."""


def write_clip(path: Path) -> None:
    """Write a voice to listen to: a buzz with the rhythm of syllables. What it says does not change what it costs."""
    import soundfile

    time_s = np.arange(int(CLIP_S * 22050)) / 22050
    buzz = sum(np.sin(2 * np.pi * 120 * overtone * time_s) / overtone for overtone in range(1, 20))
    soundfile.write(path, 0.2 * buzz * np.abs(np.sin(2 * np.pi * 2 * time_s)), 22050)


class UpstreamApi:
    """The high-level interface, as its users call it: once for each sentence, with the clip's path."""

    def __init__(self, folder: Path, clip: Path) -> None:
        from TTS.api import TTS
        from TTS.tts.models import xtts

        xtts.load_audio = _load_audio
        self._clip = clip
        with _quiet():
            self._tts = TTS(model_path=str(folder), config_path=str(folder / "config.json"), progress_bar=False)

    @property
    def model(self) -> Any:
        """The Xtts within."""
        return self._tts.synthesizer.tts_model

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Yield the whole sentence at its end: it has no stream."""
        with _quiet():
            said = self._tts.tts(
                sentence.text, language="en", speaker_wav=str(self._clip), split_sentences=False,
                max_new_tokens=sentence.tokens,
            )  # fmt: skip
            yield len(said) - SILENCE_SAMPLES

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak one after the other: it has no batch."""
        for sentence in sentences:
            yield from self.speak(sentence)


class UpstreamStream:
    """The low-level class, with the conditioning of a studio speaker."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._voice = next(iter(model.speaker_manager.speakers.values()))

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Yield a chunk for every 20 tokens."""
        with _quiet():
            for chunk in self._model.inference_stream(
                sentence.text, "en", self._voice["gpt_cond_latent"], self._voice["speaker_embedding"],
                max_new_tokens=sentence.tokens,
            ):  # fmt: skip
                yield len(chunk)

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Speak one after the other: it has no batch."""
        for sentence in sentences:
            yield from self.speak(sentence)


class Ours:
    """The engine, as a worker loads it, with the first studio speaker."""

    def __init__(self, folder: Path, precision: str) -> None:
        from voxspool_worker.engines import xtts
        from voxspool_worker.settings import Settings
        from voxspool_worker.voices.catalog import find

        self.engine = xtts.load(Settings(xtts_dir=folder, precision=precision, tos_agreed=True))
        self._voice = find(None, self.engine.voices, "xtts")
        self.engine.prepare(self._voice)
        self._tokens = 0
        self._jobs = 0
        self._cut()

    def _cut(self) -> None:
        """Make the engine end each segment where the bench says, and speak it once."""
        gpt, self.engine._tries = self.engine._gpt, 1  # noqa: SLF001 - a benchmark alone cuts
        start = gpt.start
        gpt.start = lambda prefix, text, seed, _most: start(prefix, text, seed, self._tokens)

    def speak(self, sentence: Sentence) -> Iterator[int]:
        """Yield chunks as the engine does."""
        yield from self.narrate([sentence])

    def narrate(self, sentences: Sequence[Sentence]) -> Iterator[int]:
        """Fill the rows as they come free, as the scheduler does."""
        waiting = list(sentences)
        speaking = 0
        while waiting or speaking:
            while waiting and self.engine.free:
                self._admit(waiting.pop(0))
                speaking += 1
            for chunk in self.engine.step():
                speaking -= chunk.last
                if len(chunk.pcm):
                    yield len(chunk.pcm)

    def _admit(self, sentence: Sentence) -> None:
        """Put a sentence into a free row, as a job of its own."""
        from voxspool_worker.engines.base import SpeechSegment

        self._tokens, self._jobs = sentence.tokens, self._jobs + 1
        text = sentence.text
        self.engine.admit(
            SpeechSegment(str(self._jobs), 0, text, 0, len(text), 0.0, self._voice, "en", 1.0, self._jobs)
        )


def decoding(folder: Path, precision: str, batches: Sequence[int], steps: int) -> Iterator[tuple[int, float]]:
    """Yield tokens a second of the GPT alone, choice of tokens included, for each number of rows."""
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
        began = time.perf_counter()
        for _ in range(steps):
            gpt.step()
        yield rows, rows * steps / (time.perf_counter() - began)
        for row in running:
            gpt.release(row)
    gpt.close()


def _load_audio(path: str, rate_hz: int) -> Any:
    """Read a clip as upstream's function does, without torchcodec, which wants ffmpeg's libraries."""
    import soundfile
    import torch
    import torchaudio

    samples: npt.NDArray[np.float32]
    samples, found_hz = soundfile.read(path, dtype="float32")
    return torchaudio.functional.resample(torch.from_numpy(samples)[None], found_hz, rate_hz).clip(-1, 1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep upstream's warnings to itself: the length is ours to cut."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(name: str, folder: Path, clip: Path) -> Side:
    """Load a side by its name."""
    if name in OURS:
        return Ours(folder, OURS[name])
    api = UpstreamApi(folder, clip)
    return api if name == API else UpstreamStream(api.model)


def main() -> None:
    """Load a side; print the seconds from the process's start until it was loaded, and the memory that it needed."""
    name, folder, clip, born = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    side = load(name, folder, clip)
    loaded_s = time.time() - born
    sum(side.speak(Sentence.read("A few words, to touch all of the weights.")))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({"load_s": loaded_s, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
