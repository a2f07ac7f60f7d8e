"""Read and search Piper's catalogue of voices, and download voices from it. A voice is kept only if it is complete.

    voices.json ─► Catalogue ─► search
                             └─► card (licence, data set) ─► get ─► NAME.MODEL_CARD, NAME.onnx, NAME.onnx.json

The catalogue is fetched each time and never stored: it is one file of about 200 kB, and its digests are those of the
present files beside it. It is not trusted: a name or a path in it is used as a file name only if it has the form of
Piper's own.
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
from voxspool.errors import CatalogueError, OutputError, UnknownLanguageError, UnknownVoiceError
from voxspool.files.atomic_file import PartialFile, partial_files
from voxspool.protocol.voices import PIPER_NAME
from voxspool.suggestions import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ANSWER_S: Final = 8.0
"""Longest wait for the answer of a server, and for more data during a download, in seconds."""
SMALL_S: Final = 60.0
"""Longest download of the catalogue or a model card, in seconds."""
CATALOGUE_BYTES: Final = 16 * 2**20
CARD_BYTES: Final = 64 * 2**10
"""Largest size of a catalogue and of a model card. Piper's largest in 2026: 230 kB and 4 kB."""
MODEL_BYTES: Final = 2 * 2**30
"""Largest size of a voice's file. Piper's largest: 137 MB."""
BLOCK_BYTES: Final = 2**18
MODEL, CONFIG, CARD = ".onnx", ".onnx.json", ".MODEL_CARD"
"""Suffixes of a voice's files on this machine; the voice's name precedes them."""
REMOTE_CARD: Final = "MODEL_CARD"
"""Name of every model card in the catalogue's folders."""

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
    """A voice in the catalogue."""

    name: str
    code: str
    """Code of its language, like en_US."""
    language: str
    """Name of its language in English."""
    native: str
    """Name of its language in that language."""
    country: str
    quality: str
    speakers: int
    model: RemoteFile
    config: RemoteFile
    card: str | None
    """The path of its model card."""

    @property
    def size_bytes(self) -> int:
        """Size of the download without the model card."""
        return self.model.size_bytes + self.config.size_bytes

    @property
    def spoken(self) -> str:
        """Its language and country in words."""
        return f"{self.language} ({self.country})" if self.country else self.language

    def speaks(self, wanted: str) -> bool:
        """Return whether `wanted`, such as `de`, `de_DE`, `de-de`, `german` or `Deutsch`, is the voice's language."""
        return _plain(wanted) in {
            _plain(name) for name in (self.code, self.code.partition("_")[0], self.language, self.native)
        }


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The content of a catalogue."""

    url: str
    voices: dict[str, CatalogueVoice]
    """The voices that can be downloaded, by name."""
    unusable: frozenset[str] = field(default_factory=frozenset)
    """Names of the voices whose entry is invalid."""

    def find(self, name: str) -> CatalogueVoice:
        """Return a voice by its name.

        Raises UnknownVoiceError with similar names, and CatalogueError if the entry of the voice is invalid.
        """
        wanted = unicodedata.normalize("NFC", name)
        if wanted in self.unusable:
            raise CatalogueError(
                f"{self.url} has an invalid entry for the voice {_shown(wanted)}; choose another voice"
            )
        try:
            return self.voices[wanted]
        except KeyError:
            hint = did_you_mean(wanted, self.voices)
            raise UnknownVoiceError(f"the catalogue has no voice {_shown(name)}{hint}") from None

    def search(self, language: str | None) -> list[CatalogueVoice]:
        """Return the voices of a language, or all, sorted by name. Raises UnknownLanguageError with similar names."""
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
    """The facts in a voice's model card: data set, licence and training."""

    dataset: str = ""
    licence: str = ""
    training: str = ""

    @classmethod
    def read(cls, text: str) -> Card:
        """Read a Piper model card: Markdown with lines `* URL:` and `* License:`, and a section "Training"."""
        wanted = (r"^\W*URL\s*:(.*)$", r"^\W*Licen[cs]e\s*:(.*)$")
        dataset, licence = ("; ".join(_lines(re.findall(one, text, re.MULTILINE | re.IGNORECASE))) for one in wanted)
        training = re.search(r"^#+\s*Training\s*$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE)
        return cls(dataset, licence, " ".join(_lines(training[1].splitlines())) if training else "")

    def warnings(self) -> list[str]:
        """Return what a user must know before publishing or selling speech of this voice, one sentence each."""
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
            said.append(f"it was trained from another voice ({name}), whose data {terms}")
        return said


_FREE: Final = re.compile(
    r"\bCC[- ]?0\b|public[- ]?domain|\bCC[- ]BY\b|creativecommons\.org/licenses/by|\b(MIT|BSD|Apache)\b", re.IGNORECASE
)
_NO_COMMERCE: Final = re.compile(r"\bNC\b|non-?commercial|research", re.IGNORECASE)
_LESSAC: Final = re.compile(r"blizzard|lessac", re.IGNORECASE)
"""The corpus of the Blizzard Challenge 2013, from which many voices were trained. Its licence is for research and does
not allow commercial use: https://www.cstr.ed.ac.uk/projects/blizzard/2013/lessac_blizzard2013/license.html."""
_BASE: Final = re.compile(r"fine-?\s?tuned\s+from\s+(.+?)\.?$", re.IGNORECASE)


def fetch(url: str) -> Catalogue:
    """Fetch a catalogue. Raises CatalogueError if it cannot be fetched or is not a catalogue."""
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
    """Fetch a voice's model card; return an empty text if the catalogue names none. Raises CatalogueError."""
    if voice.card is None:
        return ""
    return _small(_address(catalogue, voice.card), CARD_BYTES).decode("utf-8", errors="replace")


def is_whole(voice: CatalogueVoice, folder: Path) -> bool:
    """Return whether a folder has all files of a voice, with the sizes and digests in the catalogue."""
    return all(
        path.is_file() and path.stat().st_size == file.size_bytes and _md5(path) == file.md5
        for file, path in _files(voice, folder)
    )


def get(catalogue: Catalogue, voice: CatalogueVoice, card: str, folder: Path, advance: Callable[[int], object]) -> None:
    """Download a voice into a folder and store its model card beside it.

    `advance` receives the number of bytes of each block that arrives. The files get their final names when all of them
    are complete and correct; the configuration comes last, because a worker finds a voice by it. Raises CatalogueError
    or OutputError, and then leaves no partial file.
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
    """Download one file. Raises CatalogueError if it differs from its size or digest in the catalogue."""
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
            f"the file at {url} is not what the catalogue describes ({size:,} bytes with MD5 {digest.hexdigest()}, "
            f"instead of {file.size_bytes:,} bytes with MD5 {file.md5}); nothing was stored, try again later"
        )


def _files(voice: CatalogueVoice, folder: Path) -> Iterator[tuple[RemoteFile, Path]]:
    """Yield the files of a voice with their paths in a folder; the configuration comes last."""
    yield voice.model, folder / f"{voice.name}{MODEL}"
    yield voice.config, folder / f"{voice.name}{CONFIG}"


def _sweep(voice: CatalogueVoice, folder: Path) -> None:
    """Delete the partial files of this voice that killed processes have left."""
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
            raise CatalogueError(_cannot(url, f"it was not complete after {SMALL_S:.0f} s"))
    return bytes(data)


def _blocks(url: str, most_bytes: int) -> Iterator[bytes]:
    """Yield the blocks of a file as they arrive.

    Raises CatalogueError if it is longer than `most_bytes` or shorter than its server announced, and for any error of
    the network.
    """
    size = 0
    try:
        with _opened(url) as answer:
            announced = answer.length
            while block := answer.read1(BLOCK_BYTES):
                size += len(block)
                if size > most_bytes:
                    raise CatalogueError(f"{url} is longer than the limit of {most_bytes:,} bytes")
                yield block
    except urllib.error.HTTPError as error:
        error.close()
        raise CatalogueError(_cannot(url, f"HTTP status {error.code}")) from error
    except TimeoutError as error:
        raise CatalogueError(_cannot(url, f"no answer within {ANSWER_S:.0f} s")) from error
    except urllib.error.URLError as error:
        raise CatalogueError(_cannot(url, str(error.reason))) from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: an invalid host name
        raise CatalogueError(_cannot(url, str(error) or type(error).__name__)) from error
    if announced is not None and size < announced:
        raise CatalogueError(_cannot(url, f"the connection ended after {size:,} of {announced:,} bytes"))


def _opened(url: str) -> http.client.HTTPResponse:
    """Send a request and return the response. Raises TimeoutError after ANSWER_S.

    A thread opens the connection, because the timeout of urllib does not limit the lookup of a host name, and applies
    to each address of a host separately.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "voxspool"})  # noqa: S310 - Settings accepts only http and https
    asked = background.start(lambda: urllib.request.urlopen(request, timeout=ANSWER_S))  # noqa: S310 - the same
    try:
        answer: http.client.HTTPResponse = asked.result(ANSWER_S)
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError from error
        raise
    return answer


def _address(catalogue: Catalogue, path: str) -> str:
    """Return the address of a file from its path relative to the catalogue."""
    return urljoin(catalogue.url, quote(path))


def _cannot(url: str, why: str) -> str:
    """Return the error message for an address that cannot be fetched, with the reason and what to do."""
    return (
        f"cannot fetch {url} ({_printable(why)}); check the network and the proxy (HTTPS_PROXY), or name a mirror in "
        "VOXSPOOL_PIPER_CATALOGUE"
    )


@contextlib.contextmanager
def _as_output_error(folder: Path) -> Iterator[None]:
    """Convert an OSError into an OutputError that names the folder."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder} ({error.strerror or error}); free disk space or correct its permissions, or "
            "name another folder in VOXSPOOL_PIPER_VOICES"
        ) from error


# Validation of the catalogue


def _voice(name: str, entry: Any) -> CatalogueVoice | None:  # noqa: ANN401 - JSON
    """Return the voice of one entry, or None if the entry is invalid."""
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
    """Return the file at a path, from its entry in `files`. Raises KeyError, TypeError or ValueError."""
    said = files[path]
    return RemoteFile(_path(path), _between(1, said["size_bytes"], MODEL_BYTES), _checked(_MD5, said["md5_digest"]))


def _path(path: str) -> str:
    """Return a path if it stays below the catalogue's folder. Raises ValueError."""
    for part in path.split("/"):
        _checked(_PART, part)
    return path


def _checked(form: re.Pattern[str], text: str) -> str:
    """Return a text if it matches `form` completely. Raises ValueError."""
    if not form.fullmatch(text):
        raise ValueError(f"{text!r:.60} has another form")
    return text


def _between(least: int, number: Any, most: int) -> int:  # noqa: ANN401 - JSON
    """Return a whole number if it is from `least` to `most`. Raises ValueError."""
    if type(number) is not int or not least <= number <= most:
        raise ValueError(f"{number!r:.60} is not a number from {least} to {most}")
    return number


def _printable(text: str) -> str:
    """Return at most 300 characters of a text, without those that control a terminal or change the text direction."""
    return _UNPRINTABLE.sub(" ", text)[:300]


def _shown(text: str) -> str:
    """Return a user's text for an error message: escaped and shortened."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _plain(name: str) -> str:
    """Return a language's name in the form that comparisons use."""
    return unicodedata.normalize("NFC", name).casefold().replace("_", "-").strip()


def _lines(lines: Sequence[str]) -> list[str]:
    """Return the lines that are not blank, stripped of white space."""
    return [said for line in lines if (said := _printable(line).strip())]
