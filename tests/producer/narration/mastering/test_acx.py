"""The rules of ACX: files that meet or break each of them, and the silence around a chapter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mutagen.mp3
import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.spoken import sine, speech, track
from voxspool.audio.encoding import Encoding
from voxspool.audio.files import Writer
from voxspool.audio.tags import Tags
from voxspool.errors import OutputError
from voxspool.narration.exports.audio_files import write_chapter
from voxspool.narration.mastering.acx import DELIVERY, AcxReport, RoomTone, check, check_book
from voxspool.narration.mastering.loudness import fit
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from pathlib import Path

RATE_HZ = 44_100


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE_HZ), np.int16)


def chapter(*, level: float = 0.13, head_s: float = 0.75, tail_s: float = 2.0, pause: np.ndarray | None = None) -> list:
    """What ACX takes, but for what the caller spoils: -20 dB, peaks at -17.7, a second of digital silence inside."""
    body = sine(4, RATE_HZ, amplitude=level * np.sqrt(2))
    return [silence(head_s), body, silence(1) if pause is None else pause, body, silence(tail_s)]


def delivered(path: Path, parts: list, *, encoding: Encoding = DELIVERY) -> Path:
    with Writer(path, RATE_HZ, encoding=encoding) as writer:
        writer.write(np.concatenate(parts))
        writer.finish()
    return path


def failing(report: AcxReport) -> set[str]:
    return {row.rule for row in report.rows if not row.passed}


def value(report: AcxReport, rule: str) -> float:
    return next(row.value for row in report.rows if row.rule == rule)


def test_a_file_that_meets_every_rule_passes_with_the_measured_values(tmp_path: Path) -> None:
    report = check(delivered(tmp_path / "a.mp3", chapter()))
    assert report.passed, report.rows
    assert value(report, "RMS") == pytest.approx(-19.5, abs=0.5)
    assert value(report, "peak") == pytest.approx(-14.9, abs=0.2)  # LAME takes 0.3 dB
    assert value(report, "noise floor") < -90
    assert value(report, "silence before") == pytest.approx(0.75, abs=0.03)
    assert value(report, "silence after") == pytest.approx(2.0, abs=0.03)
    assert value(report, "bit rate") == 192
    assert value(report, "length") == pytest.approx(11.75 / 60, abs=0.001)


@pytest.mark.parametrize(("rate_hz", "channels"), [(44_100, 9), (2**30, 1), (10, 1)])
def test_a_file_that_cannot_be_an_audiobook_is_refused_by_its_header(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    sf.write(tmp_path / "a.wav", np.zeros((100, channels)), rate_hz)
    with pytest.raises(OutputError, match=rf"it has {channels} channels at {rate_hz} Hz; convert it to one channel"):
        check(tmp_path / "a.wav")


def spike() -> list:
    parts = chapter()
    parts[1] = parts[1].copy()
    parts[1][RATE_HZ : RATE_HZ + 400] = sine(0.1, RATE_HZ, amplitude=0.9)[:400]
    return parts


@pytest.mark.parametrize(
    ("rule", "parts"),
    [
        ("RMS", chapter(level=0.05)),
        ("RMS", chapter(level=0.2)),
        ("peak", spike()),
        ("noise floor", [*chapter()[:2], sine(5, RATE_HZ, amplitude=0.004), silence(0.2), *chapter()[3:]]),
        ("silence before", chapter(head_s=0.3)),
        ("silence before", chapter(head_s=1.2)),
        ("silence after", chapter(tail_s=0.8)),
        ("silence after", chapter(tail_s=5.5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_breaks_one_rule_fails_only_that_rule(tmp_path: Path, rule: str, parts: list) -> None:
    if rule == "noise floor":  # hiss everywhere, also where it should be quiet
        hiss = np.random.default_rng(1).normal(0, 60, sum(map(len, parts))).astype(np.int16)
        report = check(delivered(tmp_path / "a.mp3", [np.concatenate(parts) + hiss]))
        assert value(report, "noise floor") == pytest.approx(-55.3, abs=0.5)
        # Such room tone is heard, so by the same limit there is no silence around the chapter.
        assert failing(report) == {"noise floor", "silence before", "silence after"}
    else:
        assert failing(check(delivered(tmp_path / "a.mp3", parts))) == {rule}


def test_a_chapter_of_over_two_hours_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with Writer(path, 8_000) as writer:
        for _ in range(121):
            writer.write(np.zeros(8_000 * 60, np.int16))
        writer.finish()
    report = check(path)
    assert "length" in failing(report)
    assert value(report, "length") == 121


def test_another_sample_rate_fails(tmp_path: Path) -> None:
    path = delivered(tmp_path / "a.mp3", chapter(), encoding=Encoding(rate_hz=48_000, constant_kbit_s=192))
    assert failing(check(path)) == {"sample rate"}


@pytest.mark.parametrize("kbit_s", [128, 160])
def test_a_low_bit_rate_fails(tmp_path: Path, kbit_s: int) -> None:
    report = check(delivered(tmp_path / "a.mp3", chapter(), encoding=Encoding(constant_kbit_s=kbit_s)))
    assert failing(report) == {"bit rate"}
    assert value(report, "bit rate") == kbit_s


def test_a_bit_rate_that_changes_fails(tmp_path: Path) -> None:
    report = check(delivered(tmp_path / "a.mp3", chapter(), encoding=Encoding()))
    assert "different bit rates" in failing(report)
    assert value(report, "different bit rates") > 1


def test_a_file_that_is_not_mp3_fails_the_bit_rate_rules(tmp_path: Path) -> None:
    assert failing(check(delivered(tmp_path / "a.flac", chapter(), encoding=Encoding()))) == {
        "bit rate",
        "different bit rates",
    }


def test_one_chapter_in_stereo_among_mono_fails(tmp_path: Path) -> None:
    mono = delivered(tmp_path / "a.mp3", chapter())
    pcm = np.concatenate(chapter()) / np.float32(32_768)  # floats: libsndfile 1.2.2 spoils int16 in stereo
    stereo = tmp_path / "b.mp3"
    with sf.SoundFile(stereo, "w", RATE_HZ, 2, format="MP3", bitrate_mode="CONSTANT", compression_level=0.3) as file:
        for start in range(0, len(pcm), 16_384):
            file.write(np.stack([pcm, pcm], axis=1)[start : start + 16_384])
    assert check(stereo).passed, check(stereo).rows
    assert [failing(report) for report in check_book([mono, stereo])] == [set(), {"channels"}]
    assert [failing(report) for report in check_book([stereo, stereo])] == [set(), set()]
    assert check_book([]) == ()


def test_silence_has_no_level_and_does_not_pass(tmp_path: Path) -> None:
    report = check(delivered(tmp_path / "a.mp3", [silence(3)]))
    assert value(report, "RMS") == -120
    assert failing(report) == {"RMS", "silence before"}


def test_a_file_without_audio_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_text("no audio")
    with pytest.raises(OutputError, match=r"cannot check .*a\.mp3"):
        check(tmp_path / "a.mp3")


def test_every_chapter_of_a_book_made_for_acx_passes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    tracks = [
        track(store, n, [speech(9, 22_050, rms=0.03, seed=n), speech(9, 22_050, rms=0.03, seed=n + 5)]) for n in (1, 2)
    ]
    _, gain = fit("acx", tracks, store)
    paths = [tmp_path / f"{each.number}.mp3" for each in tracks]
    for each, path in zip(tracks, paths, strict=True):
        write_chapter(each, store, [path], tags=Tags(title=each.title), gain=gain)
    for report in check_book(paths):
        assert report.passed, report.rows
    info = mutagen.mp3.MP3(paths[0]).info
    assert (info.sample_rate, info.bitrate // 1000, info.bitrate_mode) == (44_100, 192, mutagen.mp3.BitrateMode.CBR)


@settings(max_examples=30)
@given(
    head=st.integers(0, 30_000),
    tail=st.integers(0, 60_000),
    sizes=st.lists(st.integers(1, 9_000), max_size=20),
    pause=st.integers(0, 40_000),
)
def test_a_chapter_gets_the_required_silence_and_loses_no_speech(
    head: int, tail: int, pause: int, sizes: list[int]
) -> None:
    rate_hz = 22_050
    body = np.concatenate(
        [sine(0.5, rate_hz, phase=1.0), np.zeros(pause, np.int16), sine(0.5, rate_hz, phase=1.0) + 100]
    )
    pcm = np.concatenate([np.zeros(head, np.int16), body, np.zeros(tail, np.int16)])
    room = RoomTone(rate_hz)
    bounds = [bound for bound in np.cumsum(sizes).tolist() if bound < len(pcm)]
    out = np.concatenate([*(room.feed(block) for block in np.split(pcm, bounds)), room.finish()])
    heard = np.flatnonzero(out)
    assert np.array_equal(out[heard[0] : heard[-1] + 1], body)
    window = round(0.01 * rate_hz)
    assert heard[0] == pytest.approx(0.75 * rate_hz, abs=window)
    assert len(out) - heard[-1] == pytest.approx(2.0 * rate_hz, abs=window)


def test_a_chapter_of_silence_alone_stays_silence() -> None:
    room = RoomTone(22_050)
    out = np.concatenate([room.feed(np.zeros(100_000, np.int16)), room.finish()])
    assert len(out) == 2 * 22_050
    assert not out.any()
