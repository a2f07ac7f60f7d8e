"""`voxspool follow`: write a job's audio to a file or to stdout, or play it, while it is made or later.

The stream of a chapter of a book has no audio, so its audio is read from the segment store.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from voxspool.cli import options
from voxspool.cli.progress import SpeechProgress, Unserved
from voxspool.command import INTERRUPTED
from voxspool.display import echo
from voxspool.errors import MissingExtraError, OutputError, ProtocolError
from voxspool.protocol.stream import START, EntryId
from voxspool.reading.reader import raise_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from voxspool.audio.recorder import Recorder
    from voxspool.protocol.stream import Entry
    from voxspool.reading.reader import Received
    from voxspool.speech import Speech


@click.command()
@click.argument("job")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a file: .wav .flac .mp3 .ogg .opus.")
@click.option("--raw", is_flag=True, help="Write raw samples (s16le, mono) to stdout as they come.")
@click.option("--play", is_flag=True, help="Play the speech.")
@click.option(
    "--from", "after", metavar="ID", help="With --raw: continue after this entry. The last id is printed at the end."
)
@options.REDIS
def follow(job: str, output: Path | None, raw: bool, play: bool, after: str | None, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """Follow JOB until it ends: save, play or watch it. Ctrl-C does not cancel the job.

    \b
    voxspool follow JOB -o chapter.flac
    voxspool follow JOB --raw | aplay -r 22050 -f S16_LE
    voxspool follow JOB --raw --from 1-37
    """
    if sum((output is not None, raw, play)) > 1:
        raise click.UsageError("-o, --raw and --play exclude each other")
    if after and not raw:
        raise click.UsageError("--from works only with --raw: a file, like playing, needs the speech from its start")
    if after:
        try:
            EntryId.parse(after)
        except ProtocolError as error:
            raise click.BadParameter(str(error), param_hint="--from") from None
    target = "-" if raw else str(output) if output else None
    check_target(target, play=play)
    with options.open_client(options.settings(redis_url)) as client:
        speech = client.speech(job)
        speech.status()
        spec, unserved = speech.spec(), Unserved(client)
        try:
            with SpeechProgress(len(spec.text) if spec else 1, "following") as line:
                store = client.settings.store
                if after:
                    said = (
                        f"continued after {after}, last entry {write_raw_after(speech, after, line, unserved, store)}"
                    )
                else:
                    record(speech, target, line, unserved, store, play=play)
                    said = f"{line.spoken_s:.1f} s of speech"
        except KeyboardInterrupt:
            echo(f"voxspool: interrupted; the job continues. To follow it again: voxspool follow {job}", err=True)
            raise SystemExit(INTERRUPTED) from None
        echo(f"job {job}: {said}", err=True)


def check_target(target: str | None, *, play: bool) -> None:
    """Check, before anything is started, that the target can be written and, with `play`, that this machine can play.

    Raises OutputError, MissingExtraError.
    """
    from voxspool.audio.files import check_output
    from voxspool.audio.playback import check_loudspeaker

    if target == "-":
        _refuse_terminal()
    elif target is not None:
        check_output(Path(target))
    if play:
        try:
            check_loudspeaker()
        except (MissingExtraError, OutputError) as error:
            raise type(error)(f"{error}: {'-o hello.wav' if target is None else 'leave out --play'}") from error


def _refuse_terminal() -> None:
    """Refuse to write samples to a terminal, which would take some of them for commands. Raises OutputError."""
    if sys.stdout is not None and sys.stdout.isatty():
        raise OutputError(
            "stdout is a terminal, and raw samples are no text; pipe them, such as into `aplay -r 22050 -f S16_LE`, or "
            "write a file with -o hello.wav",
            wrong_value=True,
        )


def record(
    speech: Speech,
    target: str | None,
    line: SpeechProgress,
    unserved: Unserved,
    store: str | None = None,
    *,
    play: bool = False,
) -> None:
    """Write a speech to a file or to stdout (`-`), play it, or only wait for its end; show the progress in `line`.

    With `play` and a file it does both; the file is complete when everything has been played. `store` is the segment
    store, which has the audio of a chapter of a book.
    """
    if target == "-":
        write_raw_after(speech, str(START), line, unserved, store)
    elif play:
        from voxspool.audio.playback import play as play_entries
        from voxspool.audio.recorder import Recorder

        entries = (one.entry for one in watched(speech, line, unserved, store=store))
        with contextlib.nullcontext() if target is None else Recorder(Path(target)) as recorder:
            play_entries(entries if recorder is None else _recorded(entries, recorder))
    elif target is None:
        for _ in watched(speech, line, unserved):
            pass
    else:
        from voxspool.audio.recorder import Recorder

        with Recorder(Path(target)) as recorder:
            for one in watched(speech, line, unserved, store=store):
                recorder.add(one.entry)


def _recorded(entries: Iterable[Entry], recorder: Recorder) -> Iterator[Entry]:
    """Record each entry, then yield it."""
    for entry in entries:
        recorder.add(entry)
        yield entry


def watched(
    speech: Speech,
    line: SpeechProgress,
    unserved: Unserved,
    after: str = str(START),
    store: str | None = None,
    heard_samples: int = 0,
) -> Iterator[Received]:
    """Yield the entries, show the progress in `line`, and warn if no worker takes the job.

    Raises SpeechFailedError or SpeechCancelledError if the speech ends so, and what `Speech.entries` raises.
    """
    entries = speech.entries(after, on_wait=unserved.on_wait)
    if store is not None:
        from voxspool.narration.listening import voiced

        entries = voiced(entries, store, heard_samples)
    for received in entries:
        raise_for(received.entry)
        line.take(received.entry)
        yield received


def write_raw_after(
    speech: Speech, after: str, line: SpeechProgress, unserved: Unserved, store: str | None = None
) -> str:
    """Write the samples after an entry to stdout, each once, as they come; return the id of the last entry."""
    if sys.stdout is None:
        raise OutputError("stdout is closed, so samples cannot be written to it; write a file with -o")
    listener, last = speech.listener(after), after
    for received in watched(speech, line, unserved, after, store, listener.heard_samples):
        if chunk := listener.hear(received):
            sys.stdout.buffer.write(chunk.pcm)
            sys.stdout.buffer.flush()
        last = str(received.id)
    return last
