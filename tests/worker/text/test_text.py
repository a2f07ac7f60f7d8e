"""`split` and `normalise`: properties that hold for every text, and results for texts that people write."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
import sentencex
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cpu_time import growth
from voxspool_worker.text import (
    CLAUSE_PAUSE_S,
    PARAGRAPH_PAUSE_S,
    SENTENCE_PAUSE_S,
    Limits,
    Piece,
    normalise,
    speakable,
    split,
)
from voxspool_worker.text.normalise import MARKS_MAX

LIMITS = Limits(max_chars=250, first_max_chars=80)

every_text = settings(
    max_examples=150,
    derandomize=True,  # the same examples in CI as here
)

FRAGMENTS = [
    *("a", "Word", "Dr.", "U.S.", "1", "3.14", "½", "Ⅷ", "word " * 12, "x" * 40, "It was so. ", "Really? ", "well, "),
    *(" ", "  ", "\n", "\r\n", "\n\n", "\n \t\n", "\u2028", "\u2029", "\x85", "\u3000", "\xa0"),
    *(".", ". ", "!", "?! ", "…", ", ", "; ", "—", "***", "“", "”", "(", ")", '"', "¿", "°", "№"),
    *("\0", "\x07", "\ud800", "\udc00", "\ud83d\ude00", "\ue000", "\uffff", "\ufeff", "\ufffd", "\u0378"),
    *("\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202e", "\u2066", "\xad", "\u034f"),
    *("\u0301", "\u0323", "\u0344", "\u20e3", "e\u0301", "ǖ", "\ufb2c", "\u1100\u1161\u11a8", "\u0300\u0323" * 40),
    *("字", "你好。", "、", "かな", "한국어 ", "สวัสดี", "မြန်မာ။", "မ"),
    *("مرحبا، ", "می\u200cخواهم", "؟ ", "क्\u200dष", "नमस्ते। ", "שלום ", "Я. ", "অ\u3000."),
    *("😀", "👍🏽", "👨\u200d👩\u200d👧", "🇫🇷", "❤\ufe0f", "1\ufe0f\u20e3", "\U000e0041", "💬" * 50),
]
any_character = st.characters(exclude_categories=())  # lone surrogates too
texts = st.one_of(
    st.text(),
    st.text(any_character, max_size=60),
    st.lists(st.one_of(st.sampled_from(FRAGMENTS), any_character), max_size=40).map("".join),
)
languages = st.sampled_from(
    ["en", "de", "ru", "bn", "hi", "zh-cn", "ja", "ar", "th", "xx", "en-us", "pt_BR", "", "\ud800"]
)
limits = st.builds(
    Limits,
    max_chars=st.integers(3, 120),
    first_max_chars=st.integers(3, 120),
    min_chars=st.integers(0, 40),
)


def letters(text: str) -> str:
    return "".join(character for character in text if speakable(character))


def spoken(text: str, language: str = "en", limits: Limits = LIMITS) -> list[str]:
    return [piece.text for piece in split(text, language, limits)]


# Properties that hold for every text


@every_text
@given(texts, languages, limits)
def test_pieces_cover_the_whole_text(text: str, language: str, limits: Limits) -> None:
    pieces = split(text, language, limits)
    if not speakable(text):
        assert pieces == []
        return
    assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == len(text)
    assert all(piece.start < piece.end for piece in pieces)


@every_text
@given(texts, languages, limits)
def test_every_letter_and_number_is_spoken_by_the_piece_that_spans_it(text: str, language: str, limits: Limits) -> None:
    for piece in split(text, language, limits):
        assert speakable(piece.text)
        span = normalise(text[piece.start : piece.end])
        # Compared decomposed: which letters NFC composes may depend on symbols that are not spoken.
        assert letters(unicodedata.normalize("NFD", piece.text)) == letters(unicodedata.normalize("NFD", span))


@every_text
@given(texts, languages, limits)
def test_no_piece_is_longer_than_its_limit(text: str, language: str, limits: Limits) -> None:
    for index, piece in enumerate(split(text, language, limits)):
        assert len(piece.text) <= limits.max_chars
        assert index or len(piece.text) <= limits.first_max_chars


@every_text
@given(texts, languages, limits)
def test_a_piece_is_normalised_and_the_last_has_no_pause(text: str, language: str, limits: Limits) -> None:
    pieces = split(text, language, limits)
    assert all(normalise(piece.text) == piece.text for piece in pieces)
    assert all(piece.pause_s in {0.0, SENTENCE_PAUSE_S, PARAGRAPH_PAUSE_S, CLAUSE_PAUSE_S} for piece in pieces)
    assert not pieces or pieces[-1].pause_s == 0.0


@every_text
@given(st.lists(texts, min_size=2, max_size=4), languages, limits)
def test_no_piece_has_words_of_two_paragraphs(paragraphs: list[str], language: str, limits: Limits) -> None:
    text = "\n\n".join(paragraphs)
    end = 0
    breaks = [end := end + len(paragraph) + 2 for paragraph in paragraphs[:-1]]
    for piece in split(text, language, limits):
        assert not any(speakable(text[piece.start : at]) and speakable(text[at : piece.end]) for at in breaks)


@every_text
@given(texts)
def test_a_second_normalise_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@every_text
@given(texts)
def test_normalised_text_is_one_composed_line_without_silent_characters(text: str) -> None:
    plain = normalise(text)
    assert unicodedata.is_normalized("NFC", plain)
    assert plain == " ".join(plain.split())
    assert not {unicodedata.category(character) for character in plain} & {"Cc", "Cs", "Co", "Cn"}
    assert speakable(plain) == speakable(text)


# The engine's own check


def spelt_out(text: str) -> int:
    """Return a length in which a digit counts as seven characters."""
    return sum(7 if unicodedata.category(character)[0] == "N" else 1 for character in text)


measures = st.builds(
    lambda limits, most: replace(limits, fits=lambda text: spelt_out(text) <= most), limits, st.integers(0, 100)
)


@every_text
@given(texts, languages, limits, st.integers(7 * MARKS_MAX, 400))
def test_every_piece_passes_the_engines_check(text: str, language: str, limits: Limits, most: int) -> None:
    measured = replace(limits, fits=lambda spoken: spelt_out(spoken) <= most)
    pieces = split(text, language, measured)
    assert all(spelt_out(piece.text) <= most for piece in pieces)
    assert [piece.start for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]
    assert not speakable(text) or (pieces[0].start, pieces[-1].end) == (0, len(text))


@every_text
@given(texts, languages, measures)
def test_no_letter_is_lost_even_if_the_engines_check_refuses_everything(
    text: str, language: str, measured: Limits
) -> None:
    for piece in split(text, language, measured):
        span = normalise(text[piece.start : piece.end])
        assert letters(unicodedata.normalize("NFD", piece.text)) == letters(unicodedata.normalize("NFD", span))
        assert len(piece.text) <= measured.max_chars


def test_a_sentence_that_does_not_fit_is_cut_at_its_clauses() -> None:
    measured = replace(LIMITS, fits=lambda text: spelt_out(text) <= 100)
    assert spoken("It took 1234567 days, then 67890 more, and 1234567890 in all.", limits=measured) == [
        "It took 1234567 days,",
        "then 67890 more,",
        "and 1234567890 in all.",
    ]


def test_short_sentences_are_not_joined_if_the_result_would_not_fit() -> None:
    measured = replace(LIMITS, fits=lambda text: spelt_out(text) <= 40)
    assert spoken("In 1999. In 2001. In 2003.", limits=measured) == ["In 1999.", "In 2001.", "In 2003."]


def test_the_engines_check_is_called_about_once_per_piece() -> None:
    asked: list[str] = []

    def fits(text: str) -> bool:
        asked.append(text)
        return True

    pieces = split(PROSE * 100, "en", replace(LIMITS, fits=fits))
    assert len(asked) < 1.5 * len(pieces)


# normalise


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("  two\n\twords ", "two words"),
        ("cafe\u0301", "café"),
        ("\ufeffso\xadft\u200b \u202eturn\u200f\x00", "soft turn"),
        ("I ❤\ufe0f you 👨\u200d👩\u200d👧!", "I you !"),
        ("thumbs👍🏽up", "thumbs up"),
        ("“Don’t” — she said…", "“Don’t” — she said…"),
        ("20 °C, № 3, 5 ㎏", "20 °C, № 3, 5 ㎏"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("a\u200d b \u200c", "a b"),
        ("lone \ud800 half", "lone half"),
        ("\ue000\uffff", ""),
    ],
)
def test_normalise_keeps_what_is_spoken_and_drops_the_rest(text: str, plain: str) -> None:
    assert normalise(text) == plain


def test_a_long_run_of_marks_is_cut_to_unicodes_limit() -> None:
    assert normalise("a" + "\u0323\u0301" * 50_000 + "b") == "ạ" + "\u0323" * 14 + "\u0301" * 15 + "b"


@pytest.mark.parametrize("text", ["a", "字", "٣", "½", "Ⅷ", "…ж…"])
def test_letters_and_numbers_of_all_scripts_are_speakable(text: str) -> None:
    assert speakable(text)


@pytest.mark.parametrize("text", ["", " \n", "***", "😀", "—", "\u0301", "\ud800", "\0"])
def test_symbols_are_not_speakable(text: str) -> None:
    assert not speakable(text)
    assert split(text, "en", LIMITS) == []


# Sentences and paragraphs


def test_an_abbreviation_does_not_end_a_sentence() -> None:
    assert split("Dr. Smith went home.", "en", LIMITS) == [Piece(0, 20, "Dr. Smith went home.", 0.0)]


def test_sentences_are_pieces_with_a_pause_between_them() -> None:
    text = "The first sentence is here. The second one follows it."
    assert split(text, "en", LIMITS) == [
        Piece(0, 28, "The first sentence is here.", SENTENCE_PAUSE_S),
        Piece(28, 54, "The second one follows it.", 0.0),
    ]


@pytest.mark.parametrize("blank_line", ["\n\n", "\r\n\r\n", "\r\r", "\n \t\n\n", "\u2029", " \n\u3000\n "])
def test_a_blank_line_ends_a_piece_even_a_heading(blank_line: str) -> None:
    pieces = split(f"Chapter One{blank_line}It was a dark and stormy night.", "en", LIMITS)
    assert [piece.text for piece in pieces] == ["Chapter One", "It was a dark and stormy night."]
    assert [piece.pause_s for piece in pieces] == [PARAGRAPH_PAUSE_S, 0.0]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028"])
def test_a_single_line_end_is_a_space(line_end: str) -> None:
    assert spoken(f"It was a dark{line_end}and stormy night.") == ["It was a dark and stormy night."]


def test_a_row_of_asterisks_between_paragraphs_is_part_of_a_span_and_not_spoken() -> None:
    pieces = split("* * *\n\nThe end of it.\n\n***\n\nThe beginning.\n\n---\n", "en", LIMITS)
    assert [piece.text for piece in pieces] == ["The end of it.", "The beginning."]
    assert [(piece.start, piece.end) for piece in pieces] == [(0, 28), (28, 48)]


def test_symbols_after_a_sentence_stay_in_its_paragraph() -> None:
    pieces = split("That was very good of you. 😀\n\nWe are glad.", "en", LIMITS)
    assert [piece.text for piece in pieces] == ["That was very good of you.", "We are glad."]
    assert pieces[0].pause_s == PARAGRAPH_PAUSE_S


def test_a_short_sentence_is_joined_with_the_next_one() -> None:
    assert spoken("1. Open the door and go in. Yes. No. Then he sat down at the table.") == [
        "1. Open the door and go in.",
        "Yes. No. Then he sat down at the table.",
    ]


def test_a_short_last_sentence_is_joined_with_the_one_before() -> None:
    assert spoken("He sat down at the long table. Why?") == ["He sat down at the long table. Why?"]


def test_a_short_sentence_is_not_joined_if_that_would_exceed_the_limit() -> None:
    assert spoken("Yes! " + "a" * 30, limits=Limits(250, 32)) == ["Yes!", "a" * 30]


@pytest.mark.parametrize(
    ("language", "text", "pieces"),
    [
        ("zh-cn", "今天天气很好，我们去公园玩吧。你觉得怎么样？", ["今天天气很好，我们去公园玩吧。", "你觉得怎么样？"]),
        ("hi", "यह पहला वाक्य है। वह दूसरा है।", ["यह पहला वाक्य है।", "वह दूसरा है।"]),
        ("ar", "مرحبا بكم؟ كيف حالك؟", ["مرحبا بكم؟", "كيف حالك؟"]),
        ("de-DE", "Es war am 3. Mai z.B. schön. Ja, so war es.", ["Es war am 3. Mai z.B. schön.", "Ja, so war es."]),
    ],
)
def test_sentences_of_other_scripts(language: str, text: str, pieces: list[str]) -> None:
    assert spoken(text, language, Limits(250, 80, min_chars=5)) == pieces


@pytest.mark.parametrize("language", ["xx", "en-us", "EN_GB", "", "no such language", "\ud800", "\0", "日本"])
def test_an_unknown_language_is_read_as_english(language: str) -> None:
    assert spoken("Dr. Smith went home at once. Nobody saw him leave.", language) == [
        "Dr. Smith went home at once.",
        "Nobody saw him leave.",
    ]


def test_sentencex_still_panics_on_a_broad_space_before_a_full_stop() -> None:
    # When this test fails, `_sentence_ends` need not replace spaces any more.
    with pytest.raises(BaseException, match="char boundary") as panic:
        sentencex.segment("ru", "B\u3000.Dr.'a")
    assert type(panic.value).__name__ == "PanicException"
    assert spoken("B\u3000.Dr.'a", "ru") == ["B .Dr.'a"]


# A stand-in with the name of pyo3's class: no text is known that makes sentencex fail after the replacement of spaces.
class PanicException(BaseException):
    pass


@pytest.mark.parametrize("fault", [PanicException(), ValueError()])
def test_if_sentencex_fails_sentences_end_at_plain_marks(monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    def fail(_language: str, _text: str) -> list[str]:
        raise fault

    monkeypatch.setattr(sentencex, "segment", fail)
    text = "The first sentence is here. 第二句话在这里。The third follows"
    assert spoken(text, limits=Limits(250, 80, min_chars=5)) == [
        "The first sentence is here.",
        "第二句话在这里。",
        "The third follows",
    ]


def test_an_interrupt_is_not_treated_as_a_panic(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_language: str, _text: str) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(sentencex, "segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        split("A sentence.", "en", LIMITS)


# Long sentences

DECLARATION = (
    "When in the course of human events, it becomes necessary for one people to dissolve the political bands which "
    "have connected them with another, a decent respect to the opinions of mankind requires that they should declare "
    "the causes which impel them to the separation."
)


def test_the_first_piece_is_short_and_ends_at_a_clause() -> None:
    pieces = split(DECLARATION, "en", LIMITS)
    assert pieces[0] == Piece(0, 36, "When in the course of human events,", CLAUSE_PAUSE_S)
    assert len(pieces) == 2


def test_a_long_sentence_is_cut_at_its_clauses() -> None:
    assert [text[-8:] for text in spoken(DECLARATION, limits=Limits(150, 150))] == ["another,", "aration."]


def test_a_long_sentence_without_clauses_is_cut_between_words_in_even_parts() -> None:
    parts = spoken("word " * 14, limits=Limits(50, 50))
    assert parts == [" ".join(["word"] * 7)] * 2


def test_a_long_chinese_sentence_is_cut_after_its_commas() -> None:
    assert spoken("今天天气很好，我们去公园玩吧，" * 3, "zh", Limits(20, 20)) == ["今天天气很好，我们去公园玩吧，"] * 3


def test_a_long_quotation_is_cut_at_its_sentences() -> None:
    quotation = "“" + "Nobody was there when they came. " * 4 + "”"
    assert all(text.rstrip("” ").endswith("came.") for text in spoken(quotation, limits=Limits(80, 80)))


@pytest.mark.parametrize("unit", ["e\u0301", "x\u0323\u0301", "क्षि", "\u1100\u1161\u11a8"])
def test_a_hard_cut_keeps_marks_with_their_letter(unit: str) -> None:
    text = unit * 400
    pieces = split(text, "xx", LIMITS)
    assert len(pieces) > 1
    assert all(text[piece.start : piece.end].startswith(unit) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == normalise(text)


def test_a_hard_cut_keeps_joined_emoji_together() -> None:
    family = "👨\u200d👩\u200d👧"
    text = f"a{family}" * 400
    spans = [text[piece.start : piece.end] for piece in split(text, "xx", LIMITS)]
    assert len(spans) > 1
    assert all(span.startswith(("a", family)) for span in spans)


def test_a_long_run_of_symbols_does_not_become_pieces() -> None:
    pieces = split("Hello" + "!" * 10_000 + " you there", "en", LIMITS)
    assert letters("".join(piece.text for piece in pieces)) == "Helloyouthere"
    assert len(pieces) == 2


@pytest.mark.parametrize("limits", [(2, 50, 20), (50, 0, 20)])
def test_limits_below_three_characters_are_refused(limits: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="fewer than 3"):
        Limits(*limits)


# Time

PROSE = "The quick brown fox, which was brown, jumped over Mr. Dog. It was 3.14 p.m. in the afternoon! "


@pytest.mark.parametrize(
    "unit",
    [
        PROSE,
        "a",
        "é",
        "字。",
        "a\u0301\u0323",
        "\u0301\u0323",
        "x\n\n",
        "!a",
        "“a. ",
        "a\u200b",
        ", ",
        "😀",
        "Ok. ",
        "\n\n*",
    ],
)
def test_time_to_split_grows_linearly_with_the_length(unit: str) -> None:
    short, long = (f"Hi {unit * (characters // len(unit))} there" for characters in (15_000, 60_000))
    assert split(long, "en", LIMITS)[-1].end == len(long)
    assert growth(lambda: split(short, "en", LIMITS), lambda: split(long, "en", LIMITS)) < 8, "4 times the text"
