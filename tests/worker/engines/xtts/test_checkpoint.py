"""Where a checkpoint is found, what is said of one that cannot be used. No weights are read, nothing is fetched."""

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
    """A copy to break."""
    return shutil.copytree(small_checkpoint, tmp_path / "copy")


def elsewhere(tmp_path: Path, **said: Path | bool) -> Settings:
    """Settings that find nothing of this machine's own."""
    places: dict[str, Path | bool] = {"coqui_dir": tmp_path / "tts", "hub_dir": tmp_path / "hub", **said}
    return Settings(**places)  # type: ignore[arg-type]


def test_the_named_folder_is_taken(small_checkpoint: Path, tmp_path: Path) -> None:
    found = checkpoint.find(elsewhere(tmp_path, xtts_dir=small_checkpoint))
    assert found.folder == small_checkpoint
    assert found.speakers == small_checkpoint / "speakers_xtts.pth"
    assert found.text_tokens == 6681


def test_a_named_folder_that_is_not_there_is_an_error_though_coqui_has_one(copy: Path, tmp_path: Path) -> None:
    copy.rename(coqui_folder(tmp_path))
    with pytest.raises(CheckpointError, match=r"VOXSPOOL_XTTS_DIR is .*absent, and no such folder is there"):
        checkpoint.find(elsewhere(tmp_path, xtts_dir=tmp_path / "absent"))


def coqui_folder(tmp_path: Path) -> Path:
    (tmp_path / "tts").mkdir()
    return tmp_path / "tts" / "tts_models--multilingual--multi-dataset--xtts_v2"


def test_coquis_folder_is_found(copy: Path, tmp_path: Path) -> None:
    folder = copy.rename(coqui_folder(tmp_path))
    assert checkpoint.find(elsewhere(tmp_path)).folder == folder


def test_what_coqui_fetched_to_hugging_faces_folder_is_found_beside_coquis_empty_one(
    copy: Path, tmp_path: Path
) -> None:
    coqui_folder(tmp_path).mkdir()
    model = tmp_path / "hub" / "models--tts-hub--XTTS-v2"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc123")
    (model / "snapshots").mkdir()
    copy.rename(model / "snapshots" / "abc123")
    assert checkpoint.find(elsewhere(tmp_path)).folder.name == "abc123"


def test_the_places_are_those_of_coquis_own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from TTS.utils.manage import ModelManager

    monkeypatch.setenv("TTS_HOME", str(tmp_path))
    theirs = ModelManager()
    assert next(checkpoint.places(Settings.from_env())).parent == theirs.output_prefix
    item, folder, _ = theirs._set_model_item(checkpoint.MODEL)
    assert next(checkpoint.places(Settings.from_env())).name == folder
    assert checkpoint.HUB_MODELS[0] == item["repo_id"]


def test_nothing_anywhere_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"COQUI_TOS_AGREED=1 voxspool-worker warm, or .* VOXSPOOL_XTTS_DIR"):
        checkpoint.find(elsewhere(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.pth", "vocab.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        checkpoint.look(copy)


def test_studio_speakers_may_be_missing(copy: Path) -> None:
    (copy / "speakers_xtts.pth").unlink()
    assert checkpoint.look(copy).speakers is None


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def set_config(**values: object) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values)) and None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("model.pth", cut, r"is cut off after \d+ bytes"),
        ("model.pth", lambda path: path.write_bytes(b""), r"holds no weights \(0 bytes, and not a zip\)"),
        ("model.pth", lambda path: path.write_text("version https://git-lfs"), "holds no weights"),
        ("vocab.json", cut, "is not JSON"),
        ("vocab.json", lambda path: path.write_text("{}"), "is not a tokenizer's vocabulary"),
        ("vocab.json", lambda path: path.write_text('{"model": {"vocab": {}}}'), "is not a tokenizer's vocabulary"),
        ("config.json", cut, "is not JSON"),
        ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), "is not JSON"),
        ("config.json", lambda path: path.write_text("[]"), "is not a JSON object"),
        ("config.json", set_config(model="vits"), "is not XTTS's: its model is 'vits'"),
        ("config.json", set_config(model_args=None), "is not XTTS's"),
        ("config.json", set_config(model_args={}), "is of XTTS v1"),
    ],
)
def test_a_broken_file_is_named_with_what_to_do(
    copy: Path, name: str, damage: Callable[[Path], object], said: str
) -> None:
    damage(copy / name)
    with pytest.raises(CheckpointError, match=said) as raised:
        checkpoint.look(copy)
    assert str(copy / name) in str(raised.value)
    assert "VOXSPOOL_XTTS_DIR" in str(raised.value)


def test_a_zip_of_something_else_holds_no_weights(copy: Path) -> None:
    shutil.make_archive(str(copy / "model"), "zip", copy, "vocab.json")
    (copy / "model.zip").replace(copy / "model.pth")
    with pytest.raises(CheckpointError, match="is a zip without weights"):
        checkpoint.look(copy)


def test_a_fingerprint_is_the_weights_and_not_the_place(small_checkpoint: Path, copy: Path) -> None:
    original = checkpoint.look(small_checkpoint).fingerprint
    set_config(output_path=str(copy), temperature=0.1)(copy / "config.json")
    assert checkpoint.look(copy).fingerprint == original


def test_a_fingerprint_follows_weights_vocabulary_and_sizes(copy: Path) -> None:
    import random_xtts

    seen = {checkpoint.look(copy).fingerprint}
    (copy / "vocab.json").write_bytes((copy / "vocab.json").read_bytes() + b"\n")
    seen.add(checkpoint.look(copy).fingerprint)
    config = json.loads((copy / "config.json").read_text())
    set_config(model_args=config["model_args"] | {"gpt_max_audio_tokens": 5})(copy / "config.json")
    seen.add(checkpoint.look(copy).fingerprint)
    random_xtts.write_checkpoint(copy, seed=1, **random_xtts.SMALL)
    seen.add(checkpoint.look(copy).fingerprint)
    assert len(seen) == 4


def test_looking_imports_no_torch(small_checkpoint: Path) -> None:
    program = (
        "import sys, pathlib; from voxspool_worker.engines.xtts import checkpoint;"
        f"checkpoint.look(pathlib.Path({str(small_checkpoint)!r})); print('torch' in sys.modules, 'TTS' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert said.stdout.split() == ["False", "False"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts what a process has read, which Linux tells")
def test_looking_reads_little_of_the_weights(small_checkpoint: Path) -> None:
    before = psutil.Process().io_counters().read_chars
    checkpoint.look(small_checkpoint)
    read_bytes = psutil.Process().io_counters().read_chars - before
    assert read_bytes < (small_checkpoint / "model.pth").stat().st_size / 10


def test_damaged_weights_are_found_by_their_checksums(copy: Path) -> None:
    checkpoint.verify(checkpoint.look(copy))
    with (copy / "model.pth").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"\x5a" * 64)
    with pytest.raises(CheckpointError, match=r"is damaged: .* fails its checksum"):
        checkpoint.verify(checkpoint.look(copy))


def warm(**environ: str) -> subprocess.CompletedProcess[str]:
    """`voxspool-worker warm`, with nobody at stdin and no network."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COQUI", "TTS", "HF", "XDG"))}
    return subprocess.run(
        [sys.executable, "-m", "voxspool_worker", "warm"], check=False, capture_output=True, text=True, timeout=120,
        stdin=subprocess.DEVNULL, env=kept | {"HF_HUB_OFFLINE": "1"} | environ,
    )  # fmt: skip


def test_warm_fetches_nothing_before_the_licence_is_agreed_to(tmp_path: Path) -> None:
    said = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path))
    assert said.returncode == 1
    assert "COQUI_TOS_AGREED=1" in said.stderr
    assert "non-commercial" in said.stderr
    assert said.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_warm_says_what_is_here_already(small_checkpoint: Path, tmp_path: Path) -> None:
    said = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path), VOXSPOOL_XTTS_DIR=str(small_checkpoint))
    assert said.returncode == 0, said.stderr
    assert str(small_checkpoint) in said.stdout


def test_warm_that_cannot_fetch_says_so_in_a_line_and_asks_nothing(tmp_path: Path) -> None:
    said = warm(TTS_HOME=str(tmp_path), HF_HOME=str(tmp_path), COQUI_TOS_AGREED="1")
    assert said.returncode == 1
    assert "XTTS could not be fetched" in said.stderr
    assert "Traceback" not in said.stderr
    assert said.stderr.strip().splitlines()[-1].startswith("Error: XTTS could not be fetched")
    assert "agree" not in said.stdout
