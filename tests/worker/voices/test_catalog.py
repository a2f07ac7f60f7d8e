"""Finding voices by name: built-in ones, cloned ones, and mixes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voxspool.errors import InvalidJobError, MissingExtraError, UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.voices import ClonedVoice, StoredClip
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.voices.catalog import Voice, VoiceBook, VoicePart, built_in, find
from voxspool_worker.voices.cloned import VoiceLibrary

if TYPE_CHECKING:
    from collections.abc import Mapping

SHA = "0f" * 32


class StoreHandle:
    """Cloned voices without Redis; counts the calls."""

    def __init__(self, *voices: ClonedVoice) -> None:
        self.voices = {voice.name: voice for voice in voices}
        self.asked = 0

    def known(self) -> Mapping[str, ClonedVoice]:
        self.asked += 1
        return self.voices

    def find(self, name: str) -> ClonedVoice | None:
        self.asked += 1
        return self.voices.get(name)


def cloned(name: str, *languages: str) -> ClonedVoice:
    return ClonedVoice(name, languages, "2026-01-31T08:09:44Z", (StoredClip(SHA, 9.0, 24_000, 9.0),))


def book(*voices: ClonedVoice) -> VoiceBook:
    return VoiceBook(["Ana Florence", "Luis Moray"], ("en", "de", "fr"), StoreHandle(*voices))


def test_an_engine_without_any_voice_says_how_to_get_one() -> None:
    with pytest.raises(UnknownVoiceError, match="engine xtts has no voice yet; clone one: voxspool voices add"):
        find(None, {}, "xtts")


def test_built_in_voices_come_first_and_the_first_is_the_default() -> None:
    voices = book(cloned("alice"), cloned("Luis Moray"))
    assert list(voices) == ["Ana Florence", "Luis Moray", "alice"]
    assert len(voices) == 3
    assert find(None, voices, "xtts") == voices["Ana Florence"]


def test_built_in_voices_and_their_mixes_are_found_without_reading_the_cloned_ones() -> None:
    store_handle = StoreHandle(cloned("alice"))
    voices = VoiceBook(["Ana", "Ben"], ("en",), store_handle)
    find(None, voices, "xtts")
    find("Ana", voices, "xtts")
    find("Ana+Ben", voices, "xtts")
    assert store_handle.asked == 0


def test_the_part_of_a_built_in_voice_has_no_clips_and_that_of_a_cloned_voice_has_them() -> None:
    voices = book(cloned("alice"))
    assert voices["Luis Moray"].parts == (VoicePart("Luis Moray", 1.0),)
    assert voices["alice"].parts == (VoicePart("alice", 1.0, (SHA,)),)


def test_a_built_in_voice_has_precedence_over_a_cloned_one_of_the_same_name() -> None:
    assert book(cloned("Luis Moray"))["Luis Moray"].parts == (VoicePart("Luis Moray", 1.0),)


def test_a_mix_has_weighted_parts_and_a_canonical_name() -> None:
    voices = book(cloned("alice"))
    for written in ("Ana Florence(1)+alice(3)", "alice(0.75) + Ana Florence(0.25)"):
        voice = find(written, voices, "xtts")
        assert voice.name == "Ana Florence(1)+alice(3)"
        assert voice.parts == (VoicePart("Ana Florence", 0.25), VoicePart("alice", 0.75, (SHA,)))
    assert find("alice(5)", voices, "xtts") == voices["alice"], "a single voice is not a mix"


def test_a_cloned_voice_speaks_those_of_its_languages_that_the_engine_speaks() -> None:
    voices = book(cloned("any"), cloned("german", "hi", "de", "en"), cloned("hindi", "hi"))
    assert voices["any"].languages == ("en", "de", "fr")
    assert voices["german"].languages == ("de", "en")
    with pytest.raises(UnknownLanguageError, match="voice hindi speaks hi"):
        find("hindi", voices, "xtts")
    assert [voice.name for voice in voices.values()] == ["Ana Florence", "Luis Moray", "any", "german"]


def test_a_mix_speaks_the_languages_that_all_its_parts_speak() -> None:
    voices = book(cloned("one", "fr", "de"), cloned("two", "en", "de"), cloned("three", "en"))
    assert find("one+two", voices, "xtts").languages == ("de",)
    with pytest.raises(UnknownLanguageError, match=r"no language in common \(one: fr/de, three: en\)"):
        find("one+three", voices, "xtts")


def test_an_unknown_part_of_a_mix_is_named_with_a_similar_name() -> None:
    voices = book(cloned("alice"))
    for written in ("alise", "Ana Florence(2)+alise"):
        with pytest.raises(UnknownVoiceError, match=r"no voice 'alise' \(did you mean alice\?\)"):
            find(written, voices, "xtts")


def test_a_malformed_mix_is_refused_and_is_not_in_the_book() -> None:
    voices = book()
    with pytest.raises(InvalidJobError, match="write a voice's name, or a mix"):
        find("Ana Florence(", voices, "xtts")
    assert "Ana Florence(" not in voices
    assert voices.get("nobody") is None
    assert "Ana Florence+Luis Moray" in voices


def test_an_engine_that_cannot_clone_names_the_engine_that_can() -> None:
    engine = ToneEngine()
    for written in ("alice", "sine(2)+sine-live(1)"):
        with pytest.raises(
            UnknownVoiceError, match=r"engine tone has no voice .*cloned voices and mixes need engine xtts"
        ):
            find(written, engine.voices, engine.name)


def test_a_built_in_voice_may_have_a_name_like_a_mix() -> None:
    voice = Voice("joe(1)+x", ())
    assert find("joe(1)+x", {voice.name: voice}, "piper") is voice


def test_built_in_returns_the_voices_that_were_not_cloned() -> None:
    assert list(built_in(book(cloned("alice")))) == ["Ana Florence", "Luis Moray"]
    assert list(built_in(ToneEngine().voices)) == ["sine", "sine-live"]


def test_without_redis_there_are_no_cloned_voices() -> None:
    voices = VoiceBook(["Ana"], ("en",), VoiceLibrary(None))
    assert list(voices) == ["Ana"]
    with pytest.raises(UnknownVoiceError, match="alice"):
        find("alice", voices, "xtts")


def test_a_language_whose_package_is_missing_is_refused_with_the_install_command() -> None:
    store_handle = StoreHandle(cloned("yuki", "ja"), cloned("alice"))
    voices = VoiceBook(["Ana"], ("en", "de"), store_handle, {"ja": "install it"})
    for name in (None, "Ana", "alice", "Ana+alice"):
        voice = find(name, voices, "xtts", "ja")
        assert voice.languages == ("en", "de")
        assert voice.language("de") == "de"
        with pytest.raises(MissingExtraError, match=r"^install it$"):
            voice.language("ja-JP")
        with pytest.raises(UnknownLanguageError):
            voice.language("fr")
    with pytest.raises(MissingExtraError, match=r"^install it$"):
        find("yuki", voices, "xtts")
    assert "yuki" not in list(voices)
