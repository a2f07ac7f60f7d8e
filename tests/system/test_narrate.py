"""Real workers narrate a book for the real command, which is killed, repeated and run on an edited book."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf
import srt
from mutagen.mp4 import MP4

from tests.support.check_epub import epubcheck, overlay_faults, pars
from tests.support.make_epub import epub, packed, paragraph
from tests.support.processes import clean_env, until
from voxspool import NarrationJobs
from voxspool.errors import UnknownJobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis

    from tests.support.processes import RedisServer, WorkerProcess
    from voxspool import Client

pytestmark = pytest.mark.system

CHAPTERS = 30
TITLE_PAGE = 1


@dataclass
class Command:
    """A process that runs `voxspool narrate … --json`, and its events."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events if one["event"] == event]

    def until(self, event: str, count: int) -> None:
        until(lambda: len(self.of(event)) >= count or self.process.poll() is not None, f"{count} events {event}", 90)
        assert len(self.of(event)) >= count, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, code: int = 0) -> dict[str, Any]:
        """Wait for the end of the process, assert its exit code, and return its last event."""
        assert self.process.wait(180) == code, self.log.read_text()
        return self.events[-1]


@pytest.fixture
def narrate(redis_server: RedisServer, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Return a function that starts the command with the test's Redis and store."""
    started: list[Command] = []

    def start(*arguments: str | Path, **environ: str) -> Command:
        log = tmp_path / f"narrate-{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "voxspool", "narrate", *map(str, arguments), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_env()
                | {"VOXSPOOL_REDIS_URL": redis_server.url, "VOXSPOOL_STORE": str(tmp_path / "store")}
                | environ,
            )
        started.append(Command(process, log))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.kill()


def write_book(path: Path, chapters: int = CHAPTERS, edited: dict[int, str] | None = None) -> Path:
    """Write an EPUB with nested contents, notes, a picture and two languages."""
    path.write_bytes(packed(epub(chapters, paragraphs=2, edited=edited).entries))
    return path


def audio_of(folder: Path) -> dict[str, bytes]:
    """Return the samples of every chapter and the bytes of every caption file, by file name."""
    found = {path.name: sf.read(path, dtype="int16")[0].tobytes() for path in sorted(folder.glob("*.flac"))}
    return found | {path.name: path.read_bytes() for path in sorted(folder.glob("*.srt"))}


def speakers(store: Path) -> Counter[str]:
    """Count the segments in a store by the worker that spoke them."""
    return Counter(json.loads(path.read_text())["worker"] for path in store.glob("??/*.json"))


@pytest.mark.long
def test_a_book_is_the_same_after_a_worker_and_the_command_are_killed(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], db: redis.Redis, tmp_path: Path
) -> None:
    book = write_book(tmp_path / "lamp.epub")
    options = ("--voice", "sine-live", "--seed", "7")

    def worker(store: str) -> WorkerProcess:
        return start_worker("tone", environ={"VOXSPOOL_STORE": str(tmp_path / store)})

    calm_workers = [worker("calm") for _ in range(2)]
    calm = narrate(book, "-o", tmp_path / "calm-out", *options, VOXSPOOL_STORE=str(tmp_path / "calm"))
    calm.end()
    for one in calm_workers:
        one.process.send_signal(signal.SIGTERM)
        one.wait()
    db.flushall()

    first, second = worker("store"), worker("store")
    command = narrate(book, "-o", tmp_path / "out", *options)
    command.until("segment", 20)
    first.kill()
    command.until("segment", 40)
    command.kill()
    worker("store")
    again = narrate(book, "-o", tmp_path / "out", *options)
    said = again.end()
    assert said["ok"], said
    assert audio_of(tmp_path / "out") == audio_of(tmp_path / "calm-out")
    assert len(list((tmp_path / "out").glob("*.flac"))) == CHAPTERS + TITLE_PAGE
    assert len(speakers(tmp_path / "store")) == 3, "all three workers spoke segments"
    assert second.process.poll() is None


def test_a_second_run_speaks_nothing_and_an_edited_sentence_is_one_new_segment(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], db: redis.Redis, tmp_path: Path
) -> None:
    start_worker("tone")
    start_worker("tone")
    book, out = write_book(tmp_path / "lamp.epub", 6), tmp_path / "out"
    said = narrate(book, "-o", out).end()
    segments = said["spoken"] + said["reused"]
    stored = sum(speakers(tmp_path / "store").values())
    assert said["spoken"] >= stored > 20, (
        "a repeated sentence is spoken once, unless two workers begin it at the same time"
    )
    before = audio_of(out)
    changed = {path.name: path.stat().st_mtime_ns for path in out.glob("*.flac")}

    assert (again := narrate(book, "-o", out)).end()["spoken"] == 0
    assert not again.of("segment"), "no segment was sent to a worker"
    db.flushall()  # only the store knows the segments now
    for path in (out / ".voxspool" / "tracks").glob("*"):
        path.unlink()
    said = narrate(book, "-o", out).end()
    assert (said["spoken"], said["reused"]) == (0, segments)
    assert audio_of(out) == before
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.flac")} == changed

    write_book(book, 6, {4: paragraph(4, 1).replace("a moment ago", "an hour ago")})
    command = narrate(book, "-o", out)
    assert command.end()["spoken"] == 1
    assert sum(speakers(tmp_path / "store").values()) == stored + 1
    differing = [name for name, samples in audio_of(out).items() if samples != before[name]]
    assert differing == ["05 Chapter 4 Of lamps.flac", "05 Chapter 4 Of lamps.srt", "The Warm Lamp.srt"]


def test_one_long_chapter_is_spoken_by_all_workers(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    for _ in range(2):
        start_worker("tone")
    text = " ".join(f"This is the sentence with the number {number}." for number in range(60))
    (tmp_path / "long.txt").write_text(text)
    narrate(tmp_path / "long.txt", "-o", tmp_path / "out", "--voice", "sine-live").end()
    counts = speakers(tmp_path / "store")
    assert len(counts) == 2
    assert min(counts.values()) > 0.25 * sum(counts.values()), counts


def test_after_ctrl_c_the_workers_continue_and_attach_writes_the_files(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker("tone")
    book, out = write_book(tmp_path / "lamp.epub", 2), tmp_path / "out"
    command = narrate(book, "-o", out, "--voice", "sine-live")
    command.until("segment", 1)
    command.process.send_signal(signal.SIGINT)
    left = command.end(130)
    assert left["event"] == "left"
    book.unlink()
    said = narrate("--attach", left["id"]).end()
    assert said["ok"]
    assert len(list(out.glob("*.flac"))) == 2 + TITLE_PAGE


def test_a_detached_narration_is_cancelled_by_its_id_and_attach_enqueues_it_again(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path,
    run_cli: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:  # fmt: skip
    start_worker("tone")
    book = write_book(tmp_path / "lamp.epub", 5)
    left = narrate(book, "-o", tmp_path / "out", "--voice", "sine-live", "--detach").end()
    assert left["event"] == "left"
    cancelled = run_cli("cancel", left["id"])
    assert b"6 chapters cancelled" in cancelled.stdout, cancelled
    said = narrate("--attach", left["id"])
    said.until("begin", 1)
    assert said.end()["ok"], "attach enqueues the cancelled chapters again"


def test_a_chapter_can_be_followed_while_it_is_spoken(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path,
    redis_server: RedisServer, db: redis.Redis,
) -> None:  # fmt: skip
    start_worker("tone")
    book = write_book(tmp_path / "lamp.epub", 1)
    command = narrate(book, "-o", tmp_path / "out", "--voice", "sine-live", "--chapters", "2")
    command.until("segment", 1)
    (job,) = [key.decode().split("{")[1].split("}")[0] for key in db.keys("voxspool:{*}:audio")]
    environ = clean_env() | {"VOXSPOOL_REDIS_URL": redis_server.url, "VOXSPOOL_STORE": str(tmp_path / "store")}
    heard = subprocess.run(
        [sys.executable, "-m", "voxspool", "follow", job, "-o", str(tmp_path / "heard.flac")],
        env=environ, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    assert heard.returncode == 0, heard.stderr
    command.end()
    (made,) = (tmp_path / "out").glob("*.flac")
    np.testing.assert_array_equal(sf.read(tmp_path / "heard.flac", dtype="int16")[0], sf.read(made, dtype="int16")[0])


def test_a_book_keeps_its_engine_when_a_worker_with_another_engine_starts(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker("tone")
    book, out = write_book(tmp_path / "lamp.epub", 2), tmp_path / "out"
    narrate(book, "-o", out, "--chapters", "1").end()
    start_worker("piper")
    assert narrate(book, "-o", out, "--chapters", "1").end()["spoken"] == 0
    report = json.loads((out / "report.json").read_text())
    assert {row["engine"] for row in report["segments"]} == {"tone"}


def test_a_missing_job_ends_only_its_own_reading(client: Client, start_worker: Callable[..., WorkerProcess]) -> None:
    start_worker("tone")
    there = client.enqueue("The lamp was lit.", voice="sine")
    heard: dict[str, list[object]] = {there.id: [], "gone": []}
    for one in NarrationJobs(client).read([there.id, "gone"]):
        if one:
            heard[one[0]].append(one[1])
    assert [received.entry for received in there.entries()] == [received.entry for received in heard[there.id]]
    (error,) = heard["gone"]
    assert isinstance(error, UnknownJobError)


@pytest.mark.voice
@pytest.mark.long
def test_files_of_every_format_are_valid_for_other_programs(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker("piper")
    book, out = write_book(tmp_path / "lamp.epub", 2), tmp_path / "out"
    forms = ("--to", "m4b", "--to", "epub", "--to", "opus", "--to", "wav")
    said = narrate(book, "-o", out, *forms, "--loudness", "acx", "--skip", "1").end()
    assert said["ok"], said["problems"]
    report = json.loads((out / "report.json").read_text())
    chapters = report["chapters"]
    assert [chapter["title"] for chapter in chapters] == ["Chapter 1: Of lamps", "Chapter 2: Of lamps"]

    spoken = MP4(out / "The Warm Lamp.m4b")
    assert [chapter.title for chapter in spoken.chapters] == [chapter["title"] for chapter in chapters]
    for found, chapter in zip(spoken.chapters, chapters, strict=True):
        assert found.start == pytest.approx(chapter["start_s"], abs=0.05)
    assert spoken.info.length == pytest.approx(report["totals"]["duration_s"], abs=0.1)
    assert spoken["covr"]
    assert spoken["\xa9alb"] == ["The Warm Lamp"]

    lengths = {f"chapter-{one['chapter']:03d}.m4a": one["duration_s"] for one in chapters}
    epub_made = out / "The Warm Lamp.epub"
    assert not overlay_faults(epub_made, lengths)
    assert "Visitor 101 walked into the library" in " ".join(par.text for par in pars(epub_made))
    assert len(pars(epub_made)) == report["totals"]["segments"]
    assert not epubcheck(epub_made)

    for suffix in (".flac", ".wav", ".opus"):
        for found, chapter in zip(sorted(out.glob(f"*{suffix}")), chapters, strict=True):
            assert sf.info(found).duration == pytest.approx(chapter["duration_s"], abs=0.05)
    assert len(list(out.glob("*.mp3"))) == 2, "ACX accepts MP3 files"
    assert next(iter(srt.parse((out / "The Warm Lamp.srt").read_text()))).content == "Chapter 1: Of lamps"


def test_problems_set_the_exit_code_and_the_other_chapters_are_written(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker("tone")
    book = tmp_path / "lamp.epub"
    entries = dict(epub(3, paragraphs=2).entries)
    del entries["OEBPS/text/c02.xhtml"]
    book.write_bytes(packed(entries))
    said = narrate(book, "-o", tmp_path / "out").end(1)
    assert not said["ok"]
    assert "c02.xhtml" in " ".join(said["problems"])
    assert len(list((tmp_path / "out").glob("*.flac"))) == 2 + TITLE_PAGE


def test_a_damaged_segment_is_spoken_again(
    narrate: Callable[..., Command], start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    start_worker("tone")
    book, out = write_book(tmp_path / "lamp.epub", 2), tmp_path / "out"
    narrate(book, "-o", out).end()
    before = audio_of(out)
    victim = max((tmp_path / "store").glob("??/*.flac"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0xFF
    victim.write_bytes(data)
    for path in out.glob("*.flac"):
        path.unlink()
    said = narrate(book, "-o", out).end()
    assert said["spoken"] == 1
    assert audio_of(out) == before
