"""`voxspool voices`: list voices; clone a voice from recordings, show it, remove it."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voxspool.amounts import counted
from voxspool.cli import options
from voxspool.command import CommandGroup
from voxspool.display import echo, echo_json
from voxspool.errors import MissingExtraError, UnknownVoiceError
from voxspool.hints import install_command
from voxspool.protocol.voices import CLONING_ENGINE, LANGUAGES
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from voxspool.client import Client
    from voxspool.protocol.voices import ClonedVoice
    from voxspool.workers import WorkerCard

_CLIPS = click.argument("clips", nargs=-1, required=True, metavar="CLIP...", type=click.Path(path_type=Path))
_LANGUAGE = click.option(
    "--language",
    "languages",
    multiple=True,
    help=f"A language of the voice, the default first; may be repeated [all: {' '.join(LANGUAGES)}].",
)
_REPLACE = click.option("--replace", is_flag=True, help="Replace the cloned voice of this name.")


@click.group(cls=CommandGroup, invoke_without_command=True)
@options.JSON
@options.REDIS
@click.pass_context
def voices(context: click.Context, /, **given: Any) -> None:  # noqa: ANN401 - what every command below takes
    """List the voices; clone, show or remove one.

    \b
    voxspool voices
    voxspool voices add alice one.wav two.flac
    voxspool voices show alice
    voxspool voices rm alice

    Speak with a voice: --voice alice, or with a mix of voices and their weights:
    --voice "alice(2)+Ana Florence(1)".
    """
    if context.invoked_subcommand is None:
        context.invoke(list_voices, **given)
    else:
        context.default_map = dict.fromkeys(voices.commands, given)


@voices.command("list")
@options.JSON
@options.REDIS
def list_voices(as_json: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """List the voices of live workers, or of this machine.

    \b
    voxspool voices list --json

    With a Redis it lists the voices of live workers and the cloned voices; without one, the voices of this machine.
    """
    from voxspool.embedded import somebody_listens

    settings = options.settings(redis_url)
    if not settings.redis_named and not somebody_listens(settings.redis_url):
        _list_own(as_json=as_json)
        return
    with options.open_client(settings) as client:
        rows = _rows(client.workers(), client.cloned_voices())
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        echo(
            f"{row['voice']:<28} {row['engine']:<6} {'/'.join(row['languages']) or 'any':<8} "
            f"{counted(row['workers'], 'worker')}{'  cloned' if row['cloned'] else ''}"
        )
    if not rows:
        echo("no live worker, so no voices; start one: voxspool-worker run", err=True)


@voices.command()
@click.argument("name")
@_CLIPS
@_LANGUAGE
@_REPLACE
@options.REDIS
def add(name: str, clips: tuple[Path, ...], languages: tuple[str, ...], replace: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """Clone the voice NAME from recordings of one speaker.

    \b
    voxspool voices add alice alice.wav
    voxspool voices add alice one.mp3 two.mp3 --language de --replace

    Record 10 to 30 s of clean speech as WAV, FLAC or MP3; 3 s is the least. The first 30 s of each recording are kept,
    and at most 60 s in all. They are stored in Redis, so that every worker has them. Clone only people who agreed.
    """
    with options.open_client(options.settings(redis_url)) as client:
        voice = client.add_voice(name, clips, replace=replace, languages=languages)
        _warn_where_nobody_clones(client)
    for path, clip in zip(clips, voice.clips, strict=True):
        if clip.recording_s > clip.duration_s:
            echo(f"{path}: its first {clip.duration_s:g} s of {clip.recording_s:.1f} s are kept", err=True)
    echo(f"voice {name} is cloned from {_said(voice)}; speak with it: --voice {name}")


@voices.command()
@click.argument("name")
@options.JSON
@options.REDIS
def show(name: str, as_json: bool, redis_url: str | None) -> None:  # noqa: FBT001 - click's way
    """Show the clips and languages of the cloned voice NAME.

    \b
    voxspool voices show alice
    """
    with options.open_client(options.settings(redis_url)) as client:
        cloned = client.cloned_voices()
    if name not in cloned:
        hint = did_you_mean(name, cloned)
        raise UnknownVoiceError(f"there is no cloned voice {name!r}{hint}; `voxspool voices` lists them")
    voice = cloned[name]
    if as_json:
        echo_json(dataclasses.asdict(voice))
        return
    echo(f"voice {name}: {_said(voice)}, added {voice.added}, languages {'/'.join(voice.languages) or 'any'}")
    for clip in voice.clips:
        echo(f"  {clip.duration_s:5.1f} s  {clip.sample_rate} Hz  sha256 {clip.sha256}")


@voices.command()
@click.argument("name")
@options.REDIS
def rm(name: str, redis_url: str | None) -> None:
    """Remove the cloned voice NAME and its clips.

    \b
    voxspool voices rm alice
    """
    with options.open_client(options.settings(redis_url)) as client:
        client.remove_voice(name)
    echo(f"voice {name} is removed")


def _list_own(*, as_json: bool) -> None:
    """Print the voices of this machine, as the installed worker lists them, after a line that says which they are.

    Raises MissingExtraError if no worker is installed.
    """
    if importlib.util.find_spec("voxspool_worker") is None:
        raise MissingExtraError(
            "no Redis answers on the default port, and there is no worker on this machine; name a Redis with --redis "
            f"URL, or install a worker: {install_command('voxspool-worker', 'piper')}"
        )
    echo("voxspool: no Redis answers on the default port; these are the voices of this machine:", err=True)
    command = [sys.executable, "-m", "voxspool_worker", "voices", "list"]
    if not as_json:
        raise SystemExit(subprocess.call(command))
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)  # the worker has printed the reason
    rows = [
        _row(name, row["engine"], row["languages"], 0)
        for row in json.loads(done.stdout)
        for name in (row["name"], *(f"{row['name']}#{speaker}" for speaker in row["speakers"]))
    ]
    echo_json(rows)


def _rows(workers: list[WorkerCard], cloned: dict[str, ClonedVoice]) -> list[dict[str, Any]]:
    """Return one row for each voice, sorted by name. A worker's own voice hides a cloned one of the same name."""
    having: dict[str, list[WorkerCard]] = {}
    for card in workers:
        for name in card.voices:
            having.setdefault(name, []).append(card)
    rows = [_row(name, cards[0].engine, cards[0].voices[name], len(cards)) for name, cards in having.items()]
    cloning = sum(card.clones for card in workers)
    rows += [
        _row(name, CLONING_ENGINE, list(voice.languages), cloning, cloned=True)
        for name, voice in cloned.items()
        if name not in having
    ]
    return sorted(rows, key=lambda row: str(row["voice"]))


def _row(voice: str, engine: str, languages: list[str], workers: int, *, cloned: bool = False) -> dict[str, Any]:
    """Return the row of one voice."""
    return {"voice": voice, "engine": engine, "languages": languages, "workers": workers, "cloned": cloned}


def _said(voice: ClonedVoice) -> str:
    """Return the number and the length of a voice's clips."""
    return f"{counted(len(voice.clips), 'clip')}, {voice.duration_s:.1f} s"


def _warn_where_nobody_clones(client: Client) -> None:
    """Warn if no live worker can speak with a cloned voice."""
    if not any(card.clones for card in client.workers()):
        echo(
            f"voxspool: no live worker speaks cloned voices; start one: voxspool-worker run --engine {CLONING_ENGINE}",
            err=True,
        )
