"""What every engine promises the scheduler, held against each one; then what is each one's own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from voxspool.errors import CheckpointError, MissingExtraError, UnknownEngineError, UnknownVoiceError
from voxspool.protocol.jobs import ENGINES
from voxspool_worker.engines import load, piper, tone
from voxspool_worker.engines.base import AudioChunk, SegmentError, SpeechSegment
from voxspool_worker.engines.piper import PACKAGED_VOICE, STARTER, PiperEngine, find_voices, voice_folders
from voxspool_worker.engines.tone import CHAR_S, FAST, LIVE, STEP_S, ToneEngine, sine
from voxspool_worker.settings import Settings
from voxspool_worker.text import split
from voxspool_worker.voices.catalog import Voice, find

if TYPE_CHECKING:
    from pathlib import Path

    from voxspool_worker.engines.base import Engine

SENTENCE = "The keeper counted every lamp before the night began."
FULL_SCALE = np.iinfo(np.int16).max


def need_piper() -> None:
    """Skip where Piper or its packaged voice is missing; in CI that is a failure."""
    missing = [name for name in ("piper", PACKAGED_VOICE) if importlib.util.find_spec(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not installed; the extra demo has both"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


_loaded: dict[str, Engine] = {}


def loaded(name: str) -> Engine:
    """Return an engine, loaded once for the whole file: a model takes half a second."""
    if name == "piper":
        need_piper()
    if name not in _loaded:
        _loaded[name] = load(name, Settings(engine=name))
    return _loaded[name]


@pytest.fixture(params=["tone", pytest.param("piper", marks=pytest.mark.voice)])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine, with all its rows free."""
    engine = loaded(request.param)
    for job in "abcdefgh":
        engine.drop(job)
    assert engine.free == engine.rows
    return engine


@pytest.fixture
def piper_engine() -> PiperEngine:
    engine = loaded("piper")
    assert isinstance(engine, PiperEngine)
    return engine


def segment(
    engine: Engine, text: str = SENTENCE, *, job: str = "a", index: int = 0, speed: float = 1.0, seed: int = 7
) -> SpeechSegment:
    voice = find(None, engine.voices, engine.name)
    return SpeechSegment(job, index, text, 0, len(text), 0.0, voice, voice.language(None), speed, seed)


def steps_to_end(engine: Engine) -> list[AudioChunk]:
    """Step until every row is free again."""
    chunks: list[AudioChunk] = []
    for _ in range(10_000):
        if engine.free == engine.rows:
            return chunks
        chunks += engine.step()
    pytest.fail("a row never came free")


def say(engine: Engine, one: SpeechSegment) -> npt.NDArray[np.int16]:
    """Speak one segment to its end, shape (n,)."""
    engine.admit(one)
    return np.concatenate([chunk.pcm for chunk in steps_to_end(engine) if chunk.job == one.job])


# Every engine


def test_it_says_who_it_is(engine: Engine) -> None:
    assert engine.name in ENGINES
    assert engine.model
    assert engine.device in ("cpu", "cuda", "mps")
    assert 8_000 <= engine.sample_rate <= 48_000
    assert engine.rows >= 1


def test_it_has_voices_and_its_default_speaks_a_language(engine: Engine) -> None:
    assert engine.voices
    assert all(name == voice.name for name, voice in engine.voices.items())
    for voice in engine.voices.values():
        language = voice.language(None)
        assert language
        limits = engine.limits(language)
        assert 20 <= limits.first_max_chars <= limits.max_chars <= 1000
        assert split(SENTENCE, language, limits)


def test_with_nothing_admitted_a_step_gives_nothing(engine: Engine) -> None:
    assert engine.step() == []
    assert engine.free == engine.rows


def test_a_segment_holds_a_row_from_admit_to_its_last_chunk(engine: Engine) -> None:
    for index in range(engine.rows):
        assert engine.free == engine.rows - index
        engine.admit(segment(engine, job="a", index=index))
    assert engine.free == 0
    ended: list[int] = []
    while len(ended) < engine.rows:
        ended += [chunk.segment for chunk in engine.step() if chunk.last]
        assert engine.free == len(ended)
    assert sorted(ended) == list(range(engine.rows))
    assert engine.step() == []


def test_chunks_are_samples_and_the_last_is_marked_once(engine: Engine) -> None:
    for index in range(engine.rows):
        engine.admit(segment(engine, job="ab"[index % 2], index=index))
    chunks = steps_to_end(engine)
    for chunk in chunks:
        assert chunk.pcm.dtype == np.int16
        assert chunk.pcm.ndim == 1
    for index in range(engine.rows):
        parts = [chunk for chunk in chunks if chunk.segment == index]
        assert {part.job for part in parts} == {"ab"[index % 2]}
        assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
        seconds = sum(len(part.pcm) for part in parts) / engine.sample_rate
        assert 1.0 < seconds < 6.0


@pytest.mark.parametrize("after_steps", [0, 1, 2])
def test_a_dropped_job_frees_its_rows_at_once_and_nothing_more_comes(engine: Engine, after_steps: int) -> None:
    for index in range(engine.rows):
        engine.admit(segment(engine, job="gone", index=index))
    for _ in range(after_steps):
        engine.step()
    engine.drop("gone")
    assert engine.free == engine.rows
    assert engine.step() == []
    engine.admit(segment(engine, job="next"))
    assert {chunk.job for chunk in steps_to_end(engine)} == {"next"}


def test_dropping_another_job_changes_nothing(engine: Engine) -> None:
    alone = say(engine, segment(engine))
    engine.admit(segment(engine))
    engine.drop("b")
    engine.drop("nobody")
    assert engine.free == engine.rows - 1
    assert np.array_equal(np.concatenate([chunk.pcm for chunk in steps_to_end(engine)]), alone)


def test_the_same_segment_gives_the_same_samples_whatever_came_between(engine: Engine) -> None:
    first = say(engine, segment(engine))
    say(engine, segment(engine, "Something else, in between.", seed=99, speed=1.3))
    engine.admit(segment(engine, "This is given up.", job="b"))
    engine.step()
    engine.drop("b")
    again = say(engine, segment(engine, job="c", index=3))
    assert np.array_equal(first, again)


def test_the_same_segment_gives_the_same_samples_whoever_its_neighbours_are(engine: Engine) -> None:
    alone = say(engine, segment(engine))
    for neighbour in range(engine.rows - 1):
        engine.admit(segment(engine, "x" * (5 + 9 * neighbour), job="b", index=neighbour, seed=neighbour))
    assert np.array_equal(say(engine, segment(engine)), alone)


def test_another_process_with_the_same_engine_says_the_same(engine: Engine) -> None:
    other = load(engine.name, Settings(engine=engine.name))
    one = segment(engine, "Another worker takes over.")
    assert np.array_equal(say(engine, one), say(other, one))


def test_double_speed_is_clearly_shorter_and_half_speed_longer(engine: Engine) -> None:
    half, plain, double = (len(say(engine, segment(engine, speed=speed))) for speed in (0.5, 1.0, 2.0))
    assert double < 0.75 * plain
    assert half > 1.4 * plain


@pytest.mark.parametrize("text", ["1", "a", "?!1", "Ⅷ", "字", "ツ", "½", "𝒜", "مرحبا", "x" * 200, "ha " * 60])
def test_whatever_the_text_a_segment_ends(engine: Engine, text: str) -> None:
    engine.admit(segment(engine, text))
    chunks = steps_to_end(engine)
    assert [chunk.last for chunk in chunks].count(True) == 1
    assert chunks[-1].last


def test_an_engine_that_does_not_exist_is_refused_with_the_near_name() -> None:
    with pytest.raises(UnknownEngineError, match=r"no engine 'pipre' \(did you mean piper\?\)"):
        load("pipre", Settings())


@pytest.mark.parametrize("name", ["tone", "piper"])
def test_every_engine_that_a_job_may_name_can_be_loaded(name: str) -> None:
    assert loaded(name).name == name


# Tone


@pytest.mark.parametrize("speed", [0.5, 0.9, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("chars", [1, 7, 53, 200])
def test_a_tone_is_as_long_as_its_text(chars: int, speed: float) -> None:
    engine = ToneEngine()
    one = segment(engine, "x" * chars, speed=speed)
    engine.admit(one)
    chunks = steps_to_end(engine)
    assert sum(len(chunk.pcm) for chunk in chunks) == round(chars * CHAR_S / speed * engine.sample_rate)
    step_samples = round(STEP_S * engine.sample_rate)
    assert {len(chunk.pcm) for chunk in chunks[:-1]} <= {step_samples}
    assert 0 < len(chunks[-1].pcm) <= step_samples


def test_chunks_of_tone_add_up_to_the_sine() -> None:
    engine = ToneEngine()
    one = segment(engine, seed=11)
    assert np.array_equal(say(engine, one), sine(one, engine.sample_rate))


def test_a_tones_pitch_follows_from_its_seed_alone() -> None:
    engine = ToneEngine()
    low, other, high = (
        sine(segment(engine, text, seed=seed), 24_000) for text, seed in [("xx", 0), ("yy", 0), ("xx", 12)]
    )
    assert np.array_equal(low, other)
    assert not np.array_equal(low, high)
    crossings = [np.count_nonzero(np.diff(np.signbit(samples))) for samples in (low, high)]
    assert crossings[1] == pytest.approx(2 * crossings[0], abs=2)  # an octave
    assert np.abs(low).max() < FULL_SCALE / 2


def test_tone_takes_as_many_rows_as_it_is_told() -> None:
    engine = ToneEngine(rows=3)
    assert (engine.rows, engine.free) == (3, 3)


class Clock:
    """In the place of the module `time`: it passes when somebody sleeps, or when the test says so."""

    def __init__(self) -> None:
        self.now_s = 5000.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(tone, "time", clock)
    return clock


def spoken_by(voice: Voice, *, job: str = "a", text: str = SENTENCE) -> SpeechSegment:
    return SpeechSegment(job, 0, text, 0, len(text), 0.0, voice, "en", 1.0, 7)


def test_a_live_tone_takes_as_long_as_it_sounds(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(LIVE))
    samples = sum(len(chunk.pcm) for chunk in steps_to_end(engine))
    elapsed_s = clock.now_s - 5000.0
    assert elapsed_s == pytest.approx(samples / engine.sample_rate, abs=STEP_S)


def test_a_live_tone_is_not_slowed_by_what_its_caller_does_meanwhile(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(LIVE))
    engine.step()
    clock.now_s += 0.6 * STEP_S
    engine.step()
    assert clock.slept_s[-1] == pytest.approx(0.4 * STEP_S)
    clock.now_s += 3 * STEP_S
    engine.step()
    assert clock.slept_s[-1] == 0.0


def test_a_fast_tone_never_sleeps_and_a_live_neighbour_paces_it(clock: Clock) -> None:
    engine = ToneEngine()
    engine.admit(spoken_by(FAST))
    steps_to_end(engine)
    assert clock.slept_s == []
    engine.admit(spoken_by(FAST))
    engine.admit(spoken_by(LIVE, job="b"))
    for _ in range(3):
        engine.step()
    assert sum(clock.slept_s) == pytest.approx(3 * STEP_S, abs=STEP_S)


def test_both_tones_say_the_same(clock: Clock) -> None:
    del clock
    engine = ToneEngine()
    assert np.array_equal(say(engine, spoken_by(FAST)), say(engine, spoken_by(LIVE)))


# Piper


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
def test_brackets_are_text_and_not_phonemes(piper_engine: PiperEngine, text: str) -> None:
    # No voice has a phoneme "7": read as phonemes, the numbers would be silent.
    plain = len(say(piper_engine, segment(piper_engine, "1 2 3 4 5 6 7 8 9")))
    assert len(say(piper_engine, segment(piper_engine, text))) > 0.9 * plain


@pytest.mark.voice
@pytest.mark.parametrize("text", ["—", "...", "[[", "***", "\u200d", "❄"])
def test_what_cannot_be_pronounced_is_silent_or_said_and_ends(piper_engine: PiperEngine, text: str) -> None:
    piper_engine.admit(segment(piper_engine, text))
    (chunk,) = piper_engine.step()
    assert chunk.last
    assert (chunk.pcm.dtype, chunk.pcm.ndim) == (np.int16, 1)
    assert piper_engine.free == 1


@pytest.mark.voice
def test_no_sentence_is_scaled_to_full_scale(piper_engine: PiperEngine) -> None:
    texts = ["Hello.", "No.", "It was late.", SENTENCE]
    peaks = [int(np.abs(say(piper_engine, segment(piper_engine, text)).astype(int)).max()) for text in texts]
    assert all(1000 < peak < 0.97 * FULL_SCALE for peak in peaks), peaks
    assert len(set(peaks)) == len(peaks)


@pytest.mark.voice
def test_what_is_said_of_a_text_is_not_silence(piper_engine: PiperEngine) -> None:
    said = say(piper_engine, segment(piper_engine)).astype(float)
    assert np.sqrt(np.mean(said**2)) > 0.01 * FULL_SCALE


@pytest.mark.voice
@pytest.mark.parametrize("exists", [True, False])
def test_without_a_voice_piper_says_how_to_get_one(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    need_piper()
    folder = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(UnknownVoiceError, match=f"get one: voxspool-worker voices get {STARTER}$") as refused:
        PiperEngine([folder])
    assert str(folder) in str(refused.value)


def test_without_piper_its_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piper.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"worker\[piper\]'$"):
        load("piper", Settings())


def describe(folder: Path, name: str, *, model: bool = True, **changed: object) -> None:
    """Write a voice's description, and an empty file for its model: enough to be listed."""
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


def test_voices_are_listed_from_their_descriptions(tmp_path: Path) -> None:
    describe(tmp_path, "de_DE-karl-low", language={"code": "de_DE"}, audio={"sample_rate": 16_000})
    describe(tmp_path, "old", language={}, espeak={"voice": "en-gb-x-rp"})
    describe(tmp_path, "no-model", model=False)
    (tmp_path / "no-description.onnx").touch()
    found = find_voices([tmp_path])
    assert {name: voice.languages for name, (voice, _) in found.items()} == {
        "de_DE-karl-low": ("de-de",),
        "old": ("en-gb-x-rp",),
    }
    source = found["de_DE-karl-low"][1]
    assert (source.model, source.sample_rate, source.speaker) == (tmp_path / "de_DE-karl-low.onnx", 16_000, None)


@pytest.mark.voice
def test_a_voice_of_a_file_has_the_files_digest() -> None:
    engine = loaded("piper")
    assert isinstance(engine, PiperEngine)
    voice = next(iter(engine.voices.values()))
    model = engine._sources[voice.name].model
    assert engine.digest(voice) == hashlib.sha256(model.read_bytes()).hexdigest()
    assert loaded("tone").digest(FAST) == ""


def test_each_speaker_of_a_voice_is_a_voice(tmp_path: Path) -> None:
    describe(tmp_path, "choir", num_speakers=3, speaker_id_map={"anna": 0, "bert": 1, "3922": 2})
    describe(tmp_path, "solo", num_speakers=1, speaker_id_map={"only": 0})
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


def test_the_chosen_folder_comes_before_the_packaged_voice(tmp_path: Path) -> None:
    describe(tmp_path, "zoe")
    folders = voice_folders(tmp_path)
    assert folders[0] == tmp_path
    assert folders[1:] == voice_folders(None)
    assert next(iter(find_voices(folders))) == "zoe"


def copy_of_packaged_voice(folder: Path, name: str) -> None:
    """Put the packaged voice into a folder under another name."""
    need_piper()
    (source,) = (path for place in voice_folders(None) for path in place.glob("*.onnx"))
    (folder / f"{name}.onnx").symlink_to(source)
    shutil.copy(source.with_suffix(".onnx.json"), folder / f"{name}.onnx.json")


@pytest.mark.voice
def test_the_chosen_folders_voice_wins_over_the_packaged_one_of_the_same_name(tmp_path: Path) -> None:
    need_piper()
    (packaged,) = (path for place in voice_folders(None) for path in place.glob("*.onnx"))
    copy_of_packaged_voice(tmp_path, packaged.stem)
    found = find_voices(voice_folders(tmp_path))
    assert found[packaged.stem][1].model.parent == tmp_path


@pytest.mark.voice
def test_voices_of_several_sample_rates_speak_at_the_highest(tmp_path: Path) -> None:
    copy_of_packaged_voice(tmp_path, "a-low")
    config = tmp_path / "a-low.onnx.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"audio": {"sample_rate": 16_000}}))
    low = PiperEngine([tmp_path])
    spoken = say(low, segment(low))
    copy_of_packaged_voice(tmp_path, "b-medium")
    both = PiperEngine([tmp_path])
    assert (low.sample_rate, both.sample_rate, list(both.voices)) == (16_000, 22_050, ["a-low", "b-medium"])
    resampled = say(both, segment(both))
    assert len(resampled) == pytest.approx(len(spoken) * 22_050 / 16_000, abs=2)
    assert np.array_equal(say(both, segment(both)), resampled), "the same each time"
    spectrum = np.abs(np.fft.rfft(resampled.astype(float)))
    above = spectrum[round(len(spectrum) * 16_000 / 22_050) :]
    assert np.sum(above**2) < 1e-4 * np.sum(spectrum**2), "nothing is heard that the voice did not say"


def test_piper_looks_in_the_chosen_folder_or_in_the_users_own(tmp_path: Path) -> None:
    chosen, own = tmp_path / "chosen", tmp_path / "own"
    chosen.mkdir()
    packaged = voice_folders(None)
    assert voice_folders(chosen, own) == [chosen, *packaged]
    assert voice_folders(None, own) == [own, *packaged]
    assert find_voices([own]) == {}, "it need not be there"


@pytest.mark.voice
def test_a_voice_that_cannot_be_loaded_at_the_start_is_one_clear_error(tmp_path: Path) -> None:
    need_piper()
    describe(tmp_path, "de_DE-karl-low")
    with pytest.raises(CheckpointError, match=r"karl-low.onnx cannot be loaded .* voices get de_DE-karl-low$"):
        PiperEngine([tmp_path])


@pytest.mark.voice
@pytest.mark.parametrize("damage", ["empty", "gone"])
def test_a_damaged_voice_ends_its_own_segment_and_not_the_engine(tmp_path: Path, damage: str) -> None:
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
    assert len(say(engine, segment(engine, "Hello."))) > 0
