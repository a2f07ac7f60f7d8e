"""Find the files of XTTS, check that they are complete, and identify them. It reads no weights and imports no torch.

    VOXSPOOL_XTTS_DIR, else Coqui's folder, else Hugging Face's ─► four files, looked at ─► Checkpoint

It knows upstream's file names and the places where Coqui puts them. Only `fetch` downloads, and nothing asks on
stdin. Every fault is one CheckpointError that names the file and what to do.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.hints import install_command
from voxspool_worker.engines.xtts import check_installed
from voxspool_worker.settings import forbid_telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from voxspool_worker.settings import Settings

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.pth"
VOCAB: Final = "vocab.json"
SPEAKERS: Final = "speakers_xtts.pth"

MODEL: Final = "tts_models/multilingual/multi-dataset/xtts_v2"
"""XTTS's name at Coqui."""
HUB_MODELS: Final = ("tts-hub/XTTS-v2", "coqui/XTTS-v2")
"""XTTS's names at Hugging Face: the first is where Coqui's newer versions fetch it from."""
LICENCE: Final = "the Coqui Public Model License (non-commercial): https://tts-hub.github.io/cpml"
FETCH: Final = "fetch it: COQUI_TOS_AGREED=1 voxspool-worker warm, or name its folder in VOXSPOOL_XTTS_DIR"
FETCH_AGAIN: Final = "delete it and fetch it again, or name another folder in VOXSPOOL_XTTS_DIR"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with XTTS in it, looked at: its files are there, and whole as far as can be seen in milliseconds."""

    folder: Path
    fingerprint: str
    """The same for the same weights, sizes and vocabulary, wherever they lie."""
    text_tokens: int
    """Tokens in the vocabulary: it counts, and not what the configuration says, as with upstream."""

    @property
    def config(self) -> Path:
        """Sizes and defaults, JSON."""
        return self.folder / CONFIG

    @property
    def weights(self) -> Path:
        """All weights, a zip."""
        return self.folder / WEIGHTS

    @property
    def vocab(self) -> Path:
        """The tokenizer, JSON."""
        return self.folder / VOCAB

    @property
    def speakers(self) -> Path | None:
        """The studio speakers; None where the checkpoint has none, as fine-tuned ones often do."""
        path = self.folder / SPEAKERS
        return path if path.is_file() else None


def find(settings: Settings) -> Checkpoint:
    """Find XTTS on this machine, and look at it. Raises CheckpointError where there is none, or none that is whole."""
    if settings.xtts_dir is not None:
        if not settings.xtts_dir.is_dir():
            message = f"VOXSPOOL_XTTS_DIR is {settings.xtts_dir}, and no such folder is there; correct it"
            raise CheckpointError(message, wrong_value=True)
        return look(settings.xtts_dir)
    for folder in places(settings):
        if (folder / WEIGHTS).exists():
            return look(folder)
    raise CheckpointError(f"no checkpoint of XTTS is on this machine; {FETCH}")


def places(settings: Settings) -> Iterator[Path]:
    """Yield the folders where Coqui's library, old or new, leaves XTTS."""
    yield settings.coqui_dir.expanduser() / MODEL.replace("/", "--")
    for model in HUB_MODELS:
        folder = settings.hub_dir.expanduser() / f"models--{model.replace('/', '--')}"
        current = folder / "refs" / "main"
        if current.is_file():
            yield folder / "snapshots" / current.read_text(encoding="utf-8").strip()


def look(folder: Path) -> Checkpoint:
    """Look at a folder's files, in milliseconds. Raises CheckpointError for what is missing or broken."""
    for name in (CONFIG, WEIGHTS, VOCAB):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, which XTTS needs; {FETCH}")
    config = _config(folder / CONFIG)
    vocab = folder / VOCAB
    text_tokens = _text_tokens(vocab)
    identity = hashlib.blake2s(digest_size=16)
    for part in (_sizes(config), vocab.read_bytes(), _contents(folder / WEIGHTS)):
        identity.update(hashlib.blake2s(part).digest())
    return Checkpoint(folder, identity.hexdigest(), text_tokens)


def _config(path: Path) -> Mapping[str, Any]:
    """Read a configuration that is XTTS's second version."""
    config = _json(path)
    arguments = config.get("model_args")
    if config.get("model") != "xtts" or not isinstance(arguments, dict):
        raise CheckpointError(
            f"{path} is not XTTS's: its model is {config.get('model')!r}; name a folder of XTTS-v2 in VOXSPOOL_XTTS_DIR"
        )
    if not arguments.get("gpt_use_perceiver_resampler"):
        raise CheckpointError(f"{path} is of XTTS v1, and voxspool speaks v2; {FETCH}")
    return config


def _text_tokens(path: Path) -> int:
    """Count a vocabulary's tokens."""
    vocab = _json(path)
    try:
        numbers = [*vocab["model"]["vocab"].values(), *(token["id"] for token in vocab.get("added_tokens", ()))]
        return 1 + int(max(numbers))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a tokenizer's vocabulary; {FETCH_AGAIN}") from error


def _json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # of JSON, and of Unicode
        raise CheckpointError(f"{path} is not JSON ({error}); {FETCH_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; {FETCH_AGAIN}")
    return value


def _sizes(config: Mapping[str, Any]) -> bytes:
    """Return what of a configuration makes a model what it is: Coqui writes paths of the machine into the rest."""
    sizes = {name: value for name, value in config["model_args"].items() if not isinstance(value, str)}
    return json.dumps([sizes, config.get("audio")], sort_keys=True).encode()


def _contents(path: Path) -> bytes:
    """Return a zip's contents by name, size and checksum: its directory, at the end of the file, has them."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} {_why_no_zip(path)}; {FETCH_AGAIN}") from error
    if not any(name.endswith("/data.pkl") for name, _, _ in entries):
        raise CheckpointError(f"{path} is a zip without weights; {FETCH_AGAIN}")
    return repr(entries).encode()


def _why_no_zip(path: Path) -> str:
    """Return what is wrong with a file of weights that cannot be opened."""
    with path.open("rb") as file:
        begins_well = file.read(4) == b"PK\x03\x04"
    size = path.stat().st_size
    return f"is cut off after {size} bytes" if begins_well else f"holds no weights ({size} bytes, and not a zip)"


def verify(checkpoint: Checkpoint) -> None:
    """Read all of the weights and compare their checksums; seconds. Raises CheckpointError where one differs."""
    with zipfile.ZipFile(checkpoint.weights) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise CheckpointError(f"{checkpoint.weights} is damaged: {broken} fails its checksum; {FETCH_AGAIN}")


def fetch(settings: Settings) -> Checkpoint:
    """Fetch XTTS by Coqui's own library, some 2 GB, unless it is there. Raises CheckpointError where that fails.

    Asks nothing: without the agreement it does not begin.
    """
    if settings.xtts_dir is not None or any((folder / WEIGHTS).exists() for folder in places(settings)):
        return find(settings)
    check_installed()
    if not settings.tos_agreed:
        raise CheckpointError(
            f"XTTS's weights are under {LICENCE}; if you agree to it, say so: COQUI_TOS_AGREED=1 voxspool-worker warm"
        )
    _download(settings)
    return find(settings)


def _download(settings: Settings) -> None:
    """Let Coqui's library fetch XTTS."""
    forbid_telemetry()
    try:
        from TTS.utils.manage import ModelManager
    except ImportError as error:
        raise MissingExtraError(
            f"XTTS cannot be imported ({error}); install it with: {install_command('voxspool-worker', 'xtts')}"
        ) from error

    class AgreedManager(ModelManager):  # type: ignore[misc] # upstream is untyped
        """Coqui's manager, which would ask on stdin."""

        @staticmethod
        def tos_agreed(*_: object) -> bool:
            """Return True: the user has agreed."""
            return True

    try:
        AgreedManager(output_prefix=settings.coqui_dir.expanduser().parent, progress_bar=True).download_model(MODEL)
    except Exception as error:  # whatever a network, a disk or the library's own tasks may raise
        raise CheckpointError(
            f"XTTS could not be fetched ({type(error).__name__}: {_first_line(error)}); try again, or name its "
            "folder in VOXSPOOL_XTTS_DIR"
        ) from error


def _first_line(error: Exception) -> str:
    """Return what an error says before it explains."""
    return str(error).strip().partition("\n")[0]
