"""The M4B as other libraries read it: chapters, cover, tags, samples; covers and disks that fail."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import av
import matplotlib.image
import mutagen.mp4
import numpy as np
import pytest

from tests.support.full_disk import room_for
from tests.support.spoken import sine, speech, track
from voxspool.books.book import Book, Cover
from voxspool.errors import MissingExtraError, OutputError, StoreError
from voxspool.narration.exports import m4b
from voxspool.narration.exports.m4b import cover_fault, write_m4b
from voxspool.narration.mastering.master import Gain, master
from voxspool.store.segments import Store

if TYPE_CHECKING:
    from pathlib import Path

    from voxspool.narration.track import Track

RATE_HZ = 22_050
FRAME_S = 1024 / RATE_HZ


def picture(form: str) -> bytes:
    """A picture with something in it, 90 by 60."""
    file = io.BytesIO()
    matplotlib.image.imsave(file, np.random.default_rng(1).uniform(0, 1, (60, 90)), format=form)
    return file.getvalue()


JPEG = Cover(picture("jpeg"), "image/jpeg")
PNG = Cover(picture("png"), "image/png")
BOOK = Book(
    "Über den Fluß – 河",
    (),
    authors=("the authors of voxspool", "and their readers"),
    date="1902-05-01",
    description="What a river says.\nIn two lines.",
    cover=JPEG,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tracks(store: Store) -> list[Track]:
    """Three chapters, each with a tone of its own behind its speech; no length is a multiple of a frame."""
    return [
        track(store, n, [speech(2 + n / 7, RATE_HZ, seed=n), sine(1, RATE_HZ, hz=300.0 * n)], pause_s=0.31)
        for n in (1, 2, 3)
    ]


def decoded(path: Path) -> np.ndarray:
    """As a player hears it, full scale 1."""
    with av.open(str(path)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(file.streams.audio[0])])


def lag(heard: np.ndarray, meant: np.ndarray) -> int:
    """By how many samples it is late, where it fits best."""
    return int(np.argmax(np.correlate(heard, meant[2048:-2048], "valid"))) - 2048


def starts_s(tracks: list[Track]) -> list[float]:
    return [0.0, *np.cumsum([each.duration_s for each in tracks])[:-1]]


def test_another_library_reads_the_chapters_the_cover_and_the_tags(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    write_m4b(BOOK, tracks, store, tmp_path / "a.m4b")
    file = mutagen.mp4.MP4(tmp_path / "a.m4b")
    assert [chapter.title for chapter in file.chapters] == ["Chapter 1", "Chapter 2", "Chapter 3"]
    assert [chapter.start for chapter in file.chapters] == pytest.approx(starts_s(tracks), abs=0.001)
    authors = "the authors of voxspool, and their readers"
    assert {name: file[name][0] for name in ("©nam", "©alb", "©ART", "aART", "©gen", "©day", "desc", "stik")} == {
        "©nam": BOOK.title,
        "©alb": BOOK.title,
        "©ART": authors,
        "aART": authors,
        "©gen": "Audiobook",
        "©day": "1902-05-01",
        "desc": BOOK.description,
        "stik": 2,
    }
    assert bytes(file["covr"][0]) == JPEG.data
    assert (file.info.codec, file.info.channels, file.info.sample_rate) == ("mp4a.40.2", 1, RATE_HZ)
    assert file.info.length == pytest.approx(
        sum(each.duration_s for each in tracks) + FRAME_S, abs=0.01
    )  # with the delay


def test_chapters_are_stored_in_both_styles_and_the_index_comes_first(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    write_m4b(BOOK, tracks, store, tmp_path / "a.m4b")
    data = (tmp_path / "a.m4b").read_bytes()
    assert data[4:12] == b"ftypM4B "
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert data.count(b"chpl") == 1  # Nero's list
    assert data.count(b"chap") == 1  # the audio names its track of text
    with av.open(str(tmp_path / "a.m4b")) as file:
        rows = file.chapters()
    times = [float(row["start"] * row["time_base"]) for row in rows]
    assert times == pytest.approx(starts_s(tracks), abs=0.001)
    assert float(rows[-1]["end"] * rows[-1]["time_base"]) == pytest.approx(
        sum(each.duration_s for each in tracks), abs=0.001
    )


def test_each_chapter_starts_at_its_mark_and_has_the_level_of_its_samples(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    gain = Gain("podcast", 6.0, -1.7)
    write_m4b(BOOK, tracks, store, tmp_path / "a.m4b", gain=gain)
    meant = np.concatenate([pcm for each in tracks for pcm in master(each, store, gain)]) / 32_768
    heard = decoded(tmp_path / "a.m4b")
    assert 0 <= len(heard) - len(meant) < 1024
    heard = heard[: len(meant)]
    for start_s, each in zip(starts_s(tracks), tracks, strict=True):
        span = slice(round(start_s * RATE_HZ), round(start_s * RATE_HZ) + each.samples)
        assert np.corrcoef(heard[span], meant[span])[0, 1] > 0.9
        assert lag(heard[span][:RATE_HZ], meant[span][:RATE_HZ]) == 0
        assert np.sqrt(np.mean(heard[span] ** 2)) == pytest.approx(np.sqrt(np.mean(meant[span] ** 2)), rel=0.1)


def test_a_book_encoded_in_pieces_has_the_quality_of_one_encoding(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [track(store, 1, [speech(9, RATE_HZ, seed=n) for n in range(4)])]
    write_m4b(BOOK, long, store, tmp_path / "one.m4b")
    monkeypatch.setattr(m4b, "_PIECE_FRAMES", 37)
    write_m4b(BOOK, long, store, tmp_path / "pieces.m4b")
    one, pieces = decoded(tmp_path / "one.m4b"), decoded(tmp_path / "pieces.m4b")
    meant = np.concatenate(list(long[0].audio(store))) / 32_768
    assert len(one) == len(pieces)

    def error(heard: np.ndarray) -> float:
        return float(np.sqrt(np.mean((heard[: len(meant)] - meant) ** 2)))

    assert error(pieces) == pytest.approx(error(one), rel=0.05)
    joints = range(36 * 1024, len(meant) - 2048, 37 * 1024)
    assert len(joints) > 15
    near = np.concatenate([np.arange(joint, joint + 2048) for joint in joints])
    assert error_at(pieces, meant, near) <= 1.3 * error_at(one, meant, near)


def error_at(heard: np.ndarray, meant: np.ndarray, where: np.ndarray) -> float:
    return float(np.sqrt(np.mean((heard[where] - meant[where]) ** 2)))


@pytest.mark.parametrize("samples", [1, 1023, 1024, 1025, 37 * 1024, 53 * 1024, 53 * 1024 + 1, 90 * 1024 + 5])
def test_no_sample_is_lost_at_any_length(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    monkeypatch.setattr(m4b, "_PIECE_FRAMES", 37)
    write_m4b(BOOK, [track(store, 1, [speech(5, RATE_HZ)[:samples]], pause_s=0)], store, tmp_path / "a.m4b")
    assert 0 <= len(decoded(tmp_path / "a.m4b")) - samples < 1024


def test_chapters_of_different_rates_share_a_file_and_keep_their_times(tmp_path: Path, store: Store) -> None:
    mixed = [
        track(store, n, [sine(3, rate, hz=440)], rate_hz=rate) for n, rate in enumerate((16_000, 24_000, 22_050), 1)
    ]
    write_m4b(BOOK, mixed, store, tmp_path / "a.m4b")
    heard = decoded(tmp_path / "a.m4b")
    assert len(heard) / 24_000 == pytest.approx(sum(each.duration_s for each in mixed), abs=1024 / 24_000)
    for start_s in starts_s(mixed):
        second = heard[round((start_s + 1) * 24_000) :][:24_000]
        assert np.argmax(np.abs(np.fft.rfft(second))) == 440


def test_all_chapters_are_stored_even_if_the_list_of_nero_is_full(tmp_path: Path, store: Store) -> None:
    many = [track(store, n, [sine(0.1, 8_000)], rate_hz=8_000, pause_s=0) for n in range(1, 301)]
    write_m4b(BOOK, many, store, tmp_path / "a.m4b")
    with av.open(str(tmp_path / "a.m4b")) as file:
        rows = file.chapters()
    assert [row["metadata"]["title"] for row in rows] == [f"Chapter {n}" for n in range(1, 301)]
    assert float(rows[299]["start"] * rows[299]["time_base"]) == pytest.approx(29.9, abs=0.001)
    assert len(mutagen.mp4.MP4(tmp_path / "a.m4b").chapters) == 255


def test_a_cover_may_be_png_and_its_content_decides_not_its_media_type(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    write_m4b(Book("a", (), cover=Cover(PNG.data, "image/jpeg")), tracks, store, tmp_path / "a.m4b")
    cover = mutagen.mp4.MP4(tmp_path / "a.m4b")["covr"][0]
    assert (bytes(cover), cover.imageformat) == (PNG.data, mutagen.mp4.MP4Cover.FORMAT_PNG)


def bomb() -> bytes:
    """A PNG of 4 kB that has 36 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    side = 6_000
    rows = zlib.compress(bytes(side * (1 + side // 8)))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG.data[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"<svg/>", JPEG.data[:300], PNG.data[:60], PNG.data[:8], b"\xff\xd8\xff", bomb()]
)
def test_a_broken_cover_is_reported_and_left_out(
    tmp_path: Path, store: Store, tracks: list[Track], data: bytes
) -> None:
    broken = Cover(data, "image/png")
    assert "the cover (image/png) is" in cover_fault(broken)
    write_m4b(Book("a", (), cover=broken), tracks, store, tmp_path / "a.m4b")
    file = mutagen.mp4.MP4(tmp_path / "a.m4b")
    assert "covr" not in file
    assert len(file.chapters) == 3


def test_a_valid_cover_has_no_fault() -> None:
    assert (cover_fault(JPEG), cover_fault(PNG)) == ("", "")


def test_chapters_without_a_sample_are_left_out_and_an_empty_book_is_refused(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    nothing = track(store, 9, [])
    write_m4b(BOOK, [tracks[0], nothing, tracks[1]], store, tmp_path / "a.m4b")
    assert [row.title for row in mutagen.mp4.MP4(tmp_path / "a.m4b").chapters] == ["Chapter 1", "Chapter 2"]
    with pytest.raises(OutputError, match=r"b\.m4b would be empty"):
        write_m4b(BOOK, [nothing], store, tmp_path / "b.m4b")
    assert not (tmp_path / "b.m4b").exists()


def test_a_lost_segment_leaves_only_the_older_file(tmp_path: Path, store: Store, tracks: list[Track]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "a.m4b").write_bytes(b"older")
    lost = tracks[2].cues[1].stored
    assert lost is not None
    (tmp_path / "store" / lost.key[:2] / f"{lost.key}.json").unlink()
    with pytest.raises(StoreError, match=lost.key):
        write_m4b(BOOK, tracks, store, folder / "a.m4b")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a.m4b": b"older"}


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_nothing(
    tmp_path: Path, store: Store, tracks: list[Track]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with room_for(20_000), pytest.raises(OutputError, match=r"cannot write .*a\.m4b: File too large; make room"):
        write_m4b(BOOK, tracks, store, folder / "a.m4b")
    assert not list(folder.iterdir())


def test_without_pyav_the_error_says_what_to_install(
    tmp_path: Path, store: Store, tracks: list[Track], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[m4b\]'$"):
        write_m4b(BOOK, tracks, store, tmp_path / "a.m4b")
    with pytest.raises(MissingExtraError):
        cover_fault(JPEG)


def test_no_heavy_library_is_imported_before_it_is_needed() -> None:
    mastering, exports = "acx, levels, limiter, loudness, master", "audio_files, m4b"
    heavy = "{'av', 'scipy', 'pyloudnorm', 'soxr'}"
    code = (
        f"import sys; from voxspool.narration.mastering import {mastering}\n"
        f"from voxspool.narration.exports import {exports}\nprint({heavy} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "set()\n"
