"""The plan of a chapter: which segments, pauses, voices and keys it has. Nothing here uses Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.errors import UnknownEngineError, UnknownLanguageError, UnknownVoiceError
from voxspool.protocol.narration import BETWEEN, Passage, chapter
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.narration import audio_checks
from voxspool_worker.narration.segment_plan import SegmentPlan, plan_chapter, seed_of
from voxspool_worker.text import split
from voxspool_worker.voices.catalog import Voice, VoicePart

if TYPE_CHECKING:
    from collections.abc import Mapping

STORE = "0" * 32
SENTENCE = "The keeper of the lighthouse counted every lamp before the night began. "


class Choir(ToneEngine):
    """Tone with more voices, whose files may be replaced."""

    def __init__(self, *, digest: str = "", clips: tuple[str, ...] = ("a",), model: str = "sine-1") -> None:
        super().__init__()
        self._digest = digest
        self.model = model  # type: ignore[misc]
        self._clips = clips

    @property
    def voices(self) -> Mapping[str, Voice]:
        found = (
            Voice("sine", ()), Voice("joe", ("en-us",)), Voice("amelie", ("fr-fr",)),
            Voice("alice", (), (VoicePart("alice", 1.0, self._clips),)),
        )  # fmt: skip
        return {voice.name: voice for voice in found}

    def digest(self, voice: Voice) -> str:
        return f"{self._digest}{voice.name}"


def planned(*passages: Passage, by: ToneEngine | None = None, **options: Any) -> SegmentPlan:  # noqa: ANN401 - JobSpec's
    spec = chapter("a-chapter", passages, STORE, **({"engine": "tone"} | options))
    return plan_chapter(spec, by or Choir(), "a-run")


def keys(*passages: Passage, **options: Any) -> list[str]:  # noqa: ANN401 - JobSpec's
    return planned(*passages, **options).keys


def test_each_passage_is_split_by_itself_and_spans_count_characters_of_the_chapter() -> None:
    passages = [Passage(SENTENCE * 3), Passage("Well."), Passage(SENTENCE)]
    text = BETWEEN.join(passage.text for passage in passages)
    found = planned(*passages).segments
    assert [segment.index for segment in found] == [0, 1, 2, 3, 4]
    assert [text[segment.start : segment.end].strip() for segment in found] == [
        *[SENTENCE.strip()] * 3, "Well.", SENTENCE.strip(),
    ]  # fmt: skip


def test_the_first_sentence_is_not_split_early_as_a_speech_is_for_its_listener() -> None:
    text = "The keeper of the lighthouse counted every lamp, and every window, and every step before the night began."
    assert len(text) > ToneEngine().limits("en").first_max_chars
    assert [segment.text for segment in planned(Passage(text)).segments] == [text]


def test_the_pause_of_a_passage_follows_its_last_segment_and_the_others_have_their_own() -> None:
    first = Passage(SENTENCE * 2 + "\n\n" + SENTENCE, 1.5)
    inner = [piece.pause_s for piece in split(first.text, "en", ToneEngine().limits("en"))]
    found = [segment.pause_s for segment in planned(first, Passage("Well.", 0.0)).segments]
    assert found == [*inner[:-1], 1.5, 0.0]
    assert inner[:-1] == [0.25, 0.6]


def test_a_passage_without_text_lengthens_the_pause_before_it_and_is_left_out_at_the_start() -> None:
    found = planned(Passage("***", 9.0), Passage("One.", 0.5), Passage("", 1.0), Passage("—", 0.25), Passage("Two."))
    assert [(segment.text, segment.pause_s) for segment in found.segments] == [("One.", 1.75), ("Two.", 0.0)]
    assert planned(Passage("***", 9.0)).segments == []


def test_a_passage_may_have_a_voice_and_a_language_of_its_own() -> None:
    found = planned(
        Passage("One."), Passage("Two.", voice="amelie", language="fr"), Passage("Three.", language="de"), voice="sine"
    )
    assert [(segment.voice.name, segment.language) for segment in found.segments] == [
        ("sine", "en"), ("amelie", "fr-fr"), ("sine", "de"),
    ]  # fmt: skip


def test_a_passage_in_a_language_that_its_voice_does_not_speak_is_spoken_in_the_chapters_language() -> None:
    found = planned(Passage("One."), Passage("Zwei.", language="de"), voice="joe", language="en")
    assert [segment.text for segment in found.segments] == ["One.", "Zwei."]
    assert len({segment.language for segment in found.segments}) == 1


def test_a_voice_is_looked_up_once_so_that_a_clone_replaced_meanwhile_does_not_change_within_a_chapter() -> None:
    class Replaced(Choir):
        """Has other clips for a voice whenever it is asked for its voices."""

        lookups = 0

        @property
        def voices(self) -> Mapping[str, Voice]:
            self.lookups += 1
            return {"alice": Voice("alice", (), (VoicePart("alice", 1.0, (f"clip-{self.lookups}",)),))}

    engine = Replaced()
    found = planned(*[Passage(f"Number {number}.", voice="alice") for number in range(3)], by=engine)
    assert len({segment.voice for segment in found.segments}) == 1


@pytest.mark.parametrize(
    ("options", "passage", "error"),
    [
        ({"engine": "piper"}, Passage("x"), UnknownEngineError),
        ({}, Passage("x", voice="nobody"), UnknownVoiceError),
        ({"voice": "joe", "language": "de"}, Passage("x"), UnknownLanguageError),
    ],
)
def test_a_chapter_that_cannot_be_spoken_is_refused(
    options: dict[str, Any], passage: Passage, error: type[Exception]
) -> None:
    with pytest.raises(error):
        planned(passage, **options)


def test_the_key_of_a_segment_does_not_depend_on_its_place_its_pause_or_its_neighbours() -> None:
    before, after = Passage(SENTENCE * 3, 0.5), Passage("Well, well.", 0.1)
    alone = keys(after)
    assert keys(before, after)[-1:] == alone == keys(replace(after, pause_s=2.0), before)[:1]
    edited = replace(before, text=SENTENCE * 2 + "Another one stands here now.")
    assert [old == new for old, new in zip(keys(before, after), keys(edited, after), strict=True)] == [
        True, True, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        keys(Passage("Two.")),
        keys(Passage("One."), seed=1),
        keys(Passage("One."), speed=1.5),
        keys(Passage("One.", language="de")),
        keys(Passage("One.", voice="joe")),
        keys(Passage("One."), by=Choir(digest="replaced")),
        keys(Passage("One."), by=Choir(model="sine-2")),
    ],
    ids=["text", "seed", "speed", "language", "voice", "voice-file", "model"],
)
def test_each_cause_of_another_sound_gives_another_key(other: list[str]) -> None:
    assert other != keys(Passage("One."))


def test_a_cloned_voice_with_other_clips_gives_other_keys() -> None:
    passage = Passage("One.", voice="alice")
    assert keys(passage, by=Choir(clips=("b",))) != keys(passage)
    assert keys(passage, by=Choir(clips=("a",))) == keys(passage)


def test_a_new_version_of_the_audio_checks_gives_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(Passage("One."))
    monkeypatch.setattr(audio_checks, "VERSION", audio_checks.VERSION + 1)
    assert keys(Passage("One.")) != before


def test_a_speed_written_as_an_integer_gives_the_same_keys() -> None:
    assert keys(Passage("One."), speed=1) == keys(Passage("One."), speed=1.0)


def test_each_attempt_has_its_own_seed_which_is_always_the_same() -> None:
    seeds = [seed_of(5, "sine", "One.", again) for again in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert seeds == [seed_of(5, "sine", "One.", again) for again in range(3)]


def test_the_digest_of_a_plan_depends_on_its_keys_and_its_store_alone() -> None:
    assert planned(Passage("One.", 0.1)).digest == planned(Passage("One.", 0.2)).digest
    assert planned(Passage("One.")).digest != planned(Passage("Two.")).digest
    one = planned(Passage("One."))
    assert one.digest != replace(one, store="1" * 32).digest


@given(st.lists(st.tuples(st.text(max_size=300), st.floats(0, 60)), max_size=8))
def test_segments_follow_the_text_in_order_and_no_silence_after_the_first_segment_is_lost(
    parts: list[tuple[str, float]],
) -> None:
    passages = [Passage(text, pause_s) for text, pause_s in parts]
    found = planned(*passages)
    assert len(found.keys) == len(found.segments)
    ends = [0, *(segment.end for segment in found.segments)]
    assert all(end <= segment.start < segment.end for end, segment in zip(ends, found.segments, strict=False))
    engine = Choir()
    inner = [split(passage.text, "en", engine.limits("en")) for passage in passages]
    first = next((number for number, pieces in enumerate(inner) if pieces), len(passages))
    asked = sum(passage.pause_s for passage in passages[first:])
    assert sum(segment.pause_s for segment in found.segments) >= asked - 1e-6
