"""Piper's catalogue of voices: read it, search it, and download voices from it, whole or not at all.

    voices.json ─► Catalogue ─► search
                             └─► card (licence, data set) ─► get ─► NAME.MODEL_CARD, NAME.onnx, NAME.onnx.json

The catalogue is fetched each time and never kept: it is one file of some 200 kB, and it has the digests of the voices
beside it as they are today. It is not trusted: a name or a path becomes the name of a file only if it has the form of
Piper's own. It uses addresses and files; no engine, and not the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import time
import unicodedata
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin

import psutil

from voxspool import background
from voxspool.atomic_file import PartialFile, partial_files
from voxspool.errors import CatalogueError, OutputError, UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.voices import PIPER_NAME
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ANSWER_S: Final = 8.0
"""How long an address may take to answer, and a download may stand still, in seconds."""
SMALL_S: Final = 60.0
"""How long the catalogue or a model card may take, in seconds."""
CATALOGUE_BYTES: Final = 16 * 2**20
CARD_BYTES: Final = 64 * 2**10
"""The largest catalogue and card that are read. Of Piper's, in 2026: 230 kB and 4 kB."""
MODEL_BYTES: Final = 2 * 2**30
"""The largest file of a voice; of Piper's, 137 MB."""
BLOCK_BYTES: Final = 2**18
MODEL, CONFIG, CARD = ".onnx", ".onnx.json", ".MODEL_CARD"
"""What follows a voice's name in the names of its files here. At its source each voice's card is called MODEL_CARD."""
REMOTE_CARD: Final = "MODEL_CARD"

_PART: Final = re.compile(r"[\w\u0300-\u036f][\w\u0300-\u036f.-]*")
"""One part of a path in the catalogue. It cannot be `..`, start with a dot, or hold a separator of any system."""
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_UNPRINTABLE: Final = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a voice, as the catalogue describes it."""

    path: str
    """Relative to the catalogue's address."""
    size_bytes: int
    md5: str


@dataclass(frozen=True, slots=True)
class CatalogueVoice:
    """A voice that can be got."""

    name: str
    code: str
    """Of its language, like en_US."""
    language: str
    """In English."""
    native: str
    """The language's own name."""
    country: str
    quality: str
    speakers: int
    model: RemoteFile
    config: RemoteFile
    card: str | None
    """The path of its model card."""

    @property
    def size_bytes(self) -> int:
        """The size of the download."""
        return self.model.size_bytes + self.config.size_bytes

    @property
    def spoken(self) -> str:
        """Its language and country in words."""
        return f"{self.language} ({self.country})" if self.country else self.language

    def speaks(self, wanted: str) -> bool:
        """Return whether its language is meant by `de`, `de_DE`, `de-de`, `german` or `Deutsch`."""
        return _plain(wanted) in {
            _plain(name) for name in (self.code, self.code.partition("_")[0], self.language, self.native)
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All voices of a catalogue that can be got, by name."""

    url: str
    voices: dict[str, CatalogueVoice]
    unusable: frozenset[str] = field(default_factory=frozenset)
    """Names whose description cannot be used."""

    def find(self, name: str) -> CatalogueVoice:
        """Return a voice by its name. Raises UnknownVoiceError with near names, CatalogueError."""
        wanted = unicodedata.normalize("NFC", name)
        if wanted in self.unusable:
            raise CatalogueError(f"{self.url} describes the voice {_shown(wanted)} in a way that cannot be used here")
        try:
            return self.voices[wanted]
        except KeyError:
            hint = did_you_mean(wanted, self.voices)
            raise UnknownVoiceError(f"the catalogue has no voice {_shown(name)}{hint}") from None

    def search(self, language: str | None) -> list[CatalogueVoice]:
        """Return the voices of a language, or all, by name. Raises UnknownLanguageError with near names."""
        found = [voice for voice in self.voices.values() if language is None or voice.speaks(language)]
        if not found and language is not None:
            names = {name for voice in self.voices.values() for name in (voice.code, voice.language.lower())}
            raise UnknownLanguageError(
                f"the catalogue has no voice that speaks {_shown(language)}{did_you_mean(language.lower(), names)}; "
                "name a language like de, de_DE or german"
            )
        return sorted(found, key=lambda voice: voice.name)


@dataclass(frozen=True, slots=True)
class Card:
    """What a voice's model card says of its data."""

    dataset: str = ""
    licence: str = ""
    training: str = ""

    @classmethod
    def read(cls, text: str) -> Card:
        """Read a model card of Piper's: Markdown with `* URL:` and `* License:` lines and a section on training."""
        wanted = (r"^\W*URL\s*:(.*)$", r"^\W*Licen[cs]e\s*:(.*)$")
        dataset, licence = ("; ".join(_lines(re.findall(one, text, re.MULTILINE | re.IGNORECASE))) for one in wanted)
        training = re.search(r"^#+\s*Training\s*$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
        return cls(dataset, licence, " ".join(_lines(training[1].splitlines())) if training else "")

    def warnings(self) -> list[str]:
        """Return what a person who wants to publish or sell speech of the voice must know, one sentence each."""
        said = []
        if _NO_COMMERCE.search(self.licence) or _LESSAC.search(self.licence + self.dataset):
            said.append("the licence of its data does not allow commercial use")
        elif not _FREE.search(self.licence):
            said.append(
                "the card does not say clearly what is allowed; read the data set's own page before you publish or "
                "sell what this voice speaks"
            )
        if base := _BASE.search(self.training):
            name = base[1] if len(base[1]) <= 80 else base[1][:77] + "..."
            terms = "do not allow commercial use" if _LESSAC.search(base[1]) else "have terms of their own"
            said.append(f"it was made from another voice ({name}), whose data {terms}")
        return said


_FREE: Final = re.compile(
    r"\bCC[- ]?0\b|public[- ]?domain|\bCC[- ]BY\b|creativecommons\.org/licenses/by|\b(MIT|BSD|Apache)\b", re.IGNORECASE
)
_NO_COMMERCE: Final = re.compile(r"\bNC\b|non-?commercial|research", re.IGNORECASE)
_LESSAC: Final = re.compile(r"blizzard|lessac", re.IGNORECASE)
"""Recordings from which many voices are made: the corpus of the Blizzard Challenge 2013. Its licence is for research
and rules out commercial use: https://www.cstr.ed.ac.uk/projects/blizzard/2013/lessac_blizzard2013/license.html."""
_BASE: Final = re.compile(r"fine-?\s?tuned\s+from\s+(.+?)\.?$", re.IGNORECASE)


def fetch(url: str) -> Catalogue:
    """Fetch a catalogue. Raises CatalogueError where it cannot be had or is none."""
    data = _small(url, CATALOGUE_BYTES)
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{url} is not a catalogue of Piper voices: it is not JSON ({error!r:.80})") from error
    if not isinstance(entries, dict):
        raise CatalogueError(f"{url} is not a catalogue of Piper voices: it is not a JSON object")
    read = {unicodedata.normalize("NFC", name): _voice(name, entry) for name, entry in entries.items()}
    voices = {name: voice for name, voice in read.items() if voice}
    if not voices:
        raise CatalogueError(f"{url} is not a catalogue of Piper voices: it describes none that can be used")
    return Catalogue(url, voices, frozenset(read.keys() - voices.keys()))


def fetch_card(catalogue: Catalogue, voice: CatalogueVoice) -> str:
    """Fetch a voice's model card; empty where the catalogue names none. Raises CatalogueError."""
    if voice.card is None:
        return ""
    return _small(_address(catalogue, voice.card), CARD_BYTES).decode("utf-8", errors="replace")


def is_whole(voice: CatalogueVoice, folder: Path) -> bool:
    """Return whether a folder has a voice, with the sizes and digests that the catalogue names."""
    return all(
        path.is_file() and path.stat().st_size == file.size_bytes and _md5(path) == file.md5
        for file, path in _files(voice, folder)
    )


def get(catalogue: Catalogue, voice: CatalogueVoice, card: str, folder: Path, advance: Callable[[int], object]) -> None:
    """Download a voice into a folder and put its card beside it; `advance` gets the number of bytes as they come.

    The files get their names when all are there and right, the description last: a worker looks for voices by it.
    Raises CatalogueError, OutputError; then nothing is left of it.
    """
    with _as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(voice, folder)
    with contextlib.ExitStack() as undone:
        parts: list[PartialFile] = []

        def begin(target: Path) -> Path:
            parts.append(undone.enter_context(PartialFile(target)))
            return parts[-1].path

        if card:
            with _as_output_error(folder):
                begin(folder / f"{voice.name}{CARD}").write_text(card, encoding="utf-8")
        for file, target in _files(voice, folder):
            _download(_address(catalogue, file.path), file, begin(target), advance)
        with _as_output_error(folder):
            for part in parts:
                part.place()


def _download(url: str, file: RemoteFile, part: Path, advance: Callable[[int], object]) -> None:
    """Download one file and hold it against its size and digest."""
    digest = hashlib.md5(usedforsecurity=False)
    size = 0
    with _as_output_error(part.parent), part.open("wb") as out:
        for block in _blocks(url, file.size_bytes):
            digest.update(block)
            out.write(block)
            size += len(block)
            advance(len(block))
        out.flush()
        os.fsync(out.fileno())
    if size != file.size_bytes or digest.hexdigest() != file.md5:
        raise CatalogueError(
            f"what came from {url} is not what the catalogue describes ({size:,} bytes with the MD5 "
            f"{digest.hexdigest()}, not {file.size_bytes:,} with {file.md5}); nothing was kept, try again later"
        )


def _files(voice: CatalogueVoice, folder: Path) -> Iterator[tuple[RemoteFile, Path]]:
    """Pair a voice's files with their places in a folder; the description is last."""
    yield voice.model, folder / f"{voice.name}{MODEL}"
    yield voice.config, folder / f"{voice.name}{CONFIG}"


def _sweep(voice: CatalogueVoice, folder: Path) -> None:
    """Delete what a download of this voice has left whose process was killed."""
    for target in (folder / f"{voice.name}{CARD}", *(path for _, path in _files(voice, folder))):
        for part, pid in partial_files(target):
            if not psutil.pid_exists(pid):
                part.unlink(missing_ok=True)


def _md5(path: Path) -> str:
    """Return a file's MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


# The network


def _small(url: str, most_bytes: int) -> bytes:
    """Fetch a small file into memory."""
    deadline = time.monotonic() + SMALL_S
    data = bytearray()
    for block in _blocks(url, most_bytes):
        data += block
        if time.monotonic() > deadline:
            raise CatalogueError(_cannot(url, f"it did not come whole within {SMALL_S:.0f} s"))
    return bytes(data)


def _blocks(url: str, most_bytes: int) -> Iterator[bytes]:
    """Yield the bytes at an address as they come, all that its server announces. Raises CatalogueError."""
    size = 0
    try:
        with _opened(url) as answer:
            announced = answer.length
            while block := answer.read1(BLOCK_BYTES):
                size += len(block)
                if size > most_bytes:
                    raise CatalogueError(f"{url} is longer than the {most_bytes:,} bytes that it may have")
                yield block
    except urllib.error.HTTPError as error:
        error.close()
        raise CatalogueError(_cannot(url, f"HTTP status {error.code}")) from error
    except TimeoutError as error:
        raise CatalogueError(_cannot(url, f"no answer within {ANSWER_S:.0f} s")) from error
    except urllib.error.URLError as error:
        raise CatalogueError(_cannot(url, str(error.reason))) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a host name that cannot be one
        raise CatalogueError(_cannot(url, str(error) or type(error).__name__)) from error
    if announced is not None and size < announced:
        raise CatalogueError(_cannot(url, f"the connection ended after {size:,} of {announced:,} bytes"))


def _opened(url: str) -> http.client.HTTPResponse:
    """Open an address within ANSWER_S.

    It is opened by a thread: looking up a name has no time limit, and connecting has one for each address of a host.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "voxspool"})  # noqa: S310 - Settings takes http alone
    asked = background.start(lambda: urllib.request.urlopen(request, timeout=ANSWER_S))  # noqa: S310 - the same
    try:
        answer: http.client.HTTPResponse = asked.result(ANSWER_S)
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError from error
        raise
    return answer


def _address(catalogue: Catalogue, path: str) -> str:
    """Return the address of a file beside the catalogue."""
    return urljoin(catalogue.url, quote(path))


def _cannot(url: str, why: str) -> str:
    """Return the message for an address that cannot be fetched: why, and what to do."""
    return (
        f"cannot fetch {url} ({_printable(why)}); check the network and the proxy (HTTPS_PROXY), or name a mirror in "
        "VOXSPOOL_PIPER_CATALOGUE"
    )


@contextlib.contextmanager
def _as_output_error(folder: Path) -> Iterator[None]:
    """Turn an error of the file system into one line that names the folder."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder} ({error.strerror or error}); make room there or correct its permissions, or "
            "name another folder in VOXSPOOL_PIPER_VOICES"
        ) from error


# What a catalogue may say


def _voice(name: str, entry: Any) -> CatalogueVoice | None:  # noqa: ANN401 - JSON
    """Read one entry; None where it is not one that could be used."""
    try:
        language, files = entry["language"], entry["files"]
        paths = {path.rpartition("/")[2]: path for path in files}
        card = paths.get(REMOTE_CARD)
        return CatalogueVoice(
            name=unicodedata.normalize("NFC", _checked(PIPER_NAME, name)),
            code=_checked(re.compile(r"[a-z]{2,3}_[A-Z0-9]{2,3}"), language["code"]),
            language=_printable(language["name_english"]),
            native=_printable(language["name_native"]),
            country=_printable(language.get("country_english", "")),
            quality=_printable(entry["quality"]),
            speakers=_between(1, entry["num_speakers"], 100_000),
            model=_file(paths[f"{name}{MODEL}"], files),
            config=_file(paths[f"{name}{CONFIG}"], files),
            card=_path(card) if card else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _file(path: str, files: dict[str, Any]) -> RemoteFile:
    """Read the description of one file."""
    said = files[path]
    return RemoteFile(_path(path), _between(1, said["size_bytes"], MODEL_BYTES), _checked(_MD5, said["md5_digest"]))


def _path(path: str) -> str:
    """Return a path if it leads down from the catalogue. Raises ValueError."""
    for part in path.split("/"):
        _checked(_PART, part)
    return path


def _checked(form: re.Pattern[str], text: str) -> str:
    """Return a text if it has a form. Raises ValueError."""
    if not form.fullmatch(text):
        raise ValueError(f"{text!r:.60} has another form")
    return text


def _between(least: int, number: Any, most: int) -> int:  # noqa: ANN401 - JSON
    """Return a whole number if it lies between two others. Raises ValueError."""
    if type(number) is not int or not least <= number <= most:
        raise ValueError(f"{number!r:.60} is not a number from {least} to {most}")
    return number


def _printable(text: str) -> str:
    """Return a text without what would move a terminal's cursor or turn its direction, and not at length."""
    return _UNPRINTABLE.sub(" ", text)[:300]


def _shown(text: str) -> str:
    """Show a text that somebody typed, safely and not at length."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _plain(name: str) -> str:
    """Return a language's name as it is compared."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", "-").strip()


def _lines(lines: Sequence[str]) -> list[str]:
    """Return lines without their white space, only those with something in them."""
    return [said for line in lines if (said := _printable(line).strip())]
