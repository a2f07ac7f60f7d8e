"""The audio files of a chapter: samples, tags, failures that leave no file, memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import mutagen
import numpy as np
import pytest
import soundfile as sf

from tests.support.full_disk import room_for
from tests.support.spoken import sine, speech, track
from voxspool.audio.files import Writer
from voxspool.audio.tags import Tags
from voxspool.errors import OutputError, StoreError
from voxspool.narration.exports.audio_files import write_chapter
from voxspool.narration.mastering.master import Gain, master
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from pathlib import Path

    from voxspool.narration.track import Track

RATE_HZ = 22_050
TAGS = Tags("Über den Fluß – 河", "the authors of voxspool", "The Book 本", 3, 12, "1902", "Audiobook")
SUFFIXES = (".flac", ".wav", ".mp3", ".opus")
LOUDER = Gain("podcast", 12.0, -1.7)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def chapter(store: Store) -> Track:
    return track(store, 3, [speech(2, RATE_HZ, seed=1), sine(1, RATE_HZ), speech(2, RATE_HZ, seed=2)])


def whole(chapter: Track, store: Store, gain: Gain | None = None) -> np.ndarray:
    return np.concatenate(list(master(chapter, store, gain)))


@pytest.mark.parametrize("suffix", [".flac", ".wav"])
def test_without_a_gain_a_lossless_file_contains_the_samples_as_spoken(
    tmp_path: Path, store: Store, chapter: Track, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    write_chapter(chapter, store, [path], tags=TAGS)
    pcm, rate_hz = sf.read(path, dtype="int16")
    assert rate_hz == RATE_HZ
    assert np.array_equal(pcm, np.concatenate(list(chapter.audio(store))))


def test_with_a_gain_every_file_contains_the_same_louder_samples(tmp_path: Path, store: Store, chapter: Track) -> None:
    paths = [tmp_path / f"a{suffix}" for suffix in SUFFIXES]
    write_chapter(chapter, store, paths, tags=TAGS, gain=LOUDER)
    louder = whole(chapter, store, LOUDER)
    assert len(louder) == chapter.samples
    for path in paths:
        pcm, rate_hz = sf.read(path)
        assert len(pcm) / rate_hz == pytest.approx(chapter.duration_s, abs=0.001), path
        assert np.sqrt(np.mean(pcm**2)) == pytest.approx(np.sqrt(np.mean((louder / 32_768) ** 2)), rel=0.02), path
        assert np.abs(pcm).max() < 1, path  # a lossy codec goes over what it is given
    assert np.array_equal(sf.read(paths[0], dtype="int16")[0], louder)


def test_every_file_has_its_tags_in_any_script(tmp_path: Path, store: Store, chapter: Track) -> None:
    paths = {suffix: tmp_path / f"a{suffix}" for suffix in SUFFIXES}
    write_chapter(chapter, store, list(paths.values()), tags=TAGS)
    for suffix in (".flac", ".opus"):
        tags = mutagen.File(paths[suffix]).tags
        for name, said in TAGS.named().items():
            assert tags[name] == [said], (suffix, name)
    mp3 = mutagen.File(paths[".mp3"])
    frames = {"TIT2": "title", "TPE1": "artist", "TALB": "album", "TRCK": "tracknumber", "TCON": "genre"}
    assert {name: str(mp3.tags[name]) for name in frames} == {n: TAGS.named()[word] for n, word in frames.items()}
    assert str(mp3.tags["TDRC"]) == "1902"
    assert mp3.info.length == pytest.approx(chapter.duration_s, abs=0.05)
    assert sf.SoundFile(paths[".wav"]).title == TAGS.title


def test_empty_tags_are_left_out(tmp_path: Path, store: Store, chapter: Track) -> None:
    write_chapter(chapter, store, [tmp_path / "a.flac", tmp_path / "a.mp3"], tags=Tags(title="A\0B\ud800"))
    assert mutagen.File(tmp_path / "a.flac").tags.pprint() == "title=AB"
    assert str(mutagen.File(tmp_path / "a.mp3").tags["TIT2"]) == "AB"
    write_chapter(chapter, store, [tmp_path / "b.mp3"], tags=Tags())
    assert mutagen.File(tmp_path / "b.mp3").tags is None


def test_a_lost_segment_leaves_no_new_file_and_the_older_ones_unchanged(
    tmp_path: Path, store: Store, chapter: Track
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.flac").write_bytes(b"older")
    lost = chapter.cues[1].stored
    assert lost is not None
    (audio,) = (tmp_path / "store" / lost.key[:2]).glob(f"{lost.key}.*.flac")
    audio.unlink()
    with pytest.raises(StoreError, match=lost.key):
        write_chapter(chapter, store, [folder / "a.flac", folder / "a.mp3"], tags=TAGS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.flac": b"older"}


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path: Path, store: Store, chapter: Track) -> None:
    with pytest.raises(OutputError, match=r"a\.aiff has no suffix of an audio file"):
        write_chapter(chapter, store, [tmp_path / "a.flac", tmp_path / "a.aiff"], tags=TAGS)
    assert not list(tmp_path.glob("*a.*"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(
    tmp_path: Path, store: Store, chapter: Track, suffix: str
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with room_for(3_000), pytest.raises(OutputError, match=rf"cannot write .*a\{suffix}"):
        write_chapter(chapter, store, [folder / f"a{suffix}"], tags=TAGS)
    assert not list(folder.iterdir())


def test_the_file_of_a_chapter_without_speech_can_be_opened(tmp_path: Path, store: Store) -> None:
    paths = [tmp_path / f"a{suffix}" for suffix in SUFFIXES]
    write_chapter(track(store, 1, []), store, paths, tags=TAGS, gain=LOUDER)
    for path in paths:
        assert np.abs(sf.read(path)[0]).max(initial=0) < 0.001, path


def test_a_wav_of_more_than_4_gb_has_sizes_of_64_bits(tmp_path: Path) -> None:
    with Writer(tmp_path / "a.wav", RATE_HZ, samples=2**31) as writer:
        writer.write(sine(1, RATE_HZ))
        writer.finish()
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RF64"
    assert np.array_equal(sf.read(tmp_path / "a.wav", dtype="int16")[0], sine(1, RATE_HZ))


_PEAK = """
import resource, sys
from pathlib import Path
from voxspool.narration.exports.audio_files import write_chapter
from voxspool.narration.mastering.loudness import fit
from voxspool.narration.mastering.master import Gain
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import Store
from voxspool.audio.tags import Tags
store, key, segments, out = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
stored = store.find(key)
cues = [Cue(0, 0, 1, "a", "a", n * stored.samples, (n + 1) * stored.samples, stored) for n in range(segments)]
chapter = Track(1, "a", stored.sample_rate, tuple(cues))
fit("podcast", [chapter], store)
write_chapter(chapter, store, [out / "a.flac", out / "a.mp3"], tags=Tags(), gain=Gain("podcast", 9.0, -1.7))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // 1024 if sys.platform == "darwin" else peak)  # macOS counts bytes, Linux KiB
"""


def test_memory_does_not_grow_with_the_length_of_a_chapter(tmp_path: Path, store: Store) -> None:
    stored = track(store, 1, [speech(10, RATE_HZ)]).cues[0].stored
    assert stored is not None

    def peak_kb(segments: int) -> int:
        arguments = [str(tmp_path / "store"), stored.key, str(segments), str(tmp_path)]
        run = subprocess.run([sys.executable, "-c", _PEAK, *arguments], check=False, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    # Two minutes more: 5.8 MB as int16, four times that as floats.
    assert peak_kb(14) - peak_kb(2) < 4_000
