"""The catalogue of voices: reading it, refusing hostile entries, and downloading voices without partial files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import unicodedata
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.voice_server import CATALOGUE, JOE_CARD, Cut, VoiceServer, voice_server
from voxspool.errors import CatalogueError, OutputError, UnknownLanguageError, UnknownVoiceError
from voxspool.suggestions import did_you_mean
from voxspool_worker.voices import downloads
from voxspool_worker.voices.downloads import Card

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANNA = "de_DE-anna-low"
TUGAO = "pt_PT-tugão-medium"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[VoiceServer]:
    """A server with three voices, used without a proxy."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with voice_server() as served:
        served.add(ANNA)
        served.add("en_US-bob-medium", b"bob's model")
        served.add(TUGAO)
        yield served


def get(server: VoiceServer, name: str, folder: Path) -> int:
    """Download a voice as the command does; return the sum of the sizes that `advance` received."""
    found = downloads.fetch(server.url)
    voice = found.find(name)
    sizes: list[int] = []
    downloads.get(found, voice, downloads.fetch_card(found, voice), folder, sizes.append)
    return sum(sizes)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_voice_is_downloaded_with_its_model_card(server: VoiceServer, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    size = get(server, ANNA, folder)
    assert left(folder) == [f"{ANNA}.MODEL_CARD", f"{ANNA}.onnx", f"{ANNA}.onnx.json"]
    assert (folder / f"{ANNA}.onnx").read_bytes() == b"a model"
    assert (folder / f"{ANNA}.MODEL_CARD").read_text() == JOE_CARD
    voice = downloads.fetch(server.url).find(ANNA)
    assert size == voice.size_bytes == len(b"a model") + (folder / f"{ANNA}.onnx.json").stat().st_size
    assert downloads.is_whole(voice, folder)
    (folder / f"{ANNA}.onnx").write_bytes(b"a modem")
    assert not downloads.is_whole(voice, folder)


def test_a_name_in_any_script_and_unicode_form_is_found(server: VoiceServer, tmp_path: Path) -> None:
    get(server, unicodedata.normalize("NFD", TUGAO), tmp_path)
    assert f"{TUGAO}.onnx" in left(tmp_path)


@pytest.mark.parametrize("language", ["de", "de_DE", "DE-de", "german", "German", "Deutsch"])
def test_a_language_may_be_written_in_several_ways(server: VoiceServer, language: str) -> None:
    assert [voice.name for voice in downloads.fetch(server.url).search(language)] == [ANNA]


def test_an_unknown_language_is_refused_with_similar_names(server: VoiceServer) -> None:
    found = downloads.fetch(server.url)
    with pytest.raises(UnknownLanguageError, match=r"'germn' \(did you mean german\?\)"):
        found.search("germn")
    with pytest.raises(UnknownLanguageError, match="there is: de_DE, en_US"):
        found.search("klingon")
    assert len(found.search(None)) == 3


@pytest.mark.parametrize("name", ["de_DE-ana-low", "../x", "/etc/passwd", "", f"{ANNA}.onnx", "x" * 10_000, "\x1b[2J"])
def test_an_unknown_name_is_refused_with_similar_names(server: VoiceServer, name: str) -> None:
    with pytest.raises(UnknownVoiceError) as refused:
        downloads.fetch(server.url).find(name)
    assert did_you_mean(name, server.entries) in str(refused.value)
    assert len(str(refused.value)) < 300
    assert str(refused.value).isprintable()


# Errors during a download


SPOILT: dict[str, tuple[str, bytes | Cut | None, str]] = {
    "a wrong digest": (".onnx", b"a modem", "is not what the catalogue describes"),
    "too short a file": (".onnx", b"a mode", "is not what the catalogue describes"),
    "too long a file": (".onnx", b"a model and more", "is longer than the limit of 7 bytes"),
    "a cut": (".onnx", Cut(b"a model", 3), "ended after 3 of 7 bytes"),
    "a stall": (".onnx", Cut(b"a model", 3, stalls=True), "no answer within"),
    "no file": (".onnx", None, "HTTP status 404"),
    "a wrong description": (".onnx.json", b'{"a": 2}', "is not what the catalogue describes"),
    "no card": ("MODEL_CARD", None, "HTTP status 404"),
    "an endless card": ("MODEL_CARD", bytes(downloads.CARD_BYTES + 1), "is longer than"),
}
"""Name of a fault -> the suffix of the file that has it, what the server sends instead, and the error message."""


@pytest.mark.parametrize(("suffix", "served", "said"), SPOILT.values(), ids=list(SPOILT))
def test_an_incomplete_download_leaves_no_file(
    server: VoiceServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    served: bytes | Cut | None,
    said: str,
) -> None:
    monkeypatch.setattr(downloads, "ANSWER_S", 0.5)
    path = server.path(ANNA, suffix)
    right = server.answers.pop(path)
    if served is not None:
        server.answers[path] = served
    with pytest.raises(CatalogueError, match=said) as failed:
        get(server, ANNA, tmp_path)
    assert "http://127.0.0.1" in str(failed.value)
    assert left(tmp_path) == []
    server.answers[path] = right
    get(server, ANNA, tmp_path)
    assert len(left(tmp_path)) == 3, "a second try works"


def test_the_old_voice_is_kept_if_its_replacement_fails(server: VoiceServer, tmp_path: Path) -> None:
    get(server, ANNA, tmp_path)
    (tmp_path / f"{ANNA}.onnx").write_bytes(b"an old one")
    server.answers[server.path(ANNA, ".onnx.json")] = b'{"a": 2}'
    with pytest.raises(CatalogueError):
        get(server, ANNA, tmp_path)
    assert (tmp_path / f"{ANNA}.onnx").read_bytes() == b"an old one"


def test_partial_files_of_dead_processes_are_deleted_and_those_of_live_ones_are_kept(
    server: VoiceServer, tmp_path: Path
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".{ANNA}.onnx.{dead.pid}.part").write_bytes(b"half")
    (tmp_path / f".{ANNA}.onnx.{os.getppid()}.part").write_bytes(b"half")
    get(server, ANNA, tmp_path)
    assert [name for name in left(tmp_path) if name.endswith(".part")] == [f".{ANNA}.onnx.{os.getppid()}.part"]


def test_a_folder_that_cannot_be_created_raises_an_error_that_names_it(server: VoiceServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file.*VOXSPOOL_PIPER_VOICES"):
        get(server, ANNA, tmp_path / "file" / "below")


def fail_to_fetch(url: str) -> str:
    with pytest.raises(CatalogueError) as failed:
        downloads.fetch(url)
    assert url in str(failed.value)
    return str(failed.value)


def test_a_network_error_says_what_to_do(server: VoiceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "ANSWER_S", 0.5)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        said = fail_to_fetch(f"http://127.0.0.1:{held.getsockname()[1]}/voices.json")
        assert "refused" in said
        held.listen(0)
        said = fail_to_fetch(f"http://127.0.0.1:{held.getsockname()[1]}/voices.json")  # it listens but never answers
        assert "no answer within" in said
    assert "HTTPS_PROXY" in said
    assert "VOXSPOOL_PIPER_CATALOGUE" in said
    assert "cannot fetch" in fail_to_fetch("http://catalogue.invalid/voices.json")
    assert "cannot fetch" in fail_to_fetch(f"http://{'a' * 70}.invalid/voices.json")
    assert "HTTP status 404" in fail_to_fetch(server.url.replace("voices.json", "voice.json"))
    server.answers[CATALOGUE] = Cut(b"{}", 1, stalls=True)
    assert "no answer within" in fail_to_fetch(server.url)


def test_a_catalogue_that_arrives_too_slowly_raises_an_error(
    server: VoiceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "SMALL_S", 0.0)
    assert "was not complete after" in fail_to_fetch(server.url)


def test_the_proxy_of_the_environment_is_used(server: VoiceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib creates it once and keeps the proxies of that time
    monkeypatch.setenv("http_proxy", server.url.removesuffix(CATALOGUE))
    found = downloads.fetch(f"http://catalogue.invalid{CATALOGUE}")
    assert ANNA in found.voices
    assert server.asked == [f"http://catalogue.invalid{CATALOGUE}"]


# Validation of the catalogue


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>It works!</html>", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "describes none"),
        (b'{"a": 1, "b": {"files": []}}', "describes none"),
        (bytes(downloads.CATALOGUE_BYTES + 1), "is longer than"),
    ],
    ids=["html", "nothing", "binary", "deep", "a long number", "a list", "empty", "other JSON", "huge"],
)
def test_a_file_that_is_not_a_catalogue_is_refused(server: VoiceServer, body: bytes, said: str) -> None:
    server.answers[CATALOGUE] = body
    assert said in fail_to_fetch(server.url)


def change(entry: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return an entry in which `old` is replaced by `new` everywhere."""
    changed: dict[str, Any] = json.loads(json.dumps(entry).replace(old, new))
    return changed


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("de/de_DE", "../de_DE"), ("de/de_DE", "/de_DE"), ("de/de_DE", "http://127.0.0.1:1"), ("de/de_DE", "//host"),
        ("de/de_DE", "de/.hidden"), ("de/de_DE", "de\\\\..\\\\x"), ("de/de_DE", "de%2f.."), ("de/de_DE", "de?x#"),
        (f"{ANNA}.onnx", "b.onnx"), ('"size_bytes": 7', '"size_bytes": -7'), ('"size_bytes": 7', '"size_bytes": "7"'),
        ('"size_bytes": 7', '"size_bytes": 1e3'), ('"size_bytes": 7', '"size_bytes": 99999999999999'),
        ('"size_bytes": 7', '"size_bytes": true'), ('"md5_digest": "', '"md5_digest": "0'),
        ('"num_speakers": 1', '"num_speakers": 10000000'), ('"code": "de_DE"', '"code": "\\u001b[2J"'),
        ('"name_english": "German"', '"name_english": ["German"]'),
    ],
)  # fmt: skip
def test_a_voice_with_a_hostile_entry_is_not_offered(server: VoiceServer, old: str, new: str) -> None:
    changed = change(server.entries[ANNA], old, new)
    assert changed != server.entries[ANNA]
    server.entries[ANNA] = changed
    found = downloads.fetch(server.url)
    assert ANNA not in found.voices
    assert len(found.voices) == 2, "the others are offered"
    with pytest.raises(CatalogueError, match="has an invalid entry for the voice"):
        found.find(ANNA)
    assert server.asked == [CATALOGUE]


@pytest.mark.parametrize(
    "name", ["../../de_DE-anna-low", "/anywhere/de_DE-anna-low", "de_DE-a/b-low", "de_DE-a b-low", "CON"]
)
def test_a_name_that_is_a_path_is_not_offered(server: VoiceServer, name: str) -> None:
    server.entries = {
        name: change(server.entries[ANNA], ANNA, name),
        "en_US-bob-medium": server.entries["en_US-bob-medium"],
    }
    found = downloads.fetch(server.url)
    assert list(found.voices) == ["en_US-bob-medium"]
    assert found.unusable == {name}


def test_control_characters_of_a_catalogue_are_not_printed(server: VoiceServer) -> None:
    server.entries[ANNA]["language"]["country_english"] = "Ger\x1b[2J\u202emany\n"
    assert downloads.fetch(server.url).find(ANNA).spoken == "German (Ger [2J many )"


# Cards


@pytest.mark.parametrize(
    ("licence", "training", "warnings"),
    [
        ("public domain", "Trained from scratch for 1000 epochs on the LJ Speech dataset.", []),
        ("https://creativecommons.org/licenses/by/4.0/", "Trained from scratch.", []),
        ("CC BY-SA 4.0", "", []),
        ("CC BY-NC-SA 4.0", "", ["does not allow commercial use"]),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "", ["does not allow commercial use"]),
        ("Non-commercial", "", ["does not allow commercial use"]),
        (
            "https://www.cstr.ed.ac.uk/projects/blizzard/2013/lessac_blizzard2013/license.html", "",
            ["does not allow commercial use"],
        ),
        ("See URL", "", ["does not say clearly"]),
        ("", "", ["does not say clearly"]),
        ("Unknown", "Fine-tuned from English ryan", ["does not say clearly", "(English ryan), whose data have terms"]),
        (
            "CC0", "Finetuned from U.S. English lessac voice (medium quality).",
            ["another voice (U.S. English lessac voice (medium quality)), whose data do not allow commercial use"],
        ),
    ],
)  # fmt: skip
def test_the_warnings_of_a_card_follow_from_its_licence_and_training(
    licence: str, training: str, warnings: list[str]
) -> None:
    text = JOE_CARD.replace("License: CC0", f"License:  {licence}")
    card = Card.read(text.replace("Finetuned from U.S. English lessac voice (medium quality).", training))
    assert (card.dataset, card.licence, card.training) == (
        "https://github.com/NabuCasa/voice-datasets", licence, training,
    )  # fmt: skip
    assert len(card.warnings()) == len(warnings)
    for said, part in zip(card.warnings(), warnings, strict=True):
        assert part in said


def test_the_blizzard_corpus_is_not_free_even_if_the_card_names_a_free_licence() -> None:
    url = "https://www.cstr.ed.ac.uk/projects/blizzard/2013/lessac_blizzard2013/"
    card = Card.read(JOE_CARD.replace("https://github.com/NabuCasa/voice-datasets", url).replace("CC0", "mit"))
    assert card.licence == "mit"
    assert card.warnings()[0] == "the licence of its data does not allow commercial use"


def test_a_card_in_another_format_gets_the_warning_for_an_unclear_licence() -> None:
    for text in ("", "\x00\x1b[2J", "License", "# Training", JOE_CARD.replace("License", "Rights")):
        assert Card.read(text).warnings()[0].startswith("the card does not say clearly")
    two = Card.read(JOE_CARD + "\n* URL: https://b\n* Licence: MIT\x1b[0m\n")
    assert (two.dataset, two.licence) == ("https://github.com/NabuCasa/voice-datasets; https://b", "CC0; MIT [0m")
