from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import types
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.full_disk import room_for
from voxspool.audio import files
from voxspool.audio.encoding import LEAST_SILENCE_S
from voxspool.audio.files import SUFFIXES, check_output
from voxspool.audio.playback import Playhead, play
from voxspool.audio.recorder import Recorder
from voxspool.errors import MissingExtraError, OutputError, ProtocolError, StreamGapError
from voxspool.hints import install_command
from voxspool.protocol.stream import Audio, Begin, Cancelled, End, Entry, Failed, Mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOSSLESS = (".wav", ".flac")
LOSSY = (".mp3", ".ogg", ".opus")
RATES_HZ = (22_050, 24_000)  # Piper's and XTTS's


def begin(pos: int = 0, rate_hz: int = 24_000) -> Begin:
    return Begin(pos, rate_hz, "tone", "tone", "a", "en", 0)


def mark(pos: int, end_pos: int) -> Mark:
    return Mark(pos, end_pos, 0, 0, 1, 0)


def end(pos: int) -> End:
    return End(pos, pos / 24_000, 1, None, None)


def pcm(samples: np.ndarray) -> bytes:
    return samples.astype("<i2").tobytes()


def tone(seconds: float, rate_hz: int) -> np.ndarray:
    t = np.arange(int(seconds * rate_hz)) / rate_hz
    swell = np.sin(np.pi * t / seconds)  # a length that is off shows as a shifted hill
    return (12_000 * swell * np.sin(2 * np.pi * 440 * t)).astype(np.int16)


def noise(seconds: float, rate_hz: int = 24_000) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 6_000, int(seconds * rate_hz)).clip(-30_000, 30_000).astype(np.int16)


def speech(samples: np.ndarray, rate_hz: int = 24_000, segment: int = 24_000) -> Iterator[Entry]:
    """A stream without a break: segments of two chunks."""
    yield begin(rate_hz=rate_hz)
    for start in range(0, len(samples), segment):
        part = samples[start : start + segment]
        half = len(part) // 2
        yield Audio(start, pcm(part[:half]))
        yield Audio(start + half, pcm(part[half:]))
        yield mark(start, start + len(part))
    yield end(len(samples))


def record(path: Path, entries: Iterable[Entry]) -> Recorder:
    with Recorder(path) as recorder:
        for entry in entries:
            recorder.add(entry)
    return recorder


def heard(path: Path) -> tuple[np.ndarray, int]:
    samples, rate_hz = sf.read(path, dtype="int16")
    return samples, rate_hz


# Where a speech may go


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".WAV", ".Opus"])
def test_a_known_suffix_in_a_folder_is_accepted_and_nothing_is_created(tmp_path: Path, suffix: str) -> None:
    check_output(tmp_path / f"a{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.m4b", "a", "a.wav.txt", ".wav"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.wav, \.flac, \.mp3, \.ogg, \.opus") as raised:
        check_output(tmp_path / name)
    assert raised.value.wrong_value


def test_a_format_that_ffmpeg_makes_is_refused_with_the_command(tmp_path: Path) -> None:
    wanted = tmp_path / "my song.aac"
    command = shlex.join(["ffmpeg", "-i", str(wanted.with_suffix(".flac")), str(wanted)])
    with pytest.raises(OutputError, match=re.escape(f".opus, or write {wanted.with_suffix('.flac')}") + ".*") as raised:
        check_output(wanted)
    assert str(raised.value).endswith(f"convert it: {command}")


def test_a_missing_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"no folder .*missing; create it"):
        check_output(tmp_path / "missing" / "a.wav")


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        check_output(tmp_path / "file" / "a.wav")


def test_a_folder_with_a_files_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file in it"):
        check_output(tmp_path / "a.wav")


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="is not a file"):
        check_output(tmp_path / "a.wav")


def test_a_folder_without_the_right_to_write_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs the tests, may write anywhere
    with pytest.raises(OutputError, match="no right to create files"):
        check_output(tmp_path / "a.wav")


def test_a_name_that_no_file_can_have_is_refused_before_anything_is_spoken(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="name too long"):
        check_output(tmp_path / ("a" * 300 + ".wav"))


def test_a_ring_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="symbolic links"):
        check_output(tmp_path / "a.wav")


def test_a_recorder_refuses_what_check_output_refuses(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Recorder(tmp_path / "a.txt")


# What is in the file


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("suffix", LOSSLESS)
def test_wav_and_flac_hold_the_very_samples(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    spoken = np.concatenate([noise(2.3, rate_hz), np.array([-32_768, 32_767, 0, 1, -1], np.int16)])
    path = tmp_path / f"a{suffix}"
    recorder = record(path, speech(spoken, rate_hz))
    samples, file_rate_hz = heard(path)
    assert file_rate_hz == rate_hz == recorder.sample_rate
    assert recorder.samples == len(spoken)
    np.testing.assert_array_equal(samples, spoken)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("suffix", LOSSY)
def test_a_lossy_file_lasts_as_long_and_sounds_alike(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"a{suffix}"
    record(path, speech(tone(3.3, rate_hz), rate_hz))
    samples, file_rate_hz = heard(path)
    assert file_rate_hz == (24_000 if suffix == ".opus" else rate_hz)
    expected = tone(3.3, file_rate_hz)
    assert abs(len(samples) - len(expected)) <= 2  # a rounded resampling; the codecs' own padding is cut by libsndfile
    both = min(len(samples), len(expected))
    assert np.corrcoef(samples[:both], expected[:both])[0, 1] > 0.99
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.05)


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "file_rate_hz"),
    [(".opus", 16_000, 16_000), (".opus", 44_100, 48_000), (".opus", 96_000, 48_000), (".mp3", 13_000, 16_000)],
)
def test_a_rate_the_codec_does_not_take_goes_to_the_next_higher(
    tmp_path: Path, suffix: str, rate_hz: int, file_rate_hz: int
) -> None:
    path = tmp_path / f"a{suffix}"
    record(path, speech(tone(1, rate_hz), rate_hz))
    samples, got_hz = heard(path)
    assert got_hz == file_rate_hz
    assert len(samples) / got_hz == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("suffix", LOSSY)
def test_a_segment_of_two_minutes_does_not_break_the_encoder(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"  # libsndfile 1.2.2 dies of it, where it is given as one block of Vorbis
    record(path, speech(np.zeros(120 * 24_000, np.int16), segment=120 * 24_000))
    assert sf.info(path).frames == 120 * 24_000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_an_empty_speech_is_a_file_that_opens(tmp_path: Path, suffix: str, rate_hz: int) -> None:
    path = tmp_path / f"a{suffix}"
    recorder = record(path, [begin(rate_hz=rate_hz), end(0)])
    samples, file_rate_hz = heard(path)
    assert recorder.samples == 0
    assert not samples.any()
    assert len(samples) == (0 if suffix in (".wav", ".ogg") else int(LEAST_SILENCE_S * file_rate_hz))


def test_a_speech_of_one_sample_is_kept(tmp_path: Path) -> None:
    for suffix in LOSSLESS:
        record(tmp_path / f"a{suffix}", speech(np.array([7], np.int16)))
        assert heard(tmp_path / f"a{suffix}")[0].tolist() == [7]


def test_failed_and_cancelled_are_left_to_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    entries: list[Entry] = [begin(), Failed(0, "x", "y", retryable=False), Cancelled(0, "me")]
    record(path, entries)
    assert not list(tmp_path.iterdir())


# Resuming


def test_a_new_attempt_replaces_the_segment_that_was_not_finished(tmp_path: Path) -> None:
    said, cut_off, again = noise(3)[:2_000], np.full(700, 99, np.int16), np.full(900, -5, np.int16)
    entries: list[Entry] = [begin(), Audio(0, pcm(said)), mark(0, 2_000), Audio(2_000, pcm(cut_off))]
    entries += [begin(2_000), Audio(2_000, pcm(again)), mark(2_000, 2_900), end(2_900)]
    path = tmp_path / "a.wav"
    record(path, entries)
    np.testing.assert_array_equal(heard(path)[0], np.concatenate([said, again]))


def test_samples_counts_what_is_held_and_goes_back_with_a_new_attempt(tmp_path: Path) -> None:
    with Recorder(tmp_path / "a.wav") as recorder:
        assert (recorder.samples, recorder.sample_rate) == (0, None)
        recorder.add(begin(rate_hz=22_050))
        recorder.add(Audio(0, bytes(20)))
        assert (recorder.samples, recorder.sample_rate) == (10, 22_050)
        recorder.add(mark(0, 10))
        recorder.add(Audio(10, bytes(20)))
        assert recorder.samples == 20
        recorder.add(begin(10, 22_050))
        assert recorder.samples == 10


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([begin(), Audio(1, bytes(2))], StreamGapError),
        ([begin(), Audio(0, bytes(4)), Audio(1, bytes(2))], StreamGapError),
        ([begin(), mark(0, 5)], StreamGapError),
        ([begin(), Audio(0, bytes(4)), end(3)], StreamGapError),
        ([begin(), Audio(0, bytes(4)), end(1)], StreamGapError),
        ([begin(5)], StreamGapError),
        ([Audio(0, bytes(4))], StreamGapError),
        ([end(0)], StreamGapError),
        ([begin(), Audio(0, bytes(4)), mark(0, 2), begin(1)], ProtocolError),
        ([begin(), begin(rate_hz=22_050)], ProtocolError),
    ],
)
def test_entries_that_do_not_join_are_refused_and_leave_no_file(
    tmp_path: Path, entries: list[Entry], error: type[Exception]
) -> None:
    with pytest.raises(error):
        record(tmp_path / "a.wav", entries)
    assert not list(tmp_path.iterdir())


def test_nothing_may_follow_the_end_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with pytest.raises(ProtocolError, match="follows the end"):
        record(path, [*speech(noise(0.1)), begin()])
    assert len(heard(path)[0]) == 2_400


def chunks(data: st.DataObject, start: int, samples: np.ndarray) -> list[Entry]:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(samples)), max_size=3)) | {0, len(samples)})
    return [Audio(start + a, pcm(samples[a:b])) for a, b in pairwise(cuts)]


def broken_stream(data: st.DataObject, signal_: np.ndarray, *, same_again: bool) -> Iterator[Entry]:
    """A stream of several attempts. Where not `same_again`, an attempt that broke off said other samples."""
    borders = sorted(data.draw(st.sets(st.integers(0, len(signal_)), max_size=4)) | {0, len(signal_)})
    yield begin()
    for start, stop in pairwise(borders):
        segment = signal_[start:stop]
        for _ in range(data.draw(st.integers(0, 2), label="crashes")):
            said = chunks(data, start, segment if same_again else ~segment)
            yield from said[: data.draw(st.integers(0, len(said)), label="said before the crash")]
            yield begin(start)
        yield from chunks(data, start, segment)
        yield mark(start, stop)
    yield end(len(signal_))


signals = st.binary(max_size=400).map(lambda raw: np.frombuffer(raw[: len(raw) // 2 * 2], "<i2"))


@settings(max_examples=60)
@given(data=st.data(), spoken=signals)
def test_however_attempts_break_off_the_file_holds_the_last_ones_samples(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, spoken: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("broken") / "a.wav"
    record(path, broken_stream(data, spoken, same_again=False))
    np.testing.assert_array_equal(heard(path)[0], spoken)


@settings(max_examples=100)
@given(data=st.data(), spoken=signals)
def test_however_attempts_break_off_a_listener_hears_each_sample_once(data: st.DataObject, spoken: np.ndarray) -> None:
    playhead = Playhead()
    got = b"".join(playhead.feed(entry) for entry in broken_stream(data, spoken, same_again=True))
    assert got == pcm(spoken)
    assert playhead.given_samples == len(spoken)


def test_a_playhead_cuts_overlap_to_the_sample() -> None:
    playhead = Playhead()
    assert playhead.feed(begin()) == b""
    assert playhead.feed(Audio(0, b"aabbcc")) == b"aabbcc"
    assert playhead.feed(begin()) == b""
    assert playhead.feed(Audio(0, b"aabb")) == b""
    assert playhead.feed(Audio(2, b"ccddee")) == b"ddee"
    assert playhead.given_samples == 5
    assert playhead.feed(Failed(99, "x", "y", retryable=False)) == b""


@pytest.mark.parametrize("entry", [Audio(3, b"aa"), begin(3), end(3)])
def test_a_playhead_refuses_to_jump_over_missing_audio(entry: Entry) -> None:
    playhead = Playhead()
    playhead.feed(begin())
    playhead.feed(Audio(0, b"aabb"))
    with pytest.raises(StreamGapError, match="sample 3 and 2"):
        playhead.feed(entry)


# All or nothing


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_broken_recording_leaves_an_older_file_untouched_and_no_part(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"older")

    def broken() -> Iterator[Entry]:
        *said, _ = speech(noise(0.5))
        yield from said
        raise error

    with pytest.raises(error):
        record(path, broken())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_stream_without_an_end_leaves_nothing(tmp_path: Path) -> None:
    *said, _ = speech(noise(0.5))
    record(tmp_path / "a.flac", said)
    assert not list(tmp_path.iterdir())


def test_until_the_end_only_a_hidden_part_lies_beside_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with Recorder(path) as recorder:
        *said, last = speech(noise(0.5))
        for entry in said:
            recorder.add(entry)
        (part,) = tmp_path.iterdir()
        assert part.name.startswith(f".a.flac.{os.getpid()}-")
        assert part.name.endswith(".part")
        recorder.add(last)
        assert list(tmp_path.iterdir()) == [path]


def test_a_finished_file_takes_the_older_ones_place_and_stays_if_the_caller_then_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"older")

    def broken_after_the_end() -> Iterator[Entry]:
        yield from speech(noise(0.1))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        record(path, broken_after_the_end())
    assert len(heard(path)[0]) == 2_400


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        record(tmp_path / "a.wav", speech(noise(0.1)))
    finally:
        os.umask(mask)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link_and_its_target_gets_the_speech(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "a.wav", tmp_path / "there" / "b.wav"
    link.symlink_to(target)
    record(link, speech(noise(0.1)))
    assert link.is_symlink()
    assert len(heard(target)[0]) == 2_400


def test_a_name_as_long_as_the_file_system_allows_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / ("音" * 83 + ".wav")
    record(path, speech(noise(0.1)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("missing", [1, 3_000, 60_000])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_up_is_an_error_even_by_one_byte_and_leaves_no_file(
    tmp_path: Path, suffix: str, missing: int
) -> None:
    path = tmp_path / f"a{suffix}"
    spoken = noise(8)
    record(path, speech(spoken))
    size_bytes = path.stat().st_size
    path.unlink()
    with room_for(max(0, size_bytes - missing)), pytest.raises(OutputError, match=r"a\.\w+: File too large"):
        record(path, speech(spoken))
    assert not list(tmp_path.iterdir())
    with room_for(size_bytes):
        record(path, speech(spoken))
    assert path.stat().st_size == size_bytes


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_has_room_again_later_does_not_hide_the_hole(tmp_path: Path, suffix: str) -> None:
    # More than Python keeps in a buffer, 128 KiB from 3.14 on: what is still there meets no full disk.
    *said, last = speech(noise(60))
    recorder = Recorder(tmp_path / f"a{suffix}")

    def record_on_a_disk_that_is_full_for_a_while() -> None:
        with room_for(4_096):
            for entry in said:
                recorder.add(entry)
        recorder.add(last)

    with recorder, pytest.raises(OutputError, match="File too large"):
        record_on_a_disk_that_is_full_for_a_while()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_vanishes_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    recorder = Recorder(folder / "a.wav")
    folder.rmdir()
    with recorder, pytest.raises(OutputError, match=r"a\.wav: No such file"):
        recorder.add(begin())


def test_a_sample_rate_that_libsndfile_refuses_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="libsndfile"):
        record(tmp_path / "a.flac", [begin(rate_hz=10**9)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", LOSSY)
def test_an_interrupt_amid_encoding_is_raised_and_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted_stream() -> Iterator[Entry]:
        spoken = noise(20)
        yield begin()
        yield Audio(0, pcm(spoken))
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        yield mark(0, len(spoken))

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            record(tmp_path / f"a{suffix}", interrupted_stream())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert not list(tmp_path.iterdir())


# The loudspeaker


class Loudspeaker(types.ModuleType):
    """Stands in for sounddevice: a machine that runs tests has no loudspeaker."""

    class PortAudioError(Exception):
        pass

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("sounddevice")
        self.played = b""
        self.calls: list[object] = []
        self.broken = broken

    def RawOutputStream(self, *, samplerate: int, channels: int, dtype: str) -> Loudspeaker:  # noqa: N802
        if self.broken:
            raise self.PortAudioError("Error querying device -1")
        self.calls.append((samplerate, channels, dtype))
        return self

    def write(self, data: bytes) -> None:
        assert 0 < len(data) <= 4_800
        self.played += data

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def loudspeaker(monkeypatch: pytest.MonkeyPatch) -> Loudspeaker:
    module = Loudspeaker()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_the_loudspeaker_plays_each_sample_once_and_to_the_end(loudspeaker: Loudspeaker) -> None:
    spoken = noise(1)
    entries: list[Entry] = [
        begin(),
        Audio(0, pcm(spoken[:9_000])),
        begin(),
        Audio(0, pcm(spoken)),
        mark(0, 24_000),
        end(24_000),
    ]
    play(entries)
    assert loudspeaker.played == pcm(spoken)
    assert loudspeaker.calls == [(24_000, 1, "int16"), "start", "stop", "close"]


def test_the_loudspeaker_is_closed_when_the_stream_breaks(loudspeaker: Loudspeaker) -> None:
    with pytest.raises(StreamGapError):
        play([begin(), Audio(5, bytes(2))])
    assert loudspeaker.calls[-2:] == ["start", "close"]


def test_a_stream_cancelled_before_it_began_opens_no_loudspeaker(loudspeaker: Loudspeaker) -> None:
    play([Cancelled(0, "me")])
    assert loudspeaker.calls == []


def test_audio_without_a_begin_is_not_played(loudspeaker: Loudspeaker) -> None:
    with pytest.raises(StreamGapError, match="before any begin"):
        play([Audio(0, bytes(2))])
    assert loudspeaker.calls == []


def test_without_sounddevice_the_install_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    command = re.escape(install_command("voxspool", "play"))
    with pytest.raises(MissingExtraError, match=rf"sounddevice; install it with: {command}; or write a file instead$"):
        play([begin()])


def test_without_portaudio_the_system_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    with pytest.raises(
        OutputError, match=r"needs PortAudio; install it: sudo apt install libportaudio2 .*write a file"
    ):
        play([begin()])


def test_a_machine_without_a_loudspeaker_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Loudspeaker(broken=True))
    said = r"no loudspeaker that works \(Error querying device -1\); write a file instead$"
    with pytest.raises(OutputError, match=said):
        play([begin()])


def test_neither_sounddevice_nor_soxr_is_imported_before_it_is_needed() -> None:
    code = "import sys, voxspool.audio.playback; print(sorted({'soxr', 'sounddevice'} & set(sys.modules)))"
    folder = Path(files.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
