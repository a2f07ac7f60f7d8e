"""`voxspool narrate`: make the audio files of a book, with one job for each chapter; a second run resumes the first."""

from __future__ import annotations

import mimetypes
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from voxspool import speeds
from voxspool.cli import options
from voxspool.cli.books import as_path, warn
from voxspool.cli.progress import Unserved
from voxspool.cli.speak import OWN_ENGINE, client_or_embedded
from voxspool.command import INTERRUPTED, EngineName
from voxspool.display import echo
from voxspool.embedded import somebody_listens
from voxspool.errors import (
    BookError,
    InvalidJobError,
    OutputError,
    RedisError,
    StoreError,
    UnknownEngineError,
    UnknownLanguageError,
    UnknownVoiceError,
)
from voxspool.narration.options import ALWAYS, FORMATS, NarrationOptions, chosen, voices_of
from voxspool.protocol.jobs import AUTO, MAX_SPEED, MIN_SPEED, JobSpec, queue_name
from voxspool.protocol.voices import how_to_get
from voxspool.queue.routing import route
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voxspool.books.book import Book
    from voxspool.cli.narration_progress import ProgressDisplay
    from voxspool.client import Client
    from voxspool.narration.output_folder import OutputFolder, StoredNarration
    from voxspool.narration.plan import PlannedChapter
    from voxspool.narration.run import Narration
    from voxspool.settings import Settings
    from voxspool.store.segments import Store
    from voxspool.workers import WorkerCard

PRESETS: Final = ("podcast", "ebu", "acx")
VERIFY_MODEL: Final = "base"
"""The Whisper model of --verify if the user names none."""
FAILED: Final = 1
"""Exit code if a segment failed its checks, a chapter was given up, or a part of the book could not be read."""


@dataclass(frozen=True, slots=True)
class NarrateArguments:
    """The options of the command line, without the book and the folder."""

    settings: Settings
    private: bool
    only: str | None
    skip: str | None
    voices: tuple[str, ...]
    pronunciations: Path | None
    formats: tuple[str, ...]
    loudness: str | None
    verify: str | None
    speech: dict[str, Any]
    """Those of voice, language, engine, speed and seed that were given."""

    def narration_options(self, book: Book, engine: str) -> NarrationOptions:
        """Return the options of a narration. Raises BookError."""
        last = len(book.chapters)
        said = {"voice": self.settings.voice} | self.speech | {"engine": engine}
        return NarrationOptions(
            **said,
            chapters=chosen(last, self.only, self.skip),
            voices=voices_of(self.voices, last),
            formats=self._formats,
            loudness=self.loudness,
            verify=self.verify,
        )

    @property
    def _formats(self) -> tuple[str, ...]:
        """Return the formats of the files. The loudness `acx` adds MP3, which ACX requires."""
        wanted = {*ALWAYS, *self.formats, *(["mp3"] if self.loudness == "acx" else [])}
        return tuple(one for one in FORMATS if one in wanted)

    @property
    def rules(self) -> list[Path]:
        """Return the pronunciation files; a later one overrides an earlier one."""
        return [path for path in (self.settings.pronunciations, self.pronunciations) if path]


def _folder_name(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Return the output folder. Raises click.BadParameter for a file or a new folder with a name like a file's."""
    if path is None or path.is_dir():
        return path
    if path.exists():
        raise click.BadParameter(
            f"{path} is a file, but a folder is needed; name one, such as -o book", context, parameter
        )
    kind = path.suffix.lower().removeprefix(".")
    if kind in FORMATS or mimetypes.MimeTypes().guess_type(path.name)[0]:
        to = f" --to {kind}" if kind in FORMATS and kind not in ALWAYS else ""
        message = f"{path} looks like a file, but a folder is needed; write -o {path.stem}{to}"
        raise click.BadParameter(message, context, parameter)
    return path


def _any_given(names: Iterable[str]) -> bool:
    """Return whether the command line gives one of these options."""
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in names)


def _book_after_verify(verify: str | None) -> tuple[str, str | None]:
    """Return the book and the model if BOOK is missing: click reads `--verify BOOK` as the name of a model."""
    if verify is not None and (verify == "-" or Path(verify).exists()):
        return verify, VERIFY_MODEL
    taken = f" ({verify} after --verify is read as a Whisper model)" if verify and verify != VERIFY_MODEL else ""
    raise click.UsageError(f"name a BOOK{taken}, such as: voxspool narrate book.epub -o book; or - for stdin")


@click.command()
@click.argument("book", required=False)
@click.option("-o", "--output", "output", type=click.Path(path_type=Path), metavar="DIR", callback=_folder_name,
              help="Folder for the files. Run again with the same folder to resume.")  # fmt: skip
@click.option("--plan", "plan_only", is_flag=True, help="Show chapters, time and size; speak nothing.")
@click.option("--chapters", "only", metavar="2-5", help="Narrate only these chapters, such as 2-5 or 1,3.")
@click.option("--skip", metavar="1,9", help="Leave out these chapters, such as 1,9.")
@click.option("--voice", help="A voice from `voxspool voices` [VOXSPOOL_VOICE, else the engine's own].")
@click.option("--voice-of", "voices", metavar="2-5=NAME", multiple=True,
              help="Use another voice for these chapters; may be repeated.")  # fmt: skip
@click.option("--language", help="Language of the book, such as en or pt-br [the book's own].")
@click.option("--engine", type=EngineName(AUTO), help="Engine that speaks [VOXSPOOL_ENGINE, else auto].")
@click.option("--speed", type=float, help=f"Rate of speech, {MIN_SPEED} to {MAX_SPEED} [1.0].")
@click.option("--seed", type=int,
              help="Random seed. Engines that use random numbers read differently with another seed [0].")  # fmt: skip
@click.option("--pronunciations", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="File with lines `word => spoken`; they override those of VOXSPOOL_PRONUNCIATIONS.")  # fmt: skip
@click.option("--to", "formats", type=click.Choice(FORMATS), multiple=True,
              help="Also make files of this format; may be repeated [flac, srt and vtt are always made].")  # fmt: skip
@click.option("--loudness", type=click.Choice(PRESETS), help="Bring the whole book to this loudness [unchanged].")
@click.option("--verify", is_flag=False, flag_value=VERIFY_MODEL, metavar="[MODEL]",
              help="Compare a transcript of the speech with the text. "
                   "MODEL is a Whisper model's name or folder [base].")  # fmt: skip
@click.option("--detach", is_flag=True, help="Enqueue the chapters, print how to resume, and exit.")
@click.option("--attach", metavar="ID", help="Resume the narration with this id.")
@options.JSON
@options.PRIVATE
@options.REDIS
def narrate(
    book: str | None, output: Path | None, redis_url: str | None, attach: str | None, plan_only: bool,  # noqa: FBT001 - click's way
    private: bool, detach: bool, as_json: bool, **said: Any,  # noqa: ANN401, FBT001 - click's way
) -> None:  # fmt: skip
    """Make an audiobook of BOOK in the folder DIR.

    \b
    voxspool narrate book.epub --plan                 chapters, time, size
    voxspool narrate book.epub -o book --to m4b --loudness podcast
    voxspool narrate article.md -o article --detach   do not wait for the workers
    voxspool narrate --attach book-3fa12c             resume it

    BOOK is an EPUB, Markdown, text, HTML, PDF or DOCX file, a folder of such files, or - for stdin. After
    Ctrl-C the workers continue, unless the command started them. The exit code is 0 if every segment was spoken and
    passed its checks.
    """
    settings = options.settings(redis_url, private=private)
    if attach is not None:
        if book or output or plan_only or detach or private or _any_given(said):
            raise click.UsageError(
                "--attach ID takes no BOOK and no option but --json and --redis: the narration keeps its own options"
            )
        raise SystemExit(_attach(settings, attach, as_json=as_json))
    if book is None:
        book, said["verify"] = _book_after_verify(said["verify"])
    if output is None and not plan_only:
        raise click.UsageError(f"name a folder for the files, such as: voxspool narrate {shlex.quote(book)} -o book")
    if private and detach:
        raise click.UsageError("--private and --detach exclude each other: a private worker ends with the command")
    if detach and not (settings.redis_named or somebody_listens(settings.redis_url)):
        raise click.UsageError(
            "--detach needs a Redis and workers that continue without this command, but no Redis answers on the "
            "default port; start redis-server and `voxspool-worker run`, name a Redis with --redis, or leave out "
            "--detach"
        )
    asked = _asked(settings, said, private=private)
    if plan_only:
        _plan(asked, book, as_json=as_json)
        return
    assert output
    raise SystemExit(_begin(asked, book, output, as_json=as_json, detach=detach))


def _asked(settings: Settings, said: dict[str, Any], *, private: bool) -> NarrateArguments:
    """Return the arguments in one object. Raises InvalidJobError for a value that no speech can have."""
    speech = options.said({name: said[name] for name in ("voice", "language", "engine", "speed", "seed")})
    options.job_spec("", settings, speech)
    return NarrateArguments(
        settings, private, said["only"], said["skip"], said["voices"], said["pronunciations"], said["formats"],
        said["loudness"], said["verify"], speech,
    )  # fmt: skip


def _begin(asked: NarrateArguments, source: str, output: Path, *, as_json: bool, detach: bool) -> int:
    """Start a narration, or resume the one in the same folder; return the exit code."""
    from voxspool.books.child import read_within_limits
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.narration.delivery import check_extras
    from voxspool.narration.output_folder import OutputFolder
    from voxspool.narration.plan import plan
    from voxspool.store.backends import open_place

    open_place(asked.settings.store)  # refuses a wrong name before anything is started
    with as_path(source) as path:
        book = read_within_limits(path)
        warn(book)
        if "epub" in asked.formats and not book.has_places:
            raise BookError(
                f"{source} is not an EPUB, and --to epub adds the speech to the EPUB of the book", wrong_value=True
            )
        wanted = asked.speech.get("engine", asked.settings.engine)
        narration_options = asked.narration_options(book, wanted)
        check_extras(narration_options)
        # Planning refuses wrong values before anything is started.
        plan(book, narration_options, Pronunciations.read(*asked.rules))
        folder = OutputFolder(output)
        _make(folder)
        if wanted == AUTO:
            wanted = _engine_before(folder, book) or AUTO
        if detach:
            open_client: Any = options.open_client(asked.settings)
        else:
            open_client = client_or_embedded(asked.settings, wanted, private=asked.private)
        with open_client as client:
            narration_options = asked.narration_options(book, _engine(client, asked, wanted))
            kept = folder.prepare(book.title, narration_options, path, asked.rules)
            return _run(client, folder, kept, book, as_json=as_json, detach=detach)


def _make(folder: OutputFolder) -> None:
    """Create the folder of a narration. Raises OutputError, as a wrong value, if that is impossible."""
    try:
        folder.make()
    except OutputError as error:
        raise OutputError(str(error), wrong_value=True) from error


def _attach(settings: Settings, name: str, *, as_json: bool) -> int:
    """Resume a narration that was started on this machine; return the exit code."""
    from voxspool.books.child import read_within_limits
    from voxspool.narration.jobs import NarrationJobs
    from voxspool.narration.output_folder import OutputFolder

    with options.open_client(settings) as client:
        record = NarrationJobs(client).find(name)
        folder = OutputFolder(Path(record.folder))
        try:
            kept = folder.load()
        except BookError:
            kept = None
        if kept is None:
            raise BookError(
                f"narration {name} writes to {record.folder} on {record.host}, which cannot be read from here; run the "
                "command there"
            )
        if kept.id != name:
            raise BookError(
                f"narration {name} writes to {record.folder} on {record.host}, but the folder of that name on this "
                f"machine belongs to narration {kept.id}; run the command on {record.host}, or attach to {kept.id}"
            )
        return _run(client, folder, kept, read_within_limits(kept.source), as_json=as_json, detach=False)


def _run(
    client: Client, folder: OutputFolder, kept: StoredNarration, book: Book, *, as_json: bool, detach: bool
) -> int:
    """Enqueue the missing chapters, follow them and make the files; return the exit code."""
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.cli.narration_progress import show_for
    from voxspool.narration.plan import plan
    from voxspool.narration.run import Narration
    from voxspool.store.segments import Store

    store = Store(client.settings.store)
    chapters = plan(book, kept.options, Pronunciations.read(*kept.pronunciations))
    serving = client.serving(queue_name(kept.options.engine, "batch"))
    check_workers(kept.options, kept.options.language or book.language, _voices(chapters), serving, store)
    narration = Narration(client, folder, kept.id, book.title, kept.options, store, chapters)
    narration.load_tracks()
    with show_for(narration, client, book, as_json=as_json) as show:
        try:
            narration.enqueue(show.busy)
            show.placed(narration.jobs)
            if detach:
                show.left(kept.id)
                return 0
            return _follow(narration, client, show, folder, kept, book, store)
        except KeyboardInterrupt:
            if client.url == client.settings.redis_url:
                show.left(kept.id)
            else:
                show.stopped()
            return INTERRUPTED


def _follow(
    narration: Narration,
    client: Client,
    show: ProgressDisplay,
    folder: OutputFolder,
    kept: StoredNarration,
    book: Book,
    store: Store,
) -> int:
    """Follow the chapters until they end, make the files and show the result; return the exit code."""
    from voxspool.narration.delivery import Delivery
    from voxspool.narration.run import ChapterSpoken, Waiting

    unserved, queue = Unserved(client, has_private=True), queue_name(kept.options.engine, "batch")
    delivery = Delivery(folder, kept, book, store)
    for news in narration.events():
        show.take(news)
        if isinstance(news, ChapterSpoken):
            for made in delivery.chapter(news.track):
                show.made(made)
        if isinstance(news, Waiting):
            unserved.look(queue)
    for made in delivery.book(narration.tracks, narration.given_up):
        show.made(made)
    outcome = delivery.result(narration.loaded)
    show.end(outcome)
    return 0 if outcome.ok else FAILED


def check_workers(
    narration_options: NarrationOptions,
    language: str | None,
    voices: Sequence[str],
    serving: list[WorkerCard],
    store: Store,
) -> None:
    """Check that the live workers can speak the book. Without any, the jobs wait for one.

    Raises UnknownVoiceError, UnknownLanguageError, StoreError, and InvalidJobError if the workers would speak with
    different voices.
    """
    if not serving:
        return
    sharing = [card for card in serving if card.store in ("", store.id)]  # "": the worker is still opening its store
    if not sharing:
        raise StoreError(
            f"no worker with the engine {narration_options.engine} uses the segment store {store}, which this command "
            "reads; set the same VOXSPOOL_STORE for the workers and for this command"
        )
    for voice in voices:
        if not any(card.has(voice) or card.clones for card in sharing):
            hint = did_you_mean(voice, {name for card in sharing for name in card.voices})
            raise UnknownVoiceError(
                f"no live worker has a voice {voice!r}{hint}; `voxspool voices` lists them{how_to_get(voice)}"
            )
    _check_language(narration_options, language, sharing)
    own = {next(iter(card.voices), "") for card in sharing}
    if narration_options.voice is None and len(own) > 1:
        raise InvalidJobError(
            f"the live workers have different default voices ({', '.join(sorted(own))}); name the book's with --voice"
        )


def _check_language(narration_options: NarrationOptions, language: str | None, sharing: list[WorkerCard]) -> None:
    """Check that a worker speaks the language, with the voice of the book or any. Raises UnknownLanguageError."""
    named = narration_options.voice if any(narration_options.voice in card.voices for card in sharing) else None
    spec = JobSpec("", voice=named, language=language, engine=narration_options.engine)
    if not any(card.could_speak(spec) for card in sharing):
        refusal = f"the voice {named} does not speak it" if named else "no voice of the live workers speaks it"
        raise UnknownLanguageError(
            f"the book's language is {language}, but {refusal}; choose another voice with --voice, or another language "
            "with --language"
        )


def _voices(chapters: Sequence[PlannedChapter]) -> list[str]:
    """Return the voices that the chapters and their parts name, each once."""
    named = [chapter.voice for chapter in chapters] + [part.voice for chapter in chapters for part in chapter.parts]
    return list(dict.fromkeys(voice for voice in named if voice))


def _engine(client: Client, asked: NarrateArguments, wanted: str) -> str:
    """Return the wanted engine of a book; for `auto`, choose one by the live workers. Raises UnknownEngineError."""
    if wanted != AUTO:
        return wanted
    voice = asked.speech.get("voice", asked.settings.voice)
    spec = JobSpec("", voice=voice, language=asked.speech.get("language"), priority="batch")
    live = client.workers()
    chosen = route(spec, live, client.cloned_voices() if voice else ()).engine
    engines = {card.engine for card in live if card.queues}
    if chosen == AUTO and len(engines) == 1:
        return engines.pop()
    if chosen == AUTO:
        raise UnknownEngineError(
            f"no live worker can speak this book{f' with the voice {voice!r}' if voice else ''}; "
            "start a worker, or name an engine with --engine"
            f"{'' if asked.settings.redis_named else f'; or {options.ADD_PRIVATE}'}",
            wrong_value=False,
        )
    return chosen


def _engine_before(folder: OutputFolder, book: Book) -> str | None:
    """Return the engine with which this book was begun in a folder, or None: a resumed book keeps its engine."""
    try:
        kept = folder.load()
    except BookError:
        return None
    return kept.options.engine if kept.title == book.title else None


def _plan(asked: NarrateArguments, source: str, *, as_json: bool) -> None:
    """Print the plan of a narration: chapters, time, size."""
    from voxspool.books.child import read_within_limits
    from voxspool.books.pronunciation import Pronunciations
    from voxspool.cli.narration_plan import show_plan
    from voxspool.narration.plan import plan
    from voxspool.store.segments import Store

    with as_path(source) as path:
        book = read_within_limits(path)
    warn(book)
    live, engine = _live(asked)
    narration_options = asked.narration_options(book, engine)
    chapters = plan(book, narration_options, Pronunciations.read(*asked.rules))
    own = {card.store for card in live} - {""}
    store = Store(asked.settings.store).id if own else ""
    here = speeds.recall(asked.settings.cache_dir, OWN_ENGINE if engine == AUTO else engine)
    show_plan(book, chapters, narration_options, live, store, here, as_json=as_json)


def _live(asked: NarrateArguments) -> tuple[list[WorkerCard], str]:
    """Return the live workers and the engine that would speak; without a Redis, no workers and the wanted engine."""
    wanted = asked.speech.get("engine", asked.settings.engine)
    if asked.private:
        return [], wanted
    try:
        client = options.open_client(asked.settings)
    except RedisError as error:
        if asked.settings.redis_named:
            echo(f"voxspool: the plan cannot estimate the time: {error}", err=True)
        return [], wanted
    with client:
        live = client.workers()
        try:
            return live, _engine(client, asked, wanted)
        except UnknownEngineError:
            return live, wanted
