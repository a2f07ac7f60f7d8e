"""The folder of a narration: what a later run finds there, and what it must not believe."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from voxspool.books import read_book
from voxspool.errors import BookError, OutputError
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


# Folders that others made


@pytest.fixture
def kept(folder: OutputFolder, book: Path) -> OutputFolder:
    folder.prepare("Title", OPTIONS, book, [])
    return folder


@pytest.mark.parametrize("link", [False, True])
def test_no_file_elsewhere_is_removed_whatever_the_list_of_files_names(
    kept: OutputFolder,
    tmp_path: Path,
    link: bool,  # noqa: FBT001 - a parameter
) -> None:
    victims = [tmp_path / "victim.flac", kept.path / "sub" / "victim.flac", kept.path / ".victim.flac"]
    (kept.path / "sub").mkdir()
    for victim in victims:
        victim.write_text("mine")
    names = [
        str(victims[0]),
        "../victim.flac",
        "sub/victim.flac",
        ".victim.flac",
        "..\\victim.flac",
        "",
        ".",
        "..",
        "sub",
    ]
    if link:
        (kept.path / "link.flac").symlink_to(victims[0])
        names.append("link.flac")
    (kept.path / ".voxspool" / "files.json").write_text(json.dumps({name: ["x", 3] for name in names}))
    kept.record_file("03 New.flac", "hash", 3)
    assert [victim.read_text() for victim in victims] == ["mine"] * 3
    assert json.loads((kept.path / ".voxspool" / "files.json").read_text()).keys() == {"sub", "03 New.flac"}


@pytest.mark.parametrize("entry", [None, 3, [], ["x"], ["x", 3, 4], [3, 3], ["x", "3"], ["x", True], {"x": 3}])
def test_an_entry_of_the_list_of_files_that_voxspool_never_writes_is_ignored(kept: OutputFolder, entry: object) -> None:
    (kept.path / "03 Old.flac").write_text("audio")
    (kept.path / ".voxspool" / "files.json").write_text(json.dumps({"03 Old.flac": entry}))
    assert not kept.is_current("03 Old.flac", "x")
    kept.record_file("03 New.flac", "hash", 3)
    assert (kept.path / "03 Old.flac").exists()


def test_a_state_that_is_a_link_is_refused_and_nothing_is_written_there(tmp_path: Path, book: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "source").mkdir(parents=True)
    (elsewhere / "source" / "mine.txt").write_text("mine")
    folder = OutputFolder(tmp_path / "out")
    folder.path.mkdir()
    (folder.path / ".voxspool").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="link"):
        folder.prepare("Title", OPTIONS, book, [])
    with pytest.raises(BookError, match="link"):
        folder.load()
    assert [path.name for path in elsewhere.iterdir()] == ["source"]
    assert (elsewhere / "source" / "mine.txt").read_text() == "mine"


def test_a_folder_of_the_state_that_is_a_link_is_not_followed(kept: OutputFolder, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "3-digest.json").write_text("mine")
    (kept.path / ".voxspool" / "tracks").symlink_to(elsewhere)
    assert kept.load_track(3, "digest") is None
    with pytest.raises(OutputError, match="link"):
        kept.save_track(TRACK, "digest")
    assert (elsewhere / "3-digest.json").read_text() == "mine"


def test_a_copy_of_the_book_that_is_a_link_is_not_followed(kept: OutputFolder, tmp_path: Path) -> None:
    secret = tmp_path / "secret.md"
    secret.write_text("secret")
    copy = kept.path / ".voxspool" / "source.md"
    copy.unlink()
    copy.symlink_to(secret)
    with pytest.raises(BookError, match="narrate the book again"):
        kept.load()
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "1.txt").write_text("one")
    (kept.path / ".voxspool" / "source").symlink_to(tmp_path)
    assert (kept.prepare("Title", OPTIONS, texts, []).source / "1.txt").read_text() == "one"
    assert secret.read_text() == "secret"


def test_links_pipes_and_links_to_folders_in_the_folder_of_a_book_are_not_copied_and_not_read(
    folder: OutputFolder, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    source = tmp_path / "texts"
    (source / "sub").mkdir(parents=True)
    (source / "1.txt").write_text("one")
    (source / "2.txt").symlink_to(secret)
    (source / "3").symlink_to(tmp_path)
    (source / "sub" / "4.txt").symlink_to(secret)
    os.mkfifo(source / "5.txt")
    book = read_book(source)
    assert [block.text for chapter in book.chapters for block in chapter.blocks] == ["one"]
    assert sum("is a link" in line for line in book.unread) == 2
    copy = folder.prepare("Texts", OPTIONS, source, []).source
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*")) == ["1.txt", "sub"]


def test_a_pipe_in_the_state_does_not_keep_the_reader(kept: OutputFolder) -> None:
    for name in ("recipe.json", "files.json", "heard.json"):
        (kept.path / ".voxspool" / name).unlink(missing_ok=True)
        os.mkfifo(kept.path / ".voxspool" / name)
    assert not kept.is_current("x", "y")
    assert kept.load_transcripts("base") == {}
    with pytest.raises(BookError, match="not a regular file"):
        kept.load()


@pytest.mark.parametrize(
    "data", ["[" * 100_000, "[]", "null", '"x"', "{", '{"version": 1}', '{"version": NaN}', "1" * 5_000]
)
def test_state_of_any_form_is_no_unexpected_error(kept: OutputFolder, data: str) -> None:
    kept.save_track(TRACK, "digest")
    (track,) = (kept.path / ".voxspool" / "tracks").iterdir()
    for path in (track, *(kept.path / ".voxspool" / name for name in ("recipe.json", "files.json", "heard.json"))):
        path.write_text(data)
    assert kept.load_track(3, "digest") is None
    assert kept.load_transcripts("base") == {}
    assert not kept.is_current("x", "y")
    with pytest.raises(BookError, match="narrate the book again"):
        kept.load()


def changed_track(**changes: object) -> str:
    fields = asdict(TRACK)
    for path, value in changes.items():
        *parents, name = path.split("__")
        where = fields
        for parent in parents:
            where = where[int(parent[1:]) if parent.startswith("n") else parent]
        where[name] = value
    return json.dumps(fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 4}, {"number": "3"}, {"title": 3}, {"sample_rate": 0}, {"sample_rate": -1}, {"sample_rate": 2**40},
        {"sample_rate": 24_000.0}, {"cues": 3}, {"cues": [3]}, {"more": 1}, {"cues__n0__end_pos": 2**60},
        {"cues__n0__pos": -5}, {"cues__n0__end_pos": 5}, {"cues__n1__pos": 0}, {"cues__n0__text": None},
        {"cues__n0__block": -1}, {"cues__n0__end": -1}, {"cues__n0__reused": "yes"}, {"cues__n0__stored": 3},
        {"cues__n0__stored__samples": "10"}, {"cues__n0__stored__elapsed_s": float("nan")},
        {"cues__n0__stored__key": 3},
    ],
    ids=str,
)  # fmt: skip
def test_a_track_with_values_that_voxspool_never_writes_is_not_loaded(
    kept: OutputFolder, changes: dict[str, object]
) -> None:
    kept.save_track(TRACK, "digest")
    assert kept.load_track(3, "digest") == TRACK
    (path,) = (kept.path / ".voxspool" / "tracks").iterdir()
    path.write_text(changed_track(**changes))
    assert kept.load_track(3, "digest") is None


@pytest.mark.parametrize(
    "change",
    [
        {"speed": "fast"}, {"seed": 1.5}, {"engine": 3}, {"voice": 3}, {"chapters": ["1"]}, {"chapters": [True]},
        {"voices": [[1, 2]]}, {"voices": [1]}, {"formats": ["exe"]}, {"formats": [3]}, {"verify": ["base"]},
        {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_options_of_other_types_are_refused(kept: OutputFolder, change: dict[str, object]) -> None:
    path = kept.path / ".voxspool" / "recipe.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"recipe": about["recipe"] | change}))
    with pytest.raises(BookError, match=r"recipe\.json cannot be read"):
        kept.load()
