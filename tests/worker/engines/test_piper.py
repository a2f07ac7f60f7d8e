"""The engine Piper: voices on disk, sample rates, texts that have no phonemes, errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support.engines import FULL_SCALE, SENTENCE, loaded, need_piper, segment_for, speak
from voxspool.errors import CheckpointError, MissingExtraError, UnknownVoiceError
from voxspool_worker.engines import load, piper
from voxspool_worker.engines.base import SegmentError, SpeechSegment
from voxspool_worker.engines.piper import STARTER, PiperEngine, find_voices, voice_folders
from voxspool_worker.engines.tone import FAST
from voxspool_worker.settings import Settings
from voxspool_worker.voices.catalog import Voice

if TYPE_CHECKING:
    from pathlib import Path


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
    assert piper_engine.free == 1


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
