"""The entries of a stream become a file, across attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.entries import (
    begin,
    broken_stream,
    end,
    heard,
    mark,
    noise,
    pcm,
    record,
    signals,
    speech,
)
from voxspool.audio.recorder import Recorder
from voxspool.errors import OutputError, ProtocolError, StreamGapError
from voxspool.protocol.stream import Audio, Cancelled, Entry, Failed

if TYPE_CHECKING:
    from pathlib import Path


def test_a_recorder_refuses_what_check_output_refuses(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Recorder(tmp_path / "a.txt")


def test_a_recorder_ignores_failed_and_cancelled_entries(tmp_path: Path) -> None:
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


def test_the_number_of_samples_includes_held_ones_and_falls_with_a_new_attempt(tmp_path: Path) -> None:
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


@settings(max_examples=60)
@given(data=st.data(), spoken=signals)
def test_after_broken_attempts_the_file_has_the_samples_of_the_last_one(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, spoken: np.ndarray
) -> None:
    path = tmp_path_factory.mktemp("broken") / "a.wav"
    record(path, broken_stream(data, spoken, same_again=False))
    np.testing.assert_array_equal(heard(path)[0], spoken)


def test_a_stream_without_an_end_leaves_nothing(tmp_path: Path) -> None:
    *said, _ = speech(noise(0.5))
    record(tmp_path / "a.flac", said)
    assert not list(tmp_path.iterdir())
