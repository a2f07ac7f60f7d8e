"""`voxspool follow` reads a chapter, whose audio is in the segment store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf

from voxspool.protocol import keys
from voxspool.protocol.environment import DEFAULT_STORE
from voxspool.protocol.stream import Begin, End, Mark, encode_data
from voxspool.store.segments import Store, key_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    import redis

    RunCli = Callable[..., subprocess.CompletedProcess[bytes]]

JOB = "book-1-chapter-1"
ABOUT: dict[str, Any] = {
    "sample_rate": 24_000, "engine": "tone", "model": "tone", "voice": "a", "language": "en", "seed": 7, "tries": 1,
    "fault": "", "elapsed_s": 0.5, "level_dbfs": -20.0, "peak_dbfs": -3.0, "silent_share": 0.1, "worker": "w1",
}  # fmt: skip
SAID = np.arange(1, 30_001).astype(np.int16)
KEYS = [key_of(number) for number in range(3)]
HEARD = np.tile(np.concatenate([SAID, np.zeros(6_000, np.int16)]), 3)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return the default store of a user whose home is the test's folder, with three segments."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store = Store(DEFAULT_STORE)
    for key in KEYS:
        store.write(SAID, key=key, **ABOUT)
    return store


@pytest.fixture
def chapter(db: redis.Redis, store: Store) -> str:
    """Write the stream of a chapter that has ended, and return its job id."""
    assert store.id
    marks = [
        Mark(36_000 * number, 36_000 * (number + 1), number, number, number + 1, 7, key=key)
        for number, key in enumerate(KEYS)
    ]
    entries = [Begin(0, 24_000, "tone", "tone", "a", "en", 7), *marks, End(108_000, 4.5, 3, None, None)]
    for seq, entry in enumerate(entries, 1):
        fields: dict[Any, Any] = {"type": entry.type, "pos": entry.pos, "data": encode_data(entry)}
        db.xadd(keys.audio(JOB), fields, id=f"1-{seq}")
    db.hset(keys.control(JOB), mapping={"state": "ended", "attempt": 1})
    return JOB


def test_follow_writes_a_chapter_to_a_file_and_to_stdout(chapter: str, run_cli: RunCli, tmp_path: Path) -> None:
    ran = run_cli("follow", chapter, "-o", str(tmp_path / "chapter.flac"))
    assert b"4.5 s of speech" in ran.stderr
    np.testing.assert_array_equal(sf.read(tmp_path / "chapter.flac", dtype="int16")[0], HEARD)
    assert run_cli("follow", chapter, "--raw").stdout == HEARD.astype("<i2").tobytes()


def test_follow_from_an_entry_writes_the_rest_of_a_chapter(chapter: str, run_cli: RunCli) -> None:
    for after, given in {"1-1": 0, "1-2": 36_000, "1-4": 108_000, "1-5": 108_000}.items():
        ran = run_cli("follow", chapter, "--raw", "--from", after)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == HEARD[given:].astype("<i2").tobytes()


def test_follow_reports_a_missing_segment_in_one_line(chapter: str, run_cli: RunCli, tmp_path: Path) -> None:
    for path in (tmp_path / ".cache").rglob(f"{KEYS[1]}.json"):
        path.unlink()
    ran = run_cli("follow", chapter, "-o", str(tmp_path / "chapter.flac"))
    assert ran.returncode == 1
    (line,) = ran.stderr.decode().splitlines()
    assert f"segment {KEYS[1]} is missing from the store" in line
    assert not (tmp_path / "chapter.flac").exists()
    assert run_cli("follow", chapter).returncode == 0  # without an output it needs no audio
