"""`voxspool demo`: try the whole system on one machine, with a private Redis, a private worker and Piper."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import click

from voxspool.cli import options
from voxspool.cli.follow import check_target, record
from voxspool.cli.progress import SpeechProgress, Unserved
from voxspool.cli.speak import cancelled_on_leaving, report
from voxspool.command import EngineName
from voxspool.display import echo
from voxspool.errors import MissingExtraError, OutputError
from voxspool.hints import typed_path

PASSAGE: Final = (
    "A spooler takes what you give it and gives you back your time. You put a page into a queue, and somewhere a "
    "machine that has its model in memory begins to read. The first words are there before you have reached for your "
    "headphones.\n\n"
    "While the reader speaks, the sound is written to a stream. One listener hears it live, another joins late and "
    "starts from the beginning, a third loses its connection, comes back, and goes on at the very next word. Nothing "
    "is said twice, and nothing is lost.\n\n"
    "And when the machine itself is switched off in the middle of a sentence, another one takes the page from its "
    "hands and reads on."
)
"""The text that the demo speaks and the tests transcribe."""
_PLAYERS: Final = {
    "afplay": (".wav", ".flac", ".mp3"),
    "aplay": (".wav",),
    "paplay": (".wav", ".flac", ".ogg"),
    "ffplay -nodisp -autoexit": (".wav", ".flac", ".mp3", ".ogg", ".opus"),
    "xdg-open": (".wav", ".flac", ".mp3", ".ogg", ".opus"),
}
"""A command that plays a file -> the suffixes that it can play. Of macOS, ALSA, PulseAudio, FFmpeg, Linux desktops."""
_PLAIN_SHELLS: Final = ("sh", "dash", "ash")
"""Shells without the command `source`."""


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo.wav"), show_default=True)
@click.option("--play", is_flag=True, help="Also play the speech while it is made.")
@click.option("--engine", type=EngineName(), default="piper", show_default=True)
@click.option("--redis", "redis_url", metavar="URL", help="Use this Redis and its workers [private ones].")
def demo(output: Path, play: bool, engine: str, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """Speak a passage of three paragraphs and write it to a file.

    \b
    voxspool demo
    voxspool demo --play           play it while it is made
    voxspool demo --redis URL      use a Redis and workers that are running

    Without --redis, the command starts a private Redis and a private worker, and stops
    them at the end.
    """
    from voxspool.client import Client
    from voxspool.embedded import Embedded

    settings = options.settings(redis_url)
    check_target(str(output), play=play)
    with contextlib.ExitStack() as stack:
        if redis_url:
            client = stack.enter_context(options.open_client(settings))
        else:
            echo(f"starting a private Redis and a private worker with {engine}", err=True)
            own = stack.enter_context(Embedded(engine))
            client = stack.enter_context(Client(own.url))
        echo(f"speaking {len(PASSAGE)} characters", err=True)
        line = stack.enter_context(SpeechProgress(len(PASSAGE), "speaking"))
        speech = client.enqueue(PASSAGE, engine=engine, voice=None, language="en")
        with cancelled_on_leaving(speech):
            record(speech, str(output), line, Unserved(client), play=play)
    report(str(output), line)
    _show_next_steps(output, settings.shell)


def _show_next_steps(output: Path, shell: str) -> None:
    """Print on stderr how to play the file, and commands to try next."""
    commands = Path(sys.executable).parent
    found = shutil.which("voxspool")
    on_path = found is not None and Path(found).parent == commands
    activation = None if on_path else _activation(commands, shell)
    voxspool = "voxspool" if on_path or activation else shlex.quote(typed_path(commands / "voxspool"))
    plays, player = _can_play(), _player(output)
    steps = [
        (player, "play the file"),
        (activation, "put voxspool on your PATH"),
        (f'{voxspool} speak "Hello."{"" if plays else " -o hello.wav"}', "speak a text of your own"),
        (f"{voxspool} demo --play" if plays else None, "play this passage while it is made"),
    ]
    shown = [(command, why) for command, why in steps if command]
    width = max(len(command) for command, _ in shown)
    echo("", err=True)
    echo("Next steps:", err=True)
    if player is None:
        echo(f"  play {output} with any audio player, on this machine or another", err=True)
    for command, why in shown:
        echo(f"  {command:<{width}}   {why}", err=True)


def _player(path: Path) -> str | None:
    """Return a command that plays a file on this system, or None if there is none."""
    for player, suffixes in _PLAYERS.items():
        if path.suffix.lower() in suffixes and shutil.which(player.split()[0]):
            return f"{player} {shlex.quote(str(path))}"
    return None


def _activation(commands: Path, shell: str) -> str | None:
    """Return the command that activates the virtual environment of the folder `commands`; None if it is not one."""
    name = Path(shell).name
    script = commands / {"fish": "activate.fish", "csh": "activate.csh", "tcsh": "activate.csh"}.get(name, "activate")
    if not script.is_file():
        return None
    return f"{'.' if name in _PLAIN_SHELLS else 'source'} {shlex.quote(typed_path(script))}"


def _can_play() -> bool:
    """Return whether this machine can play audio."""
    from voxspool.audio.playback import check_loudspeaker

    try:
        check_loudspeaker()
    except (MissingExtraError, OutputError):
        return False
    return True
