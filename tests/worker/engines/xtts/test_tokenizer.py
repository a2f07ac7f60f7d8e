"""The tokenizer: upstream's tokens where upstream works, fallbacks where not, and the limits of a segment."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_vocab import write_vocab
from tests.support.cpu_time import growth
from voxspool_worker.engines.xtts.tokenizer import LANGUAGES, MAX_DIGITS, MAX_TOKENS, XttsTokenizer, canonical_language
from voxspool_worker.text import split

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

pytestmark = pytest.mark.filterwarnings("default")  # upstream's libraries emit warnings

SENTENCES = {
    "en": "Dr. Smith paid $1,234.50 & 20% on the 3rd of May; it was 5° at 12.5 km, No. 7 @ home.",
    "es": "La Dra. Martínez pagó 1.234,50€ el 1º de mayo & el 14% de $20, señor.",
    "fr": "Mme. Moreau a payé 20,15€ le 1er mai & 14% de 100.000,5, à l'heure.",
    "de": "Frau Dr. Müller zahlte am 3. Mai 1.234 Dollar & 14% von 300, nicht 1999.",
    "it": "Il Sig. Rossi ha pagato 20,15€ per il 1° piano & 12,5 km, più $7.",
    "pt": "A Dra. Costa pagou 20,15€ no 1º dia & 14% de 12,5, com 100 amigos.",
    "pl": "Dzień dobry, dr. Nowak: 20,15€ i 14% z 12,5, razem 1500 żołnierzy.",
    "tr": "Dr. Ayşe 50 liraya %14 indirimle 1. kitabı aldı, izmir'de.",
    "ru": "Г-н Иванов заплатил 20.15€ & 14% за 12.5 кг, 1-й раз из 1,500.",
    "nl": "Dhr. Jansen betaalde $20 & 12,5 euro, 14% van 1.234, de 2e keer.",
    "cs": "P. Novák zaplatil 20.15€ & 14% z 12,5 za 50 vojáků.",
    "ar": "كان هناك 50 جنديًا & 14% من 12,5 في البيت.",
    "zh-cn": "我的电量为 14%，一共有 50 名士兵，12.5 秒。",
    "hu": "Dr. Szabó 12,5 másodperc alatt 50 forintot & 14% kamatot fizetett, az 1. napon.",
    "ko": "50 명의 병사가 12.5 초 안에 14%를 이것은 1 번째 테스트입니다.",
    "ja": "これは50人の兵士です。",
    "hi": "मेरे पास बैटरी है & यह हमारा घर @ है।",
}
PACKAGES = {"zh-cn": "pypinyin", "ja": "cutlet"}
"""Language -> the package that upstream needs for it."""

FRAGMENTS = [
    *("a", "Word ", "Dr. ", "It was so. ", "1", "12,5 ", "$5.10 ", "3rd ", "1. ", "9" * 70, "1" * 400, "٣", "½", "Ⅷ"),
    *("ß", "é", "ễ", "дом ", "你好。", "かな", "カ", "한국어 ", "नमस्ते। ", "مرحبا، ", "שלום ", "สวัสดี", "α", "ﷺ", "İ"),
    *(
        '?" ',
        "…",
        "—",
        "!!!",
        "%",
        "€",
        "°",
        "@ & #",
        "[en]",
        "[SPACE]",
        "[STOP]",
        "\ud800",
        "\0",
        "\u0301",
        "→",
        "😀",
        "\n\n",
    ),
]
texts = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=60),
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
)
every_text = settings(max_examples=150, derandomize=True)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.json"
    write_vocab(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(vocab: Path) -> XttsTokenizer:
    return XttsTokenizer(vocab)


@pytest.fixture(scope="module")
def upstream(vocab: Path) -> VoiceBpeTokenizer:
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer

    return VoiceBpeTokenizer(vocab)


def read(tokenizer: XttsTokenizer, tokens: list[int]) -> str:
    """Return the text that the tokens spell; it starts with the language's tag."""
    vocabulary = tokenizer._bpe.tokenizer
    return "".join(vocabulary.id_to_token(token) for token in tokens).replace("[SPACE]", " ")


def words(text: str) -> str:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in plain if unicodedata.category(c)[0] in "LN")


# The same tokens as upstream


@pytest.mark.parametrize("language", LANGUAGES)
def test_ordinary_sentences_have_upstreams_tokens(
    tokenizer: XttsTokenizer, upstream: VoiceBpeTokenizer, language: str
) -> None:
    package = PACKAGES.get(language)
    if package and not importlib.util.find_spec(package):
        pytest.skip(f"upstream needs {package} for {language}")
    sentence = SENTENCES[language]
    assert tokenizer.encode(sentence, language) == upstream.encode(sentence.strip().lower(), language)


@every_text
@given(texts, st.sampled_from(LANGUAGES))
def test_any_text_that_upstream_can_encode_has_upstreams_tokens(
    tokenizer: XttsTokenizer, upstream: VoiceBpeTokenizer, text: str, language: str
) -> None:
    try:
        expected = upstream.encode(text.strip().lower(), language)
    except Exception:  # noqa: BLE001 - other tests cover the texts for which upstream raises
        return
    exempt = re.search(r"[0-9.,]{300}|\[", text)
    if upstream.tokenizer.token_to_id("[UNK]") not in expected and not exempt:
        assert tokenizer.encode(text, language) == expected


# Any text


@every_text
@given(texts, st.sampled_from([*LANGUAGES, "zh", "en-us", "pt_BR", "xx", "", "\ud800"]))
def test_any_text_can_be_encoded_and_starts_with_the_languages_tag(
    tokenizer: XttsTokenizer, text: str, language: str
) -> None:
    tag = canonical_language(language) or "en"
    assert read(tokenizer, tokenizer.encode(text, language)[:1]) == f"[{tag}]"
    assert len(tokenizer.tokens(text, language)) == min(tokenizer.count(text, language), MAX_TOKENS)


@every_text
@given(texts, st.sampled_from(LANGUAGES))
def test_every_piece_of_a_split_text_fits_the_limits_and_is_not_empty(
    tokenizer: XttsTokenizer, text: str, language: str
) -> None:
    limits = tokenizer.limits(language)
    for piece in split(text, language, limits):
        assert len(piece.text) <= limits.max_chars
        assert 1 < tokenizer.count(piece.text, language) <= MAX_TOKENS


@every_text
@given(st.lists(st.sampled_from(["a", "Да", "你", "힣", "ß", "!", " ", ".", "ع", "ǖ", "䓪"]), max_size=60).map("".join))
def test_the_shortcut_of_fits_agrees_with_counting_the_tokens(tokenizer: XttsTokenizer, text: str) -> None:
    for language in ("en", "ko", "pl"):
        fits = tokenizer.limits(language).fits
        assert fits
        assert fits(text) == (tokenizer.count(text, language) <= MAX_TOKENS)


@pytest.mark.parametrize("text", ["", " ", "...", "***", "→", "?!"])
def test_a_text_without_words_is_the_languages_tag_alone(tokenizer: XttsTokenizer, text: str) -> None:
    assert read(tokenizer, tokenizer.tokens(text, "en")) == "[en]"


# Fallbacks


@pytest.mark.parametrize(
    ("language", "text", "reading"),
    [
        ("es", "son " + "9" * 70, "son nueve nueve nueve"),
        ("en", "it is " + "1" * 400, "it is one one one one"),
        ("cs", "dne 1. května", "dne jedna. května"),
        ("hi", "10 घर", "एक शून्य घर"),
        ("pl", "7" * 80 + " i 12", "siedem siedem"),
    ],
)
def test_a_number_that_upstream_cannot_spell_out_is_read_digit_by_digit(
    tokenizer: XttsTokenizer, language: str, text: str, reading: str
) -> None:
    assert read(tokenizer, tokenizer.encode(text, language)).startswith(f"[{language}]{reading}")


def test_a_number_that_upstream_cannot_spell_out_does_not_affect_the_others(tokenizer: XttsTokenizer) -> None:
    reading = read(tokenizer, tokenizer.encode("Sr. Gil: $12 & " + "9" * 70, "es"))
    assert reading.startswith("[es]señor gil: doce dólares y nueve nueve")


@pytest.mark.parametrize(
    ("language", "text", "reading"),
    [
        ("en", "Nguyễn Ω", "nguyen o"),
        ("en", "¥5 → 6", "yen five six"),
        ("de", "von £20", "von zwanzig pfund"),
        ("de", "3,5 km", "drei komma fünf km"),
    ],
)
def test_characters_that_the_vocabulary_lacks_are_replaced(
    tokenizer: XttsTokenizer, language: str, text: str, reading: str
) -> None:
    assert read(tokenizer, tokenizer.encode(text, language)) == f"[{language}]{reading}"


def test_without_its_package_a_language_is_transliterated_and_one_warning_is_logged(
    vocab: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pypinyin", None)
    monkeypatch.setitem(sys.modules, "cutlet", None)
    tokenizer = XttsTokenizer(vocab)
    with caplog.at_level(logging.WARNING):
        assert read(tokenizer, tokenizer.encode("你好 12", "zh")) == "[zh-cn]nihao shier"
        assert read(tokenizer, tokenizer.encode("かな", "ja")) == "[ja]kana"
        tokenizer.encode("你好", "zh")
    assert [record.getMessage().split(" error=")[0] for record in caplog.records] == [
        "xtts.reading_degraded language=zh",
        "xtts.reading_degraded language=ja",
    ]


@pytest.mark.parametrize(
    ("absent", "language", "extra"),
    [("cutlet", "ja", "xtts-ja"), ("fugashi", "ja", "xtts-ja"), ("unidic_lite", "ja", "xtts-ja"),
     ("pypinyin", "zh-cn", "xtts-zh")],
)  # fmt: skip
def test_a_language_whose_package_is_missing_is_not_listed(
    vocab: Path, monkeypatch: pytest.MonkeyPatch, absent: str, language: str, extra: str
) -> None:
    assert XttsTokenizer(vocab).languages == LANGUAGES
    monkeypatch.setitem(sys.modules, absent, None)
    tokenizer = XttsTokenizer(vocab)
    assert set(LANGUAGES) - set(tokenizer.languages) == {language}
    (hint,) = tokenizer.lacking.values()
    assert f"worker[{extra}]" in hint


# Limits


def test_a_long_number_is_split_into_pieces_that_fit(tokenizer: XttsTokenizer) -> None:
    text = "7" * 1000
    pieces = split(text, "en", tokenizer.limits("en"))
    assert "".join(piece.text for piece in pieces) == text
    assert all(len(piece.text) <= MAX_DIGITS for piece in pieces)
    assert all(tokenizer.count(piece.text, "en") <= MAX_TOKENS for piece in pieces)


def test_time_to_split_digits_grows_linearly(tokenizer: XttsTokenizer) -> None:
    short, long = (" ".join(str(7**power)[:9] for power in range(numbers)) for numbers in (500, 2000))
    pieces = split(long, "de", tokenizer.limits("de"))
    assert (
        growth(lambda: split(short, "de", tokenizer.limits("de")), lambda: split(long, "de", tokenizer.limits("de")))
        < 8
    ), "4 times the text"
    assert pieces[-1].end == len(long)


def test_a_text_with_too_many_tokens_is_split_between_words(tokenizer: XttsTokenizer) -> None:
    text = "777777 " * 30
    pieces = split(text, "de", tokenizer.limits("de"))
    assert tokenizer.count(text, "de") > MAX_TOKENS
    assert {word for piece in pieces for word in piece.text.split()} == {"777777"}
    assert all(tokenizer.count(piece.text, "de") <= MAX_TOKENS for piece in pieces)


def test_a_text_beyond_the_limits_is_truncated_and_a_warning_is_logged(
    tokenizer: XttsTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(tokenizer.tokens("7 " * 500, "en")) == MAX_TOKENS
    assert "xtts.truncated" in caplog.text


@pytest.mark.parametrize(("language", "chars"), [("en", 250), ("zh", 82), ("zh-cn", 82), ("ja", 71), ("pt-br", 203)])
def test_limits_depend_on_the_language(tokenizer: XttsTokenizer, language: str, chars: int) -> None:
    limits = tokenizer.limits(language)
    assert limits.max_chars == chars
    assert limits.first_max_chars == min(chars, 100)
    assert limits.min_chars == min(chars // 4, 40)


@pytest.mark.parametrize(
    ("tag", "language"),
    [("en", "en"), ("EN_us", "en"), ("pt-br", "pt"), ("zh", "zh-cn"), ("zh-TW", "zh-cn"), (" de ", "de")],
)
def test_a_tag_with_a_region_is_mapped_to_its_language(tag: str, language: str) -> None:
    assert canonical_language(tag) == language


@pytest.mark.parametrize("tag", ["", "xx", "english", "sv", "\ud800"])
def test_an_unsupported_language_has_no_tag(tag: str) -> None:
    assert canonical_language(tag) is None


# Punctuation, threads


def test_tokens_are_those_of_the_spoken_form(tokenizer: XttsTokenizer) -> None:
    assert read(tokenizer, tokenizer.tokens("“Really?”", "en")) == "[en]really?"
    assert tokenizer.tokens("Say [de] now!!!", "en") == tokenizer.encode("Say (de) now!", "en")


@pytest.fixture
def frequent_thread_switches() -> Iterator[None]:
    """Make Python switch threads after nearly every instruction."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval_s)


@pytest.mark.usefixtures("frequent_thread_switches")
def test_threads_do_not_affect_each_others_tokens(vocab: Path) -> None:
    # num2words keeps the precision of a decimal in a global object.
    numbers = [f"{number}.{'1' * (number % 9 + 1)}" for number in range(200)]
    alone = XttsTokenizer(vocab)
    expected = [alone.tokens(text, language) for text in numbers for language in ("en", "de")]
    shared = XttsTokenizer(vocab)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(shared.tokens, text, language) for text in numbers for language in ("en", "de")]
    assert [job.result() for job in jobs] == expected
