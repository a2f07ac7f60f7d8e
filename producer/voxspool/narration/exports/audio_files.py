"""The track of a chapter -> its audio files, all in one pass over the samples."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from voxspool.audio.encoding import Encoding
from voxspool.audio.files import Writer, check_output
from voxspool.narration.mastering.acx import DELIVERY, RoomTone
from voxspool.narration.mastering.master import master

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from voxspool.audio.tags import Tags
    from voxspool.narration.mastering.master import Gain
    from voxspool.narration.track import Track
    from voxspool.store.segments import Store


def write_chapter(track: Track, store: Store, targets: Sequence[Path], *, tags: Tags, gain: Gain | None = None) -> None:
    """Write a chapter to files, whose suffixes name the formats. A file appears whole or not at all.

    With the preset acx an MP3 meets the rules of ACX. It has silence of its own before and after the speech, so it is
    not in step with the other files. Raises OutputError, StoreError.
    """
    for target in targets:
        check_output(target)
    with ExitStack() as stack:
        files = [stack.enter_context(_ChapterFile(target, track, tags, gain)) for target in targets]
        for pcm in master(track, store, gain):
            for file in files:
                file.write(pcm)
        for file in files:
            file.finish()


class _ChapterFile:
    """A file of a chapter, while it is written."""

    def __init__(self, target: Path, track: Track, tags: Tags, gain: Gain | None) -> None:
        for_acx = gain is not None and gain.preset == "acx" and target.suffix.lower() == ".mp3"
        self._room = RoomTone(track.sample_rate) if for_acx else None
        encoding = DELIVERY if for_acx else Encoding()
        self._writer = Writer(target, track.sample_rate, tags=tags, encoding=encoding, samples=track.samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._writer.discard()

    def write(self, pcm: NDArray[np.int16]) -> None:
        self._writer.write(self._room.feed(pcm) if self._room else pcm)

    def finish(self) -> None:
        if self._room:
            self._writer.write(self._room.finish())
        self._writer.finish()
