"""The bit rates of an MP3, compared with mutagen's parser of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mutagen.mp3
import numpy as np
import pytest

from voxspool.audio.encoding import Encoding
from voxspool.audio.files import Writer
from voxspool.audio.tags import Tags
from voxspool.narration.mastering.mp3_frames import bit_rates_kbit_s

if TYPE_CHECKING:
    from pathlib import Path


def written(
    path: Path, rate_hz: int = 44_100, *, kbit_s: int | None = None, seconds: float = 1.0, tags: Tags | None = None
) -> Path:
    """Write noise that grows louder: at a bit rate of the codec's choice it needs more and more bits."""
    pcm = np.random.default_rng(1).normal(0, 1, round(seconds * rate_hz)) * np.linspace(
        0, 9000, round(seconds * rate_hz)
    )
    with Writer(path, rate_hz, encoding=Encoding(constant_kbit_s=kbit_s), tags=tags) as writer:
        writer.write(pcm.clip(-32_768, 32_767).astype(np.int16))
        writer.finish()
    return path


def by_mutagen(path: Path) -> set[int]:
    """Return the bit rates that mutagen finds, frame by frame; it takes the first one's from the encoder's notes."""
    found = set()
    with path.open("rb") as file:
        first = mutagen.mp3.MPEGFrame(file)
        assert not first.sketchy, "the encoder's notes are in the first frame"
        try:
            while True:
                found.add(mutagen.mp3.MPEGFrame(file).bitrate // 1000)
        except mutagen.mp3.HeaderNotFoundError:
            return found


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_every_version_of_mpeg_is_read(tmp_path: Path, rate_hz: int) -> None:
    path = written(tmp_path / "a.mp3", rate_hz)
    assert bit_rates_kbit_s(path) == by_mutagen(path)


@pytest.mark.parametrize("kbit_s", [64, 128, 192, 320])
def test_a_constant_bit_rate_is_one(tmp_path: Path, kbit_s: int) -> None:
    assert bit_rates_kbit_s(written(tmp_path / "a.mp3", kbit_s=kbit_s)) == {kbit_s}


def test_a_file_that_changes_its_bit_rate_late_has_both(tmp_path: Path) -> None:
    one, other = written(tmp_path / "a.mp3", kbit_s=192), written(tmp_path / "b.mp3", kbit_s=128)
    both = tmp_path / "c.mp3"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    assert bit_rates_kbit_s(both) == {128, 192}
    assert mutagen.mp3.MP3(both).info.bitrate_mode == mutagen.mp3.BitrateMode.CBR, "why every frame is read"


def test_tags_before_the_audio_are_skipped(tmp_path: Path) -> None:
    tagged = written(tmp_path / "a.mp3", kbit_s=192, tags=Tags(title="\xff\xfb" * 500))
    assert bit_rates_kbit_s(tagged) == {192}


@pytest.mark.parametrize(
    "data", [b"", b"RIFF", b"ID3", b"\xff\xfb\xb0", b"\xff\xfb\x00\x00" * 9, b"\0" * 100], ids=repr
)
def test_a_file_that_is_not_mp3_has_no_bit_rate(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(data)
    assert bit_rates_kbit_s(path) == set()
