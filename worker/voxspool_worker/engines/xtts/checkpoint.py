"""XTTS's files on disk: find them, check that they are complete, compute their fingerprint, download them.

    VOXSPOOL_XTTS_DIR, else Coqui's cache folder, else Hugging Face's ─► check of the files ─► Checkpoint

Finding and checking reads no weights and does not import PyTorch. Only `fetch` downloads, and it never prompts on
stdin. Every error is a CheckpointError that names the file and what to do.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from voxspool.errors import CheckpointError, MissingExtraError, first_line
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
"""Name of XTTS v2 in Coqui's library."""
HUB_MODELS: Final = ("tts-hub/XTTS-v2", "coqui/XTTS-v2")
"""Names of XTTS v2 at Hugging Face; newer versions of Coqui's library download the first one."""
LICENCE: Final = "the Coqui Public Model License (non-commercial): https://tts-hub.github.io/cpml"
FETCH: Final = "fetch it: COQUI_TOS_AGREED=1 voxspool-worker warm, or set VOXSPOOL_XTTS_DIR to its folder"
"""The advice in error messages if XTTS is missing."""
FETCH_AGAIN: Final = "delete it and fetch it again, or set VOXSPOOL_XTTS_DIR to another folder"
"""The advice in error messages if a file is broken."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with XTTS v2, whose files passed the quick check of `inspect`."""

    folder: Path
    fingerprint: str
    """Hash of the weights, the sizes in the configuration and the vocabulary; it does not depend on the folder."""
    text_tokens: int
    """Number of tokens in the vocabulary file. As in upstream, it overrides the number in the configuration."""

    @property
    def config(self) -> Path:
        """The configuration, JSON: sizes and default parameters."""
        return self.folder / CONFIG

    @property
    def weights(self) -> Path:
        """The weights, in PyTorch's zip format."""
        return self.folder / WEIGHTS

    @property
    def vocab(self) -> Path:
        """The tokenizer's vocabulary, JSON."""
        return self.folder / VOCAB

    @property
    def speakers(self) -> Path | None:
        """The built-in speakers; None if the file is missing, which is common for fine-tuned checkpoints."""
        path = self.folder / SPEAKERS
        return path if path.is_file() else None


def find(settings: Settings) -> Checkpoint:
    """Return the checkpoint on this machine. Raises CheckpointError if there is none or if it is incomplete."""
    if settings.xtts_dir is not None:
        if not settings.xtts_dir.is_dir():
            message = f"VOXSPOOL_XTTS_DIR is {settings.xtts_dir}, but there is no such folder; correct it"
            raise CheckpointError(message, wrong_value=True)
        return inspect(settings.xtts_dir)
    for folder in cache_folders(settings):
        if (folder / WEIGHTS).exists():
            return inspect(folder)
    raise CheckpointError(f"there is no XTTS checkpoint on this machine; {FETCH}")


def cache_folders(settings: Settings) -> Iterator[Path]:
    """Yield the folders into which old and new versions of Coqui's library download XTTS. They need not exist."""
    yield settings.coqui_dir.expanduser() / MODEL.replace("/", "--")
    for model in HUB_MODELS:
        folder = settings.hub_dir.expanduser() / f"models--{model.replace('/', '--')}"
        main = folder / "refs" / "main"
        if main.is_file():
            yield folder / "snapshots" / main.read_text(encoding="utf-8").strip()


def inspect(folder: Path) -> Checkpoint:
    """Check the files in a folder, in milliseconds. Raises CheckpointError if one is missing or broken.

    The weights themselves are not read: `verify` does that.
    """
    for name in (CONFIG, WEIGHTS, VOCAB):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, which XTTS needs; {FETCH}")
    config = _config(folder / CONFIG)
    vocab = folder / VOCAB
    text_tokens = _text_tokens(vocab)
    identity = hashlib.blake2s(digest_size=16)
    for part in (_sizes(config), vocab.read_bytes(), _zip_directory(folder / WEIGHTS)):
        identity.update(hashlib.blake2s(part).digest())
    return Checkpoint(folder, identity.hexdigest(), text_tokens)


def _config(path: Path) -> Mapping[str, Any]:
    """Return the configuration. Raises CheckpointError if it is not that of XTTS v2."""
    config = _json(path)
    arguments = config.get("model_args")
    if config.get("model") != "xtts" or not isinstance(arguments, dict):
        raise CheckpointError(
            f"{path} is not a configuration of XTTS: its model is {config.get('model')!r}; set VOXSPOOL_XTTS_DIR to a "
            "folder with XTTS v2"
        )
    if not arguments.get("gpt_use_perceiver_resampler"):
        raise CheckpointError(f"{path} is a configuration of XTTS v1, but voxspool supports only v2; {FETCH}")
    return config


def _text_tokens(path: Path) -> int:
    """Return the number of tokens in a vocabulary file."""
    vocab = _json(path)
    try:
        numbers = [*vocab["model"]["vocab"].values(), *(token["id"] for token in vocab.get("added_tokens", ()))]
        return 1 + int(max(numbers))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a tokenizer's vocabulary; {FETCH_AGAIN}") from error


def _json(path: Path) -> Mapping[str, Any]:
    """Return the JSON object in a file."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # of the JSON parser, or of decoding
        raise CheckpointError(f"{path} is not JSON ({error}); {FETCH_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; {FETCH_AGAIN}")
    return value


def _sizes(config: Mapping[str, Any]) -> bytes:
    """Return the part of a configuration that defines the model. Texts are left out: Coqui stores file paths there."""
    sizes = {name: value for name, value in config["model_args"].items() if not isinstance(value, str)}
    return json.dumps([sizes, config.get("audio")], sort_keys=True).encode()


def _zip_directory(path: Path) -> bytes:
    """Return name, size and checksum of each entry of a zip file, from the directory at its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, entry.file_size, entry.CRC) for entry in archive.infolist()]
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} {_zip_fault(path)}; {FETCH_AGAIN}") from error
    if not any(name.endswith("/data.pkl") for name, _, _ in entries):
        raise CheckpointError(f"{path} is a zip file without weights; {FETCH_AGAIN}")
    return repr(entries).encode()


def _zip_fault(path: Path) -> str:
    """Return what is wrong with a file that cannot be opened as a zip file."""
    with path.open("rb") as file:
        has_zip_header = file.read(4) == b"PK\x03\x04"
    size = path.stat().st_size
    return f"is cut off after {size} bytes" if has_zip_header else f"has no weights ({size} bytes, not a zip file)"


def verify(checkpoint: Checkpoint) -> None:
    """Read all weights, in seconds, and compare their checksums. Raises CheckpointError if one differs."""
    with zipfile.ZipFile(checkpoint.weights) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise CheckpointError(f"{checkpoint.weights} is damaged: {broken} fails its checksum; {FETCH_AGAIN}")


def fetch(settings: Settings) -> Checkpoint:
    """Return the checkpoint on this machine; download it first, about 2 GB, if there is none.

    Coqui's own library downloads it. Raises CheckpointError if the download fails, or if the user has not agreed to the
    licence in the settings: it never prompts.
    """
    if settings.xtts_dir is not None or any((folder / WEIGHTS).exists() for folder in cache_folders(settings)):
        return find(settings)
    check_installed()
    if not settings.tos_agreed:
        raise CheckpointError(
            f"XTTS's weights are under {LICENCE}; if you agree to it, run: COQUI_TOS_AGREED=1 voxspool-worker warm"
        )
    _download(settings)
    return find(settings)


def _download(settings: Settings) -> None:
    """Download XTTS with Coqui's library."""
    manager_class = _manager_without_prompt()
    try:
        manager_class(output_prefix=settings.coqui_dir.expanduser().parent, progress_bar=True).download_model(MODEL)
    except Exception as error:  # the network, the disk and the library raise errors of many classes
        raise CheckpointError(
            f"XTTS could not be fetched ({type(error).__name__}: {first_line(error)}); try again, or set "
            "VOXSPOOL_XTTS_DIR to a folder that contains it"
        ) from error


def _manager_without_prompt() -> Any:  # noqa: ANN401 - upstream is untyped
    """Return the class of Coqui's download manager without its prompt on stdin."""
    forbid_telemetry()
    try:
        from TTS.utils.manage import ModelManager
    except ImportError as error:
        raise MissingExtraError(
            f"XTTS cannot be imported ({error}); install it with: {install_command('voxspool-worker', 'xtts')}"
        ) from error

    class AgreedManager(ModelManager):  # type: ignore[misc] # upstream is untyped
        """Coqui's download manager without its prompt on stdin."""

        @staticmethod
        def tos_agreed(*_: object) -> bool:
            """Return True: `fetch` has checked that the user agreed."""
            return True

    return AgreedManager
