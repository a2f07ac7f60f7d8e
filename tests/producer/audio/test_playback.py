"""Each sample is heard once; the loudspeaker plays them."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.entries import (
    begin,
    broken_stream,
    end,
    mark,
    noise,
    pcm,
    signals,
)
from voxspool.audio import files
from voxspool.audio.playback import Playhead, play
from voxspool.errors import MissingExtraError, OutputError, StreamGapError
from voxspool.hints import install_command
from voxspool.protocol.stream import Audio, Cancelled, Entry, Failed

if TYPE_CHECKING:
    import numpy as np


@settings(max_examples=100)
@given(data=st.data(), spoken=signals)
def test_after_broken_attempts_a_listener_has_heard_each_sample_once(data: st.DataObject, spoken: np.ndarray) -> None:
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


@pytest.mark.parametrize("rate_hz", [1, 2**31, 2**40])
def test_a_sample_rate_that_no_speech_has_opens_no_loudspeaker(loudspeaker: Loudspeaker, rate_hz: int) -> None:
    with pytest.raises(OutputError, match=rf"a sample rate of {rate_hz} Hz cannot be played"):
        play([begin(rate_hz=rate_hz), Audio(0, b"\0\0")])
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


def test_a_machine_without_a_loudspeaker_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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
