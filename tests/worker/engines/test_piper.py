"""The engine Piper: voices on disk, sample rates, texts that have no phonemes, errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.engines import FULL_SCALE, SENTENCE, loaded, need_piper, segment_for, speak
from voxspool.errors import CheckpointError, MissingExtraError, UnknownVoiceError
from voxspool_worker.engines import load, piper, piper_model
from voxspool_worker.engines.base import SegmentError, SpeechSegment
from voxspool_worker.engines.piper import STARTER, PiperEngine, find_voices, voice_folders
from voxspool_worker.engines.piper_model import SHRINK_PHONEMES, SHRINK_RUNS
from voxspool_worker.engines.tone import FAST
from voxspool_worker.settings import Settings
from voxspool_worker.voices.catalog import Voice

if TYPE_CHECKING:
    from pathlib import Path

    import onnxruntime


@pytest.fixture
def piper_engine() -> PiperEngine:
    engine = loaded("piper")
    assert isinstance(engine, PiperEngine)
    return engine


@pytest.mark.voice
@pytest.mark.parametrize(
    "text",
    [
        "[[1 2 3 4 5 6 7 8 9]]",
        "[[1 2 3 4]] [[5 6 7 8 9]]",
        "[[1 2 3 4 5 6 7 8 9",
        "[[[1 2 3 4 5 6 7 8 9]]]",
        "[[[[1 2 3 4 5 6 7 8 9]]]]",
    ],
)
def test_double_brackets_are_read_as_text_not_as_phonemes(piper_engine: PiperEngine, text: str) -> None:
    # No voice has a phoneme "7": the digits would be silent if they were read as phonemes.
    plain = len(speak(piper_engine, segment_for(piper_engine, "1 2 3 4 5 6 7 8 9")))
    assert len(speak(piper_engine, segment_for(piper_engine, text))) > 0.9 * plain


@pytest.mark.voice
@pytest.mark.parametrize("text", ["—", "...", "[[", "***", "\u200d", "❄"])
def test_a_text_without_phonemes_ends_with_one_chunk(piper_engine: PiperEngine, text: str) -> None:
    piper_engine.admit(segment_for(piper_engine, text))
    (chunk,) = piper_engine.step()
    assert chunk.last
    assert (chunk.pcm.dtype, chunk.pcm.ndim) == (np.int16, 1)
    assert piper_engine.free == piper_engine.rows


@pytest.mark.voice
def test_sentences_are_not_normalised_to_full_scale(piper_engine: PiperEngine) -> None:
    texts = ["Hello.", "No.", "It was late.", SENTENCE]
    peaks = [int(np.abs(speak(piper_engine, segment_for(piper_engine, text)).astype(int)).max()) for text in texts]
    assert all(1000 < peak < 0.97 * FULL_SCALE for peak in peaks), peaks
    assert len(set(peaks)) == len(peaks)


@pytest.mark.voice
def test_the_audio_of_a_text_is_not_silent(piper_engine: PiperEngine) -> None:
    samples = speak(piper_engine, segment_for(piper_engine)).astype(float)
    assert np.sqrt(np.mean(samples**2)) > 0.01 * FULL_SCALE


@pytest.mark.voice
@pytest.mark.parametrize("exists", [True, False])
def test_without_a_voice_the_error_names_the_download_command(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    need_piper()
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(UnknownVoiceError, match=f"get one: voxspool-worker voices get {STARTER}$") as refused:
        PiperEngine([folder])
    assert str(folder) in str(refused.value)


def test_without_piper_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piper.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"worker\[piper\]'$"):
        load("piper", Settings())


def write_voice(folder: Path, name: str, *, model: bool = True, **changed: object) -> None:
    """Write the config file of a voice and an empty model file: enough for `find_voices`."""
    config = {
        "audio": {"sample_rate": 22_050},
        "espeak": {"voice": "en-us"},
        "language": {"code": "en_US"},
        "num_speakers": 1,
        "speaker_id_map": {},
    }
    (folder / f"{name}.onnx.json").write_text(json.dumps(config | changed), encoding="utf-8")
    if model:
        (folder / f"{name}.onnx").touch()


def test_voices_are_found_by_their_config_files(tmp_path: Path) -> None:
    write_voice(tmp_path, "de_DE-karl-low", language={"code": "de_DE"}, audio={"sample_rate": 16_000})
    write_voice(tmp_path, "old", language={}, espeak={"voice": "en-gb-x-rp"})
    write_voice(tmp_path, "no-model", model=False)
    (tmp_path / "no-description.onnx").touch()
    found = find_voices([tmp_path])
    assert {name: voice.languages for name, (voice, _) in found.items()} == {
        "de_DE-karl-low": ("de-de",),
        "old": ("en-gb-x-rp",),
    }
    source = found["de_DE-karl-low"][1]
    assert (source.model, source.sample_rate, source.speaker) == (tmp_path / "de_DE-karl-low.onnx", 16_000, None)


@pytest.mark.voice
def test_the_digest_of_a_voice_is_the_sha256_of_its_model_file() -> None:
    engine = loaded("piper")
    assert isinstance(engine, PiperEngine)
    voice = next(iter(engine.voices.values()))
    model = engine._sources[voice.name].model
    assert engine.digest(voice) == hashlib.sha256(model.read_bytes()).hexdigest()
    assert loaded("tone").digest(FAST) == ""


def test_each_speaker_of_a_multi_speaker_model_is_a_voice(tmp_path: Path) -> None:
    write_voice(tmp_path, "choir", num_speakers=3, speaker_id_map={"anna": 0, "bert": 1, "3922": 2})
    write_voice(tmp_path, "solo", num_speakers=1, speaker_id_map={"only": 0})
    found = find_voices([tmp_path])
    assert {name: source.speaker for name, (_, source) in found.items()} == {
        "choir": 0,
        "choir#anna": 0,
        "choir#bert": 1,
        "choir#3922": 2,
        "solo": None,
    }
    assert {source.model.name for name, (_, source) in found.items() if "#" in name} == {"choir.onnx"}
    assert found["choir#bert"][0] == Voice("choir#bert", ("en-us",))


def test_the_chosen_folder_is_searched_before_the_packaged_voice(tmp_path: Path) -> None:
    write_voice(tmp_path, "zoe")
    folders = voice_folders(tmp_path)
    assert folders[0] == tmp_path
    assert folders[1:] == voice_folders(None)
    assert next(iter(find_voices(folders))) == "zoe"


def copy_of_packaged_voice(folder: Path, name: str) -> None:
    """Copy the packaged voice into a folder under another name."""
    need_piper()
    (source,) = (path for place in voice_folders(None) for path in place.glob("*.onnx"))
    (folder / f"{name}.onnx").symlink_to(source)
    shutil.copy(source.with_suffix(".onnx.json"), folder / f"{name}.onnx.json")


@pytest.mark.voice
def test_a_voice_in_the_chosen_folder_replaces_the_packaged_voice_of_the_same_name(tmp_path: Path) -> None:
    need_piper()
    (packaged,) = (path for place in voice_folders(None) for path in place.glob("*.onnx"))
    copy_of_packaged_voice(tmp_path, packaged.stem)
    found = find_voices(voice_folders(tmp_path))
    assert found[packaged.stem][1].model.parent == tmp_path


@pytest.mark.voice
def test_voices_of_a_lower_sample_rate_are_resampled_to_the_highest(tmp_path: Path) -> None:
    copy_of_packaged_voice(tmp_path, "a-low")
    config = tmp_path / "a-low.onnx.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"audio": {"sample_rate": 16_000}}))
    low = PiperEngine([tmp_path])
    spoken = speak(low, segment_for(low))
    copy_of_packaged_voice(tmp_path, "b-medium")
    both = PiperEngine([tmp_path])
    assert (low.sample_rate, both.sample_rate, list(both.voices)) == (16_000, 22_050, ["a-low", "b-medium"])
    resampled = speak(both, segment_for(both))
    assert len(resampled) == pytest.approx(len(spoken) * 22_050 / 16_000, abs=2)
    assert np.array_equal(speak(both, segment_for(both)), resampled), "resampling is repeatable"
    spectrum = np.abs(np.fft.rfft(resampled.astype(float)))
    above = spectrum[round(len(spectrum) * 16_000 / 22_050) :]
    assert np.sum(above**2) < 1e-4 * np.sum(spectrum**2), "resampling adds nothing above the voice's own band"


def test_without_a_chosen_folder_the_users_own_is_searched(tmp_path: Path) -> None:
    chosen, own = tmp_path / "chosen", tmp_path / "own"
    chosen.mkdir()
    packaged = voice_folders(None)
    assert voice_folders(chosen, own) == [chosen, *packaged]
    assert voice_folders(None, own) == [own, *packaged]
    assert find_voices([own]) == {}, "the user's own folder need not exist"


@pytest.mark.voice
def test_a_first_voice_that_cannot_be_loaded_raises_an_error_with_the_download_command(tmp_path: Path) -> None:
    need_piper()
    write_voice(tmp_path, "de_DE-karl-low")
    with pytest.raises(CheckpointError, match=r"karl-low.onnx cannot be loaded .* voices get de_DE-karl-low$"):
        PiperEngine([tmp_path])


@pytest.mark.voice
@pytest.mark.parametrize("damage", ["empty", "gone"])
def test_a_damaged_voice_fails_its_own_segment_and_the_engine_continues(tmp_path: Path, damage: str) -> None:
    copy_of_packaged_voice(tmp_path, "a-sound")
    shutil.copy(tmp_path / "a-sound.onnx.json", tmp_path / "b-damaged.onnx.json")
    (tmp_path / "b-damaged.onnx").touch()
    engine = PiperEngine([tmp_path])
    if damage == "gone":
        (tmp_path / "b-damaged.onnx").unlink()
    voice = engine.voices["b-damaged"]
    engine.admit(SpeechSegment("a", 0, "Hello.", 0, 6, 0.0, voice, "en-us", 1.0, 0))
    with pytest.raises(SegmentError, match="could not speak segment 0"):
        engine.step()
    assert engine.free == engine.rows
    assert len(speak(engine, segment_for(engine, "Hello."))) > 0


@pytest.fixture
def two_rows(monkeypatch: pytest.MonkeyPatch) -> PiperEngine:
    """Return an engine as on a machine with two cores."""
    need_piper()
    for module in (piper, piper_model):
        monkeypatch.setattr(module, "cores", lambda: 2)
    engine = PiperEngine(voice_folders(None))
    assert (engine.rows, engine.free) == (2, 2)
    return engine


def of_job(engine: PiperEngine, job: str, text: str, index: int = 0) -> SpeechSegment:
    return replace(segment_for(engine, text), job=job, index=index)


LONG = "The keeper of the lighthouse counted every lamp before the night began, and then he went down to the boats."


@pytest.mark.voice
def test_segments_of_two_jobs_are_spoken_at_once_and_sound_as_they_do_alone(two_rows: PiperEngine) -> None:
    alone = {text: speak(two_rows, segment_for(two_rows, text)) for text in ("Hello.", LONG)}
    two_rows.admit(of_job(two_rows, "long", LONG))
    two_rows.admit(of_job(two_rows, "short", "Hello."))
    assert two_rows.free == 0
    (first,) = two_rows.step()
    assert two_rows.free == 1
    (second,) = two_rows.step()
    assert [first.job, second.job] == ["short", "long"], "a step ends when the first segment is complete"
    assert np.array_equal(first.pcm, alone["Hello."])
    assert np.array_equal(second.pcm, alone[LONG])
    assert two_rows.step() == []


@pytest.mark.voice
def test_segments_of_one_job_are_spoken_one_after_the_other_with_all_cores(two_rows: PiperEngine) -> None:
    two_rows.admit(of_job(two_rows, "a", LONG, 0))
    two_rows.admit(of_job(two_rows, "a", "Hello.", 1))
    (first,) = two_rows.step()
    assert (first.segment, first.last, two_rows.free) == (0, True, 1)
    assert two_rows._threads._threads == set(), "no other thread has spoken"
    (second,) = two_rows.step()
    assert (second.segment, two_rows.free) == (1, 2)


@pytest.mark.voice
def test_a_job_that_comes_later_is_spoken_beside_the_rest_of_the_first(two_rows: PiperEngine) -> None:
    two_rows.admit(of_job(two_rows, "a", "Hello.", 0))
    two_rows.admit(of_job(two_rows, "a", LONG, 1))
    two_rows.step()
    two_rows.admit(of_job(two_rows, "b", "Hello.", 0))
    (first,) = two_rows.step()
    two_rows.admit(of_job(two_rows, "b", "Good night.", 1))
    heard = [first, *two_rows.step(), *two_rows.step()]
    assert sorted((chunk.job, chunk.segment) for chunk in heard) == [("a", 1), ("b", 0), ("b", 1)]


@pytest.mark.voice
def test_a_dropped_segment_frees_its_row_at_once_and_is_not_heard(two_rows: PiperEngine) -> None:
    two_rows.admit(of_job(two_rows, "gone", LONG))
    two_rows.admit(of_job(two_rows, "short", "Hello."))
    two_rows.step()
    two_rows.drop("gone")
    assert two_rows.free == 2
    two_rows.admit(of_job(two_rows, "next", "Hello."))
    (chunk,) = two_rows.step()
    assert chunk.job == "next"
    assert two_rows.step() == []


@pytest.mark.voice
def test_of_two_segments_one_that_cannot_be_spoken_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piper, "cores", lambda: 2)
    copy_of_packaged_voice(tmp_path, "a-sound")
    shutil.copy(tmp_path / "a-sound.onnx.json", tmp_path / "b-damaged.onnx.json")
    (tmp_path / "b-damaged.onnx").touch()
    engine = PiperEngine([tmp_path])
    engine.admit(SpeechSegment("bad", 0, "Hello.", 0, 6, 0.0, engine.voices["b-damaged"], "en-us", 1.0, 0))
    engine.admit(of_job(engine, "good", "Hello."))
    heard: list[str] = []
    for _ in range(2):
        try:
            heard += [chunk.job for chunk in engine.step()]
        except SegmentError as error:
            heard.append(f"{error.segment.job} failed")
    assert sorted(heard) == ["bad failed", "good"]
    assert engine.free == 2


@pytest.mark.voice
def test_on_one_core_there_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    need_piper()
    monkeypatch.setattr(piper, "cores", lambda: 1)
    engine = PiperEngine(voice_folders(None))
    assert (engine.rows, engine.free) == (1, 1)
    assert len(speak(engine, segment_for(engine, "Hello."))) > 0


class RecordedSession:
    """Records with which options it was run."""

    def __init__(self) -> None:
        self.shrunk: list[bool] = []

    def run(self, outputs: object, inputs: object, options: onnxruntime.RunOptions) -> list[object]:
        del outputs, inputs
        try:
            found = options.get_run_config_entry("memory.enable_memory_arena_shrinkage")
        except RuntimeError:
            found = ""
        self.shrunk.append(found == "cpu:0")
        return []


@pytest.mark.voice
def test_memory_is_given_back_after_long_sentences_and_now_and_then() -> None:
    need_piper()
    from onnxruntime import RunOptions

    session = RecordedSession()
    frugal = piper_model._FrugalSession(session, RunOptions)  # type: ignore[arg-type]
    for length in (20, SHRINK_PHONEMES, SHRINK_PHONEMES + 1, *[20] * 14):
        frugal.run(None, {"input": np.zeros((1, length), np.int64)})
    assert [number for number, shrunk in enumerate(session.shrunk, 1) if shrunk] == [3, SHRINK_RUNS, 2 * SHRINK_RUNS]
