"""Tracks -> one M4B: AAC, chapters in both styles that players read, the cover, the tags of the book.

PyAV (extra `m4b`) does the work. The book is encoded in pieces, on all cores at once: each piece begins some frames
early and ends some late, and only the frames between are kept, so they follow each other as those of one long
encoding. Memory: a few pieces of a minute, and FFmpeg's table of the frames: 5.5 MB an hour.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from voxspool.audio.encoding import resampler
from voxspool.audio.files import Part, check_place
from voxspool.audio.tags import writable
from voxspool.errors import MissingExtraError, OutputError
from voxspool.hints import missing
from voxspool.narration.mastering.levels import FULL_SCALE
from voxspool.narration.mastering.master import master

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from voxspool.books.book import Book, Cover
    from voxspool.narration.mastering.master import Gain
    from voxspool.narration.track import Track
    from voxspool.store.segments import Store

    Pcm = NDArray[np.int16]

_RATES_HZ: Final = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_FRAME_SAMPLES: Final = 1024
"""A frame of AAC; the encoder's delay is one too."""
_BLOCK_SAMPLES: Final = 65_536
"""Given to PyAV at once, which cuts frames."""
_PIECE_FRAMES: Final = 1200
"""Under a minute of speech."""
_AROUND_FRAMES: Final = 16
"""How many frames an encoder needs to come to the decisions of one that heard all that was before. With 16 the joints
are no worse than the rest: 28.2 dB of signal over error on speech at 64 kbit/s, either way."""
_AUDIOBOOK: Final = "2"
"""The kind of media, `stik`, by which Apple's players put it among the books."""
_COVER_PIXELS: Final = 64_000_000
"""More than any cover has, and 256 MB when decoded."""
_COVER_CODECS: Final = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG": "png"}
"""What a picture begins with; what a book says of it may be wrong."""


def write_m4b(
    book: Book, tracks: Sequence[Track], store: Store, target: Path, *, gain: Gain | None = None, kbit_s: int = 64
) -> None:
    """Write a book's chapters, in their order, to one M4B. It appears whole or not at all.

    A cover that `cover_fault` finds fault with is left out, and so is a chapter without a sample.
    Raises OutputError, StoreError, MissingExtraError.
    """
    av = pyav()
    check_place(target)
    tracks = [track for track in tracks if track.samples]
    if not tracks:
        raise OutputError(f"{target} would be empty: nothing of the book was spoken")
    with Part(target) as part:
        try:
            _write(av, part.path, book, tracks, store, gain, kbit_s)
        except av.FFmpegError as error:
            raise OutputError(f"cannot write {target}: {error.strerror}; make room or choose another place") from error
        part.sync()
        part.place()


def cover_fault(cover: Cover) -> str:
    """Return why a cover cannot go into an M4B; an empty text if it can. Raises MissingExtraError."""
    try:
        _picture(pyav(), cover)
    except ValueError as error:
        return str(error)
    return ""


def _write(
    av: Any,  # noqa: ANN401 - the module, imported late
    path: Path,
    book: Book,
    tracks: Sequence[Track],
    store: Store,
    gain: Gain | None,
    kbit_s: int,
) -> None:
    rate_hz = _rate_hz(tracks)
    encoder = _AacEncoder(av, rate_hz, kbit_s * 1000)
    # Not `ipod`, which PyAV gives no picture; the brand makes it an audiobook. faststart: the index comes first.
    # movie_timescale: how long the sound is stands there in these units; in the usual ms its last samples are lost.
    options = {"movflags": "+faststart", "brand": "M4B ", "movie_timescale": str(rate_hz)}
    with av.open(str(path), "w", format="mp4", options=options) as out:
        out.metadata.update(_metadata(book))
        out.set_chapters(_chapters(tracks, rate_hz))
        audio = out.add_stream("aac", rate=rate_hz, layout="mono", format="fltp")
        audio.bit_rate = encoder.bit_s
        cover = _cover_packet(av, out, book.cover)
        out.start_encoding()
        if cover is not None:
            out.mux_one(cover)
        for packet in _packets(encoder, _pieces(_samples(tracks, store, gain, rate_hz))):
            packet.stream = audio
            out.mux_one(packet)


def _rate_hz(tracks: Sequence[Track]) -> int:
    """Return a rate of AAC that loses nothing of any chapter, or the highest."""
    most = max(track.sample_rate for track in tracks)
    return next((rate for rate in _RATES_HZ if rate >= most), _RATES_HZ[-1])


def _metadata(book: Book) -> dict[str, str]:
    authors = ", ".join(book.authors)
    words = {
        "title": book.title,
        "album": book.title,
        "artist": authors,
        "album_artist": authors,
        "date": book.date,
        "comment": book.description,
        "description": book.description,
        "genre": "Audiobook",
        "media_type": _AUDIOBOOK,
    }
    return {name: writable(value) for name, value in words.items() if value}


def _chapters(tracks: Sequence[Track], rate_hz: int) -> list[dict[str, object]]:
    """Return where each chapter begins and ends, in samples of the file.

    The muxer writes them twice: as a track of text, and as a list (Nero's), which holds the first 255 at most.
    """
    lengths = [_length(track, rate_hz) for track in tracks]
    starts = np.cumsum([0, *lengths]).tolist()
    return [
        {
            "id": index,
            "start": start,
            "end": end,
            "time_base": Fraction(1, rate_hz),
            "metadata": {"title": writable(track.title)},
        }
        for index, (track, (start, end)) in enumerate(zip(tracks, pairwise(starts), strict=True))
    ]


def _length(track: Track, rate_hz: int) -> int:
    return round(Fraction(track.samples * rate_hz, track.sample_rate))


def _samples(tracks: Sequence[Track], store: Store, gain: Gain | None, rate_hz: int) -> Iterator[Pcm]:
    """Yield the whole book's samples at the file's rate; each chapter is as long as `_chapters` says."""
    for track in tracks:
        left = _length(track, rate_hz)
        resample = resampler(track.sample_rate, rate_hz)
        for pcm in master(track, store, gain):
            ready = resample(pcm, last=False)[:left]
            left -= len(ready)
            yield ready
        rest = resample(np.zeros(0, np.int16), last=True)[:left]
        yield np.concatenate([rest, np.zeros(left - len(rest), np.int16)])


@dataclass(frozen=True, slots=True)
class _AacPiece:
    """A stretch of the book for one encoder."""

    pcm: Pcm
    start: int
    """The position in the book of its first sample, a multiple of a frame."""
    first_pts: int
    """The packets from here on are kept; the first one of the book is at -1024, the encoder's delay."""
    end_pts: int | None
    """And those before here; None: all that follow."""


def _pieces(blocks: Iterable[Pcm]) -> Iterator[_AacPiece]:
    """Cut the book, with what lies around each piece."""
    size, around = _PIECE_FRAMES * _FRAME_SAMPLES, _AROUND_FRAMES * _FRAME_SAMPLES
    held, held_samples = deque[Any](), 0
    start = 0  # of what is held
    first = 0  # of the next piece
    for pcm in blocks:
        held.append(pcm)
        held_samples += len(pcm)
        while start + held_samples > first + size + around:
            joined = np.concatenate(held)
            yield _AacPiece(
                joined[: first + size + around - start], start, first - _FRAME_SAMPLES, first + size - _FRAME_SAMPLES
            )
            first += size
            joined = joined[first - around - start :]
            start = first - around
            held, held_samples = deque([joined]), len(joined)
    yield _AacPiece(np.concatenate(held), start, first - _FRAME_SAMPLES, None)


class _AacEncoder:
    """Pieces -> packets. Each piece has a codec of its own; threads may share this."""

    def __init__(self, av: Any, rate_hz: int, bit_s: int) -> None:  # noqa: ANN401 - the module, imported late
        self._av = av
        self._rate_hz = rate_hz
        self.bit_s = bit_s

    def encode(self, piece: _AacPiece) -> list[Any]:
        """Return the packets of the piece's own frames, with the times that they have in the book."""
        codec = self._av.CodecContext.create("aac", "w")
        codec.sample_rate, codec.layout, codec.format = self._rate_hz, "mono", "fltp"
        codec.bit_rate, codec.time_base = self.bit_s, Fraction(1, self._rate_hz)
        packets = [
            packet for frame in (*self._frames(piece.pcm, codec.time_base), None) for packet in codec.encode(frame)
        ]
        for packet in packets:
            packet.pts = packet.dts = packet.pts + piece.start
            packet.time_base = codec.time_base
        return [
            packet
            for packet in packets
            if piece.first_pts <= packet.pts and (piece.end_pts is None or packet.pts < piece.end_pts)
        ]

    def _frames(self, pcm: Pcm, time_base: Fraction) -> Iterator[Any]:
        for at in range(0, len(pcm), _BLOCK_SAMPLES):
            samples = pcm[None, at : at + _BLOCK_SAMPLES].astype(np.float32) / FULL_SCALE
            frame = self._av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, at, time_base
            yield frame


def _packets(encoder: _AacEncoder, pieces: Iterator[_AacPiece]) -> Iterator[Any]:
    """Yield all packets in order. As many pieces are under way as there are cores, and one waits."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores, "voxspool-aac") as pool:
        under_way = deque[Any]()
        try:
            for piece in pieces:
                under_way.append(pool.submit(encoder.encode, piece))
                if len(under_way) > cores:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _cover_packet(av: Any, out: Any, cover: Cover | None) -> Any:  # noqa: ANN401 - PyAV's, imported late
    """Make room for a cover, and give it as a packet; None for none, or a broken one."""
    if cover is None:
        return None
    try:
        codec_name, width, height = _picture(av, cover)
    except ValueError:
        return None
    stream = out.add_mux_stream(codec_name, rate=1, width=width, height=height)
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(cover.data)
    packet.stream, packet.time_base = stream, Fraction(1)
    packet.pts = packet.dts = 0
    packet.is_keyframe = True
    return packet


def _picture(av: Any, cover: Cover) -> tuple[str, int, int]:  # noqa: ANN401 - the module, imported late
    """Return a picture's codec, its width and its height, having decoded it. Raises ValueError."""
    codec_name = next((name for head, name in _COVER_CODECS.items() if cover.data.startswith(head)), None)
    if codec_name is None:
        raise ValueError(f"the cover ({cover.media_type}) is neither JPEG nor PNG")
    codec = av.CodecContext.create(codec_name, "r")
    codec.options = {"max_pixels": str(_COVER_PIXELS), "err_detect": "explode"}
    try:
        frames = [*codec.decode(av.Packet(cover.data)), *codec.decode(None)]
    except av.FFmpegError as error:
        raise ValueError(f"the cover ({cover.media_type}) is broken: {error.strerror}") from error
    if not frames:
        raise ValueError(f"the cover ({cover.media_type}) is broken: there is no picture in it")
    return codec_name, frames[0].width, frames[0].height


def pyav() -> Any:  # noqa: ANN401 - the module, imported late
    """Return PyAV. Raises MissingExtraError."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(missing("an M4B or EPUB with audio", "PyAV", "voxspool", "m4b")) from error
    return av
