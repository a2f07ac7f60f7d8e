"""Tracks -> one M4B: AAC audio, chapters in the two styles that players read, the cover, the tags of the book.

PyAV (extra `m4b`) encodes and writes. The book is encoded in pieces, on all cores: each piece starts some frames early
and ends some late, and only the frames between are kept, so that the joints sound like one encoding. Memory: a few
pieces of a minute each, and FFmpeg's table of frames, 5.5 MB for each hour of audio.
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
"""Sample rates of AAC that are used."""
_FRAME_SAMPLES: Final = 1024
"""Samples in a frame of AAC. The encoder's delay is one frame too."""
_BLOCK_SAMPLES: Final = 65_536
"""Number of samples that are passed to PyAV in one call; it divides them into frames."""
_PIECE_FRAMES: Final = 1200
"""Frames in a piece: 51 s at 24 kHz."""
_AROUND_FRAMES: Final = 16
"""Frames before and after a piece, after which an encoder decides as if it had encoded everything before. With 16 the
joints are no worse than the rest: a signal-to-noise ratio of 28.2 dB on speech at 64 kbit/s, in both places."""
_AUDIOBOOK: Final = "2"
"""Value of the tag `stik` (media kind). Apple's players list files with it among the audiobooks."""
_COVER_PIXELS: Final = 25_000_000
"""Maximum number of pixels that are decoded, 5000 x 5000: more than any cover has. At 8 bytes for a pixel, 200 MB."""
_COVER_CODECS: Final = {b"\xff\xd8\xff": "mjpeg", b"\x89PNG": "png"}
"""First bytes of a picture -> its codec. The media type that a book states may be wrong."""


def write_m4b(
    book: Book, tracks: Sequence[Track], store: Store, target: Path, *, gain: Gain | None = None, kbit_s: int = 64
) -> None:
    """Write the chapters of a book, in order, to one M4B. The file appears whole or not at all.

    A cover with a `cover_fault` is left out, and so is a chapter without a sample. Raises OutputError, StoreError,
    MissingExtraError.
    """
    av = pyav()
    check_place(target)
    tracks = [track for track in tracks if track.samples]
    if not tracks:
        raise OutputError(f"{target} would be empty: no sample of the book was spoken; see report.html for the faults")
    with Part(target) as part:
        try:
            _write(av, part.path, book, tracks, store, gain, kbit_s)
        except av.FFmpegError as error:
            raise OutputError(f"cannot write {target}: {error.strerror}; make room or choose another place") from error
        part.sync()
        part.place()


def cover_fault(cover: Cover) -> str:
    """Return why a cover cannot be stored in an M4B; an empty text if it can. Raises MissingExtraError."""
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
    # format: with `ipod` PyAV cannot store a cover; the brand makes it an audiobook. faststart: the index comes first.
    # movie_timescale: the unit of the duration in the header; with the default, 1 ms, the last samples are cut off.
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
    """Return the lowest rate of AAC that is not below that of any chapter, or else the highest."""
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
    """Return the chapters as PyAV takes them, with start and end in samples of the file.

    The muxer writes them in both styles: as a text track, and as Nero's list, which holds 255 at most.
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
    """Return the number of samples of a chapter at the file's rate."""
    return round(Fraction(track.samples * rate_hz, track.sample_rate))


def _samples(tracks: Sequence[Track], store: Store, gain: Gain | None, rate_hz: int) -> Iterator[Pcm]:
    """Yield the samples of the whole book at the file's rate. Each chapter is exactly as long as in `_chapters`."""
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
    """A part of the book for one encoder, with the frames around it."""

    pcm: Pcm
    start: int
    """The position of its first sample in the book, a multiple of a frame."""
    first_pts: int
    """The time of the first packet that is kept. That of the book is -1024, because of the encoder's delay."""
    end_pts: int | None
    """The time of the first packet that is not kept any more; None: all are."""


def _pieces(blocks: Iterable[Pcm]) -> Iterator[_AacPiece]:
    """Divide the samples of the book into pieces, each with the frames around it."""
    size, around = _PIECE_FRAMES * _FRAME_SAMPLES, _AROUND_FRAMES * _FRAME_SAMPLES
    held, held_samples = deque[Any](), 0
    start = 0  # position of the first held sample
    first = 0  # position of the next piece, without the frames before it
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
    """Encodes pieces. Each gets a codec of its own, so threads may share the encoder."""

    def __init__(self, av: Any, rate_hz: int, bit_s: int) -> None:  # noqa: ANN401 - the module, imported late
        self._av = av
        self._rate_hz = rate_hz
        self.bit_s = bit_s

    def encode(self, piece: _AacPiece) -> list[Any]:
        """Return the packets of a piece, without those of the frames around it, with their times in the book."""
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
        """Yield samples as PyAV's frames."""
        for at in range(0, len(pcm), _BLOCK_SAMPLES):
            samples = pcm[None, at : at + _BLOCK_SAMPLES].astype(np.float32) / FULL_SCALE
            frame = self._av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self._rate_hz, at, time_base
            yield frame


def _packets(encoder: _AacEncoder, pieces: Iterator[_AacPiece]) -> Iterator[Any]:
    """Yield all packets in order. One piece is encoded on each core, and one more waits."""
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
    """Add a stream for the cover and return its packet; None if there is no cover, or a broken one."""
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
    """Decode a picture; return its codec, width and height. Raises ValueError if it is broken or of another kind."""
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
        raise ValueError(f"the cover ({cover.media_type}) is broken: it contains no picture")
    return codec_name, frames[0].width, frames[0].height


def pyav() -> Any:  # noqa: ANN401 - the module, imported late
    """Return PyAV. Raises MissingExtraError."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError(missing("an M4B or EPUB with audio", "PyAV", "voxspool", "m4b")) from error
    return av
