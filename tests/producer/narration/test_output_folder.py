"""The folder of a narration: what a later run finds there, and what it must not believe."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from voxspool.errors import BookError
from voxspool.narration.options import NarrationOptions
from voxspool.narration.output_folder import OutputFolder, file_name, narration_id
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import StoredSegment

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = NarrationOptions("tone", "sine")
STORED = StoredSegment("ab", 24_000, 10, "0" * 64, "tone", "m", "sine", "en", 1, 1, "", 0.1, -20.0, -3.0, 0.0, "w")
TRACK = Track(3, "Three", 24_000, (Cue(0, 0, 5, "Text.", "Text.", 0, 20, STORED), Cue(1, 0, 1, "x", "x", 20, 25, None)))


@pytest.fixture
def folder(tmp_path: Path) -> OutputFolder:
    return OutputFolder(tmp_path / "out")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "Book.MD"
    path.write_text("# One\n")
    return path


def test_a_later_run_finds_everything_in_the_folder_even_if_the_book_is_deleted(
    folder: OutputFolder, book: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "words.txt"
    rules.write_text("one => won\n")
    kept = folder.prepare("Title", OPTIONS, book, [rules])
    book.unlink()
    rules.unlink()
    again = OutputFolder(folder.path).load()
    assert again == kept
    assert (again.options, again.title) == (OPTIONS, "Title")
    assert again.source.read_text() == "# One\n"
    assert again.source.suffix == ".md"
    assert [path.read_text() for path in again.pronunciations] == ["one => won\n"]


def test_a_book_that_is_a_folder_is_copied(folder: OutputFolder, tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    (source / "1.txt").write_text("one")
    kept = folder.prepare("Texts", OPTIONS, source, [])
    assert (kept.source / "1.txt").read_text() == "one"
    (source / "1.txt").rename(source / "2.txt")
    kept = folder.prepare("Texts", OPTIONS, source, [])
    assert [path.name for path in kept.source.iterdir()] == ["2.txt"]


def test_a_folder_that_is_narrated_into_itself_is_copied_without_the_state(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("one")
    for _ in range(2):
        kept = OutputFolder(tmp_path).prepare("Texts", OPTIONS, tmp_path, [])
        assert sorted(path.name for path in kept.source.iterdir()) == ["1.txt"]


def test_the_same_title_in_the_same_folder_is_the_same_narration(
    folder: OutputFolder, book: Path, tmp_path: Path
) -> None:
    name = folder.prepare("The Öther: Book!", OPTIONS, book, []).id
    assert name == folder.prepare("The Öther: Book!", NarrationOptions("piper"), book, []).id
    assert name != OutputFolder(tmp_path / "elsewhere").prepare("The Öther: Book!", OPTIONS, book, []).id
    assert name.startswith("thetherbook-")
    assert narration_id("日本", tmp_path).startswith("book-")


def test_a_folder_without_a_narration_is_an_error(folder: OutputFolder) -> None:
    with pytest.raises(BookError, match="there is no narration in"):
        folder.load()


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2}, {"id": "../x"}, {"source": "../../etc/passwd"}, {"pronunciations": ["/etc/passwd"]},
        {"recipe": {}}, {"recipe": None},
    ],
)  # fmt: skip
def test_a_recipe_with_values_that_voxspool_never_writes_is_refused(
    folder: OutputFolder, book: Path, change: dict[str, object]
) -> None:
    folder.prepare("Title", OPTIONS, book, [])
    path = folder.path / ".voxspool" / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BookError, match=r"recipe\.json cannot be read"):
        folder.load()


def test_a_track_is_loaded_only_for_the_digest_that_it_was_saved_with(folder: OutputFolder, book: Path) -> None:
    folder.prepare("Title", OPTIONS, book, [])
    folder.save_track(TRACK, "aaa")
    assert folder.load_track(3, "aaa") == TRACK
    assert folder.load_track(3, "bbb") is None
    folder.save_track(TRACK, "bbb")
    assert folder.load_track(3, "aaa") is None
    (folder.path / ".voxspool" / "tracks" / "3-bbb.json").write_text("{")
    assert folder.load_track(3, "bbb") is None


def test_a_file_is_current_if_it_exists_and_was_made_from_the_same(folder: OutputFolder, book: Path) -> None:
    folder.prepare("Title", OPTIONS, book, [])
    folder.path_of("01 One.flac").write_bytes(b"x")
    folder.record_file("01 One.flac", "a")
    assert folder.is_current("01 One.flac", "a")
    assert not folder.is_current("01 One.flac", "b")
    folder.path_of("01 One.flac").unlink()
    assert not folder.is_current("01 One.flac", "a")


def test_a_chapter_with_a_new_title_replaces_the_files_of_the_old_one(folder: OutputFolder, book: Path) -> None:
    folder.prepare("Title", OPTIONS, book, [])
    for name, chapter in (("01 One.flac", 1), ("01 One.srt", 1), ("02 One.flac", 2), ("01 Uno.flac", 1)):
        folder.path_of(name).write_bytes(b"x")
        folder.record_file(name, "a", chapter)
    assert sorted(path.name for path in folder.path.iterdir() if path.is_file()) == [
        "01 One.srt", "01 Uno.flac", "02 One.flac",
    ]  # fmt: skip


def test_a_book_titled_like_a_file_of_a_chapter_does_not_replace_it(folder: OutputFolder, book: Path) -> None:
    folder.prepare("10 Lamps", OPTIONS, book, [])
    written = (("10 Ten.srt", 10), ("10 Lamps.srt", None), ("Lamps.m4b", None), ("10 Lamps.m4b", None))
    for name, chapter in (*written, *written[:2]):
        folder.path_of(name).write_bytes(b"x")
        folder.record_file(name, "a", chapter)
    files = sorted(path.name for path in folder.path.iterdir() if path.is_file())
    assert files == ["10 Lamps.m4b", "10 Lamps.srt", "10 Ten.srt"]
    (folder.path / ".voxspool" / "files.json").write_text('{"10 Ten.srt": "a", "10 Lamps.srt": [1]}')
    assert not folder.is_current("10 Ten.srt", "a"), "what somebody else wrote there is not believed"


def test_transcripts_are_stored_for_the_model_that_made_them(folder: OutputFolder, book: Path) -> None:
    folder.prepare("Title", OPTIONS, book, [])
    assert folder.load_transcripts("base") == {}
    folder.save_transcripts("base", {"ab": "One."})
    assert (folder.load_transcripts("base"), folder.load_transcripts("small")) == ({"ab": "One."}, {})


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("A/B: C?", "003 A B C.flac"),
        ("..", "003 Untitled.flac"),
        ("x" * 300, f"003 {'x' * 80}.flac"),
        ("Zwölf\n\x00Tage ", "003 Zwölf Tage.flac"),
    ],
)
def test_a_title_becomes_a_file_name_that_every_system_accepts(title: str, name: str) -> None:
    assert file_name(title, ".flac", 3, 120) == name
