"""`voxspool-worker voices`: list the voices on this machine; search Piper's catalogue, download and try its voices.

No command asks a question: `get` shows the licence and the data set of a voice, then downloads it.
"""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voxspool.command import InterruptibleGroup
from voxspool.display import echo, echo_json, printable
from voxspool.errors import CheckpointError, MissingExtraError, OutputError, UnknownLanguageError, UnknownVoiceError
from voxspool.hints import install_command, program
from voxspool.protocol.stream import Audio, Begin, End
from voxspool.protocol.voices import LANGUAGES, PIPER_NAME
from voxspool.suggestions import did_you_mean
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import numpy.typing as npt
    from rich.progress import Progress

    from voxspool_worker.voices.catalog import Voice
    from voxspool_worker.voices.downloads import Catalogue, CatalogueVoice

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.group(cls=InterruptibleGroup)
def voices() -> None:
    """List the voices on this machine; search, get and try Piper's.

    \b
    voxspool-worker voices list                        list installed voices
    voxspool-worker voices search german               search Piper's catalogue
    voxspool-worker voices get en_US-ljspeech-medium   download a voice
    voxspool-worker voices try en_US-ljspeech-medium   hear it

    Cloned voices are stored in Redis; `voxspool voices` lists them.
    """


@voices.command("list")
@_JSON
def list_voices(as_json: bool) -> None:  # noqa: FBT001 - click's way
    """List the voices on this machine.

    \b
    voxspool-worker voices list
    voxspool-worker voices list --json

    The list has the Piper voices in the worker's voice folders and the speakers of XTTS's checkpoint.
    """
    settings = Settings.from_env()
    rows = [*_piper_rows(settings), *_xtts_rows(settings)]
    if as_json:
        echo_json(rows)
        return
    if rows:
        headings = ("name", "engine", "languages", "quality", "licence", "folder")
        _print_table(headings, [[_cell(row[name]) for name in headings] for row in rows])
    for row in rows:
        if row["speakers"]:
            count, name = len(row["speakers"]), row["name"]
            echo(f"{name} has {count} speakers: {name}#{row['speakers'][0]} and so on; --json lists them")
        for warning in row["warnings"]:
            echo(f"{row['name']}: {warning}")
    if not rows:
        echo(f"there is no voice on this machine; {_how_to_begin(settings)}", err=True)
    elif importlib.util.find_spec("piper") is None:
        echo(f"Piper is not installed: {install_command('voxspool-worker', 'piper')}", err=True)


@voices.command()
@click.argument("language", required=False)
@_JSON
def search(language: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Search Piper's catalogue of voices.

    \b
    voxspool-worker voices search german
    voxspool-worker voices search en_GB --json

    LANGUAGE is a code or a name, such as de, de_DE or german; without it, all voices are shown. The command fetches the
    catalogue each time and downloads nothing else.
    """
    settings = Settings.from_env()
    here = _names_here(settings)
    found = _catalogue(settings).search(language)
    if as_json:
        rows = [_remote_row(voice) | {"here": voice.name in here} for voice in found]
        echo_json(rows)
        return
    _print_table(
        ("name", "language", "quality", "size", "speakers", "here"),
        [
            (
                voice.name, voice.spoken, voice.quality, f"{voice.size_bytes / 1e6:.0f} MB",
                str(voice.speakers), "yes" if voice.name in here else "",
            )
            for voice in found
        ],
    )  # fmt: skip


@voices.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def get(names: tuple[str, ...]) -> None:
    """Download voices for the worker on this machine.

    \b
    voxspool-worker voices get en_US-ljspeech-medium

    The command first shows each voice's data set and licence. It checks the files against the catalogue's digests; they
    appear only when all of them are complete. They are stored in the folder VOXSPOOL_PIPER_VOICES, or else in the voice
    folder of your own user.
    """
    from voxspool_worker.engines.piper import voice_folders

    settings = Settings.from_env()
    folders = voice_folders(settings.piper_voices, settings.voices_dir)
    catalogue = _catalogue(settings)
    for voice in [catalogue.find(name.partition("#")[0]) for name in dict.fromkeys(names)]:
        _get(catalogue, voice, folders)


@voices.command("try")
@click.argument("name")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write a file (.wav .flac .mp3 .ogg .opus) instead of playing.",
)  # fmt: skip
def try_voice(name: str, output: Path | None) -> None:
    """Speak a sentence with a voice, and play it.

    \b
    voxspool-worker voices try en_US-ljspeech-medium
    voxspool-worker voices try en_US-ljspeech-medium -o try.wav

    NAME is a Piper voice on this machine. The sentence is the first one of article 1 of the Universal Declaration of
    Human Rights, in the voice's language.
    """
    from voxspool.audio.files import check_output

    settings = Settings.from_env()
    voice = _find(name, settings)
    if output:
        check_output(output)
    else:
        _check_loudspeaker(f"{program('voxspool-worker')} voices try {shlex.quote(name)} -o try.wav")
    samples, rate = _speak(voice, settings)
    if output:
        _write(output, samples, rate)
        echo(f"{output}: {len(samples) / rate:.1f} s of {name}")
    else:
        _play(samples, rate)


# list


def _piper_rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield one row for each voice in Piper's folders."""
    from voxspool_worker.engines.piper import card_of, find_voices, voice_folders
    from voxspool_worker.voices.downloads import Card

    found = find_voices(voice_folders(settings.piper_voices, settings.voices_dir))
    for name, (voice, source) in found.items():
        if "#" in name:
            continue
        card = Card.read(card_of(source.model))
        yield {
            "name": name,
            "engine": "piper",
            "languages": list(voice.languages),
            "quality": name.rpartition("-")[2] if PIPER_NAME.fullmatch(name) else "",
            "licence": card.licence,
            "warnings": card.warnings(),
            "folder": str(source.model.parent),
            "speakers": [one.partition("#")[2] for one in found if one.startswith(f"{name}#")],
        }


def _xtts_rows(settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield one row for each speaker of XTTS's checkpoint, if this machine has it and PyTorch."""
    from voxspool_worker.engines.xtts import checkpoint

    somewhere = settings.xtts_dir or any(
        (at / checkpoint.WEIGHTS).exists() for at in checkpoint.cache_folders(settings)
    )
    if not somewhere or importlib.util.find_spec("torch") is None:
        return
    from voxspool_worker.engines.xtts import model

    try:
        found = checkpoint.find(settings)
        names = list(model.speakers(found))
    except CheckpointError as error:
        echo(f"XTTS: {error}", err=True)
        return
    for name in names:
        yield {
            "name": name, "engine": "xtts", "languages": list(LANGUAGES), "quality": "", "licence": "CPML",
            "folder": str(found.folder), "speakers": [], "warnings": [],
        }  # fmt: skip


def _names_here(settings: Settings) -> set[str]:
    """Return the names of the Piper voices that this machine has."""
    from voxspool_worker.engines.piper import find_voices, voice_folders

    return set(find_voices(voice_folders(settings.piper_voices, settings.voices_dir)))


def _how_to_begin(settings: Settings) -> str:
    """Return the advice for a machine without a voice."""
    from voxspool_worker.engines.piper import STARTER, get_command

    return f"get one: {get_command(settings.piper_voices)} {STARTER}"


def _cell(value: object) -> str:
    """Return a value of a row as it is printed."""
    if isinstance(value, list):
        return "/".join(value) if len(value) <= 3 else f"{len(value)} languages"
    return str(value) or "-"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns, each as wide as its longest cell."""
    lines = [headings, *rows]
    widths = [max(len(printable(line[column])) for line in lines) for column in range(len(headings))]
    for line in lines:
        echo("  ".join(printable(cell).ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


# search and get


def _catalogue(settings: Settings) -> Catalogue:
    """Fetch the catalogue that the settings name, or else piper-tts's own."""
    from voxspool_worker.voices import downloads

    return downloads.fetch(settings.piper_catalogue or _pipers_own())


def _remote_row(voice: CatalogueVoice) -> dict[str, Any]:
    """Return the JSON fields of a voice in the catalogue."""
    return {
        "name": voice.name, "language": voice.code, "language_name": voice.language, "country": voice.country,
        "quality": voice.quality, "size_bytes": voice.size_bytes, "speakers": voice.speakers,
    }  # fmt: skip


def _pipers_own() -> str:
    """Return the address of piper-tts's own catalogue. Raises MissingExtraError if piper-tts is not installed."""
    if importlib.util.find_spec("piper") is None:
        raise MissingExtraError(
            f"Piper's voices need piper-tts; install it: {install_command('voxspool-worker', 'piper')}"
        )
    from piper.download_voices import VOICES_JSON

    return VOICES_JSON


def _get(catalogue: Catalogue, voice: CatalogueVoice, folders: Sequence[Path]) -> None:
    """Show the data set and licence of a voice, download it unless it is installed, and print how to use it."""
    from voxspool_worker.voices import downloads

    target = folders[0]
    whole = next((folder for folder in folders if downloads.is_whole(voice, folder)), None)
    if whole:
        echo(f"{voice.name} is already complete in {whole}")
        return
    card = downloads.fetch_card(catalogue, voice)
    for line in _described(voice, card):
        echo(line)
    replaced = (target / f"{voice.name}{downloads.CONFIG}").exists()
    with _progress() as progress:
        task = progress.add_task(printable(voice.name), total=voice.size_bytes)
        downloads.get(catalogue, voice, card, target, lambda size: progress.advance(task, size))
    done = "replaced a different version" if replaced else "stored"
    echo(f"  {done} in {target}; restart a running worker to use the voice")
    echo(f'  voxspool speak "Hello." --voice {voice.name} -o hello.wav')


def _described(voice: CatalogueVoice, card: str) -> Iterator[str]:
    """Yield lines that describe a voice, its data set and what its licence allows."""
    from voxspool_worker.voices.downloads import Card

    told = Card.read(card)
    speakers = "1 speaker" if voice.speakers == 1 else f"{voice.speakers} speakers"
    size = f"{voice.size_bytes / 1e6:.0f} MB"
    yield f"{voice.name}: {voice.spoken}, {voice.quality}, {speakers}, {size}"
    yield f"  data set: {told.dataset or 'the model card names none'}"
    yield f"  licence:  {told.licence or 'the model card names none'}"
    if told.training:
        yield f"  training: {told.training}"
    for warning in told.warnings():
        yield f"  NOTE: {warning}"


def _progress() -> Progress:
    """Return a progress bar on stderr; it shows nothing if stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("  {task.description}", markup=False), BarColumn(bar_width=24), DownloadColumn(),
        TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip


# try


def _find(name: str, settings: Settings) -> Voice:
    """Return a Piper voice on this machine. Raises UnknownVoiceError."""
    from voxspool_worker.engines.piper import find_voices, get_command, voice_folders

    found = find_voices(voice_folders(settings.piper_voices, settings.voices_dir))
    if name not in found:
        raise _not_here(name, found, get_command(settings.piper_voices))
    return found[name][0]


def _speak(voice: Voice, settings: Settings) -> tuple[npt.NDArray[np.int16], int]:
    """Speak the sample sentence of the voice's language; return samples, shape (n,), and their rate in Hz."""
    from voxspool_worker.engines.base import SpeechSegment
    from voxspool_worker.engines.piper import PiperEngine, get_command, voice_folders
    from voxspool_worker.voices.sample_sentences import SENTENCES

    language = voice.language(None)
    sentence = SENTENCES.get(language.partition("-")[0])
    if sentence is None:
        raise UnknownLanguageError(
            f"there is no sample sentence in {language}; speak a text of your own: "
            f"voxspool speak TEXT --voice {shlex.quote(voice.name)}"
        )
    folders = voice_folders(settings.piper_voices, settings.voices_dir)
    engine = PiperEngine(folders, first=voice.name, get=get_command(settings.piper_voices))
    engine.admit(SpeechSegment("try", 0, sentence, 0, len(sentence), 0.0, voice, language, 1.0, 0))
    (chunk,) = engine.step()
    return chunk.pcm, engine.sample_rate


def _not_here(name: str, found: Iterable[str], command: str) -> UnknownVoiceError:
    """Return the error for a voice that is not on this machine."""
    voice = name.partition("#")[0]
    if PIPER_NAME.fullmatch(voice) and voice not in found:
        return UnknownVoiceError(f"voice {name} is not on this machine; get it: {command} {voice}", wrong_value=False)
    hint = did_you_mean(name, found)
    search = f"{program('voxspool-worker')} voices search"
    return UnknownVoiceError(f"there is no Piper voice {name!r:.80} on this machine{hint}; `{search}` shows others")


def _write(path: Path, samples: npt.NDArray[np.int16], rate: int) -> None:
    """Write samples to a sound file, which appears when it is complete."""
    from voxspool.audio.files import Writer

    with Writer(path, rate) as writer:
        writer.write(samples)
        writer.finish()


def _check_loudspeaker(instead: str) -> None:
    """Raise MissingExtraError or OutputError, with the command to run instead, if this machine cannot play sound."""
    from voxspool.audio.playback import check_loudspeaker

    try:
        check_loudspeaker()
    except (MissingExtraError, OutputError) as error:
        raise type(error)(f"{error}: {instead}") from error


def _play(samples: npt.NDArray[np.int16], rate: int) -> None:
    """Play samples."""
    from voxspool.audio.playback import play

    play(
        [
            Begin(0, rate, "piper", model="", voice="", language="", seed=0),
            Audio(0, samples.tobytes()),
            End(len(samples), len(samples) / rate, segments=1, first_chunk_s=None, real_time_factor=None),
        ]
    )
