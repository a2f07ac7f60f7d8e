"""The samples of a stream that a listener has not heard yet, and the loudspeaker that plays them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from voxspool.audio.recorder import NO_BEGIN, gap
from voxspool.errors import MissingExtraError, OutputError, StreamGapError
from voxspool.hints import missing
from voxspool.protocol.stream import SAMPLE_BYTES, Audio, Begin, Cancelled, Entry, Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PLAY_BLOCK_S: Final = 0.1
"""The most audio written to the loudspeaker at once, in seconds: Ctrl-C takes effect between two blocks."""

_PORTAUDIO: Final = (
    "install it: sudo apt install libportaudio2 (Debian, Ubuntu), sudo dnf install portaudio (Fedora), "
    "sudo pacman -S portaudio (Arch)"
)
"""How to install PortAudio on Linux; elsewhere it comes with sounddevice."""


class Playhead:
    """Returns each sample once: samples that a new attempt repeats are skipped.

    A listener that comes back has had the samples before `given_samples` already.
    """

    def __init__(self, given_samples: int = 0) -> None:
        self._given = given_samples

    @property
    def given_samples(self) -> int:
        """The number of samples that were returned so far."""
        return self._given

    def feed(self, entry: Entry) -> bytes:
        """Return the samples (s16le) of the next entry that were not returned before; often none.

        Raises StreamGapError if samples are missing before the entry.
        """
        if entry.pos > self._given and not isinstance(entry, (Failed, Cancelled)):
            raise gap(entry.pos, self._given)
        if not isinstance(entry, Audio):
            return b""
        fresh = entry.pcm[(self._given - entry.pos) * SAMPLE_BYTES :]
        self._given += len(fresh) // SAMPLE_BYTES
        return fresh


def play(entries: Iterable[Entry]) -> None:
    """Play a speech on the default loudspeaker, from its first entry to its last; return when it has been heard.

    Raises what check_loudspeaker raises, OutputError if the loudspeaker fails later, StreamGapError.
    """
    sounddevice = _sounddevice()
    try:
        _play(entries, sounddevice)
    except sounddevice.PortAudioError as error:
        raise _cannot_play(error) from error


def check_loudspeaker() -> None:
    """Check that this machine can play audio, before anything is spoken. Plays nothing.

    Raises MissingExtraError without sounddevice, OutputError without PortAudio or an output device.
    """
    sounddevice = _sounddevice()
    try:
        sounddevice.query_devices(kind="output")
    except (sounddevice.PortAudioError, ValueError) as error:  # ValueError: there are devices, and none is an output
        raise _cannot_play(error) from error


def _cannot_play(error: Exception) -> OutputError:
    """Return the error for a loudspeaker that fails."""
    return OutputError(f"this machine has no loudspeaker that works ({error}); write a file instead")


def _play(entries: Iterable[Entry], sounddevice: Any) -> None:  # noqa: ANN401 - the module: untyped, optional
    entries = iter(entries)
    begin = _first_begin(entries)
    if begin is None:
        return
    playhead = Playhead()
    playhead.feed(begin)
    from voxspool.audio.encoding import check_rate

    check_rate(begin.sample_rate)
    block_bytes = int(_PLAY_BLOCK_S * begin.sample_rate) * SAMPLE_BYTES
    speaker = sounddevice.RawOutputStream(samplerate=begin.sample_rate, channels=1, dtype="int16")
    try:
        speaker.start()
        for entry in entries:
            pcm = playhead.feed(entry)
            for start in range(0, len(pcm), block_bytes):
                speaker.write(pcm[start : start + block_bytes])
        speaker.stop()  # waits until what was written has been heard
    finally:
        speaker.close()


def _first_begin(entries: Iterator[Entry]) -> Begin | None:
    """Return the first begin; None if the stream was closed (cancelled, failed) before it had one."""
    for entry in entries:
        if isinstance(entry, Begin):
            return entry
        if isinstance(entry, Audio):
            raise StreamGapError(NO_BEGIN)
    return None


def _sounddevice() -> Any:  # noqa: ANN401 - the module: untyped, optional
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError(
            f"{missing('playing', 'the Python package sounddevice', 'voxspool', 'play')}; or write a file instead"
        ) from error
    except OSError as error:  # sounddevice is there, the C library under it is not
        raise OutputError(f"playing needs PortAudio; {_PORTAUDIO}; or write a file instead") from error
    return sounddevice
