"""Finding, checking and identifying checkpoints, without reading weights or downloading."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from voxspool.errors import CheckpointError
from voxspool_worker.engines.xtts import checkpoint
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def copy(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, which the test may change."""
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


def settings_of(tmp_path: Path, **values: Path | bool) -> Settings:
    """Return settings whose cache folders are in `tmp_path`."""
    folders: dict[str, Path | bool] = {"coqui_dir": tmp_path / "tts", "hub_dir": tmp_path / "hub", **values}
    return Settings(**folders)  # type: ignore[arg-type]


def test_the_folder_in_the_settings_is_used(small_checkpoint: Path, tmp_path: Path) -> None:
    found = checkpoint.find(settings_of(tmp_path, xtts_dir=small_checkpoint))
    assert found.folder == small_checkpoint
    assert found.speakers == small_checkpoint / "speakers_xtts.pth"
    assert found.text_tokens == 6681


def test_a_missing_folder_in_the_settings_is_an_error_even_if_another_has_a_checkpoint(
    copy: Path, tmp_path: Path
) -> None:
    copy.rename(coqui_folder(tmp_path))
    with pytest.raises(CheckpointError, match=r"VOXSPOOL_XTTS_DIR is .*absent, but there is no such folder"):
        checkpoint.find(settings_of(tmp_path, xtts_dir=tmp_path / "absent"))


def coqui_folder(tmp_path: Path) -> Path:
    (tmp_path / "tts").mkdir()
    return tmp_path / "tts" / "tts_models--multilingual--multi-dataset--xtts_v2"


def test_a_checkpoint_in_coquis_cache_folder_is_found(copy: Path, tmp_path: Path) -> None:
    folder = copy.rename(coqui_folder(tmp_path))
    assert checkpoint.find(settings_of(tmp_path)).folder == folder


def test_a_checkpoint_in_hugging_faces_cache_is_found_if_coquis_folder_is_empty(copy: Path, tmp_path: Path) -> None:
    coqui_folder(tmp_path).mkdir()
    model = tmp_path / "hub" / "models--tts-hub--XTTS-v2"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc123")
    (model / "snapshots").mkdir()
    copy.rename(model / "snapshots" / "abc123")
    assert checkpoint.find(settings_of(tmp_path)).folder.name == "abc123"


def test_the_cache_folders_are_those_of_coquis_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from TTS.utils.manage import ModelManager

    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    manager = ModelManager()
    assert next(checkpoint.cache_folders(Settings.from_env())).parent == manager.output_prefix
    item, folder, _ = manager._set_model_item(checkpoint.MODEL)
    assert next(checkpoint.cache_folders(Settings.from_env())).name == folder
    assert checkpoint.HUB_MODELS[0] == item["repo_id"]


def test_without_a_checkpoint_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"COQUI_TOS_AGREED=1 voxspool-worker warm, or set VOXSPOOL_XTTS_DIR"):
        checkpoint.find(settings_of(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.pth", "vocab.json"])
def test_the_error_names_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        checkpoint.inspect(copy)


def test_the_file_of_speakers_may_be_missing(copy: Path) -> None:
    (copy / "speakers_xtts.pth").unlink()
    assert checkpoint.inspect(copy).speakers is None


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def set_config(**values: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values)) and None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("model.pth", cut, r"is cut off after \d+ bytes"),
        ("model.pth", lambda path: path.write_bytes(b""), r"has no weights \(0 bytes, not a zip file\)"),
        ("model.pth", lambda path: path.write_text("version https://git-lfs"), "has no weights"),
        ("vocab.json", cut, "is not JSON"),
        ("vocab.json", lambda path: path.write_text("{}"), "is not a tokenizer's vocabulary"),
        ("vocab.json", lambda path: path.write_text('{"model": {"vocab": {}}}'), "is not a tokenizer's vocabulary"),
        ("config.json", cut, "is not JSON"),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), "is not JSON"),
        ("config.json", lambda path: path.write_text("[]"), "is not a JSON object"),
        ("config.json", set_config(model="vits"), "is not a configuration of XTTS: its model is 'vits'"),
        ("config.json", set_config(model_args=None), "is not a configuration of XTTS"),
        ("config.json", set_config(model_args={}), "is a configuration of XTTS v1"),
    ],
)
def test_the_error_names_a_broken_file_and_what_to_do(
    copy: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(copy / name)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.inspect(copy)
    assert str(copy / name) in str(raised.value)
    assert "VOXSPOOL_XTTS_DIR" in str(raised.value)


def test_a_zip_file_without_weights_is_refused(copy: Path) -> None:
    shutil.make_archive(str(copy / "model"), "zip", copy, "vocab.json")
    (copy / "model.zip").replace(copy / "model.pth")
    with pytest.raises(CheckpointError, match="is a zip file without weights"):
        checkpoint.inspect(copy)


def test_the_fingerprint_does_not_depend_on_folders(small_checkpoint: Path, copy: Path) -> None:
    original = checkpoint.inspect(small_checkpoint).fingerprint
    set_config(output_path=str(copy), temperature=0.1)(copy / "config.json")
    assert checkpoint.inspect(copy).fingerprint == original


def test_the_fingerprint_depends_on_weights_vocabulary_and_sizes(copy: Path) -> None:
    from benchmarks import random_xtts

    seen = {checkpoint.inspect(copy).fingerprint}
    (copy / "vocab.json").write_bytes((copy / "vocab.json").read_bytes() + b"\n")
    seen.add(checkpoint.inspect(copy).fingerprint)
    config = json.loads((copy / "config.json").read_text())
    set_config(model_args=config["model_args"] | {"gpt_max_audio_tokens": 5})(copy / "config.json")
    seen.add(checkpoint.inspect(copy).fingerprint)
    random_xtts.write_checkpoint(copy, seed=1, **random_xtts.SMALL)
    seen.add(checkpoint.inspect(copy).fingerprint)
    assert len(seen) == 4


def test_inspect_does_not_import_pytorch(small_checkpoint: Path) -> None:
    program = (
        "import sys, pathlib; from voxspool_worker.engines.xtts import checkpoint;"
        f"checkpoint.inspect(pathlib.Path({str(small_checkpoint)!r}));"
        "print('torch' in sys.modules, 'TTS' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's count of the bytes that a process has read")
def test_inspect_reads_little_of_the_weights(small_checkpoint: Path) -> None:
    before = psutil.Process().io_counters().read_chars
    checkpoint.inspect(small_checkpoint)
    read_bytes = psutil.Process().io_counters().read_chars - before
    assert read_bytes < (small_checkpoint / "model.pth").stat().st_size / 10


def test_verify_finds_damaged_weights_by_their_checksums(copy: Path) -> None:
    checkpoint.verify(checkpoint.inspect(copy))
    with (copy / "model.pth").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x5a" * 64)
    with pytest.raises(CheckpointError, match=r"is damaged: .* fails its checksum"):
        checkpoint.verify(checkpoint.inspect(copy))


def warm(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run `voxspool-worker warm` without stdin and without network access."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COQUI", "TTS", "HF", "XDG"))}
    return subprocess.run(
        [sys.executable, "-m", "voxspool_worker", "warm"], check=False, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, env=kept | {"HF_HUB_OFFLINE": "1"} | environ,
    )  # fmt: skip


def test_warm_without_agreement_to_the_licence_downloads_nothing(tmp_path: Path) -> None:
    done = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path))
    assert done.returncode == 1
    assert "COQUI_TOS_AGREED=1" in done.stderr
    assert "non-commercial" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_warm_prints_the_folder_of_an_existing_checkpoint(small_checkpoint: Path, tmp_path: Path) -> None:
    done = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path), VOXSPOOL_XTTS_DIR=str(small_checkpoint))
    assert done.returncode == 0, done.stderr
    assert str(small_checkpoint) in done.stdout


def test_warm_that_cannot_download_ends_with_one_line_and_no_prompt(tmp_path: Path) -> None:
    done = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path), COQUI_TOS_AGREED="1")
    assert done.returncode == 1
    assert "XTTS could not be fetched" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: XTTS could not be fetched")
    assert "agree" not in done.stdout
