from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cpu_time import growth
from voxspool.books.pronunciation import Alignment, Pronunciations
from voxspool.errors import BookError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def rules(tmp_path: Path) -> object:
    def read(*files: str) -> Pronunciations:
        paths = [tmp_path / f"{number}.txt" for number in range(len(files))]
        for path, text in zip(paths, files, strict=True):
            path.write_text(text, encoding="utf-8")
        return Pronunciations.read(*paths)

    return read


def said(pronunciations: Pronunciations, text: str) -> str:
    return pronunciations.apply(text)[0]


@pytest.mark.parametrize(
    ("file", "text", "spoken"),
    [
        ("siobhan => Shivawn", "Siobhan, SIOBHAN and siobhan.", "Shivawn, Shivawn and Shivawn."),
        ("IT => I T", "It is IT, not it.", "It is I T, not it."),
        ("Polish => Pohlish\npolish => paalish", "Polish the Polish POLISH", "Pohlish the Pohlish paalish"),
        ("cat => dog", "cat concat cats cat_1 cat1 cat-like", "dog concat cats cat_1 cat1 dog-like"),
        ("don => Dohn", "Don, don't and Don’t, 'Don' Don's", "Dohn, don't and Don’t, 'Dohn' Dohn's"),
        ("don't => doe not", "Don’t. DON'T.", "doe not. doe not."),
        ("Anna => Ahna", "Anna’s and Annas, l'Anna", "Ahna’s and Annas, l'Ahna"),
        ("t => tee\ns => ess", "don't Anna's t", "don't Anna's tee"),
        ("New York => Nuh York\nNew => Nyoo", "New York is New.", "Nuh York is Nyoo."),
        ("a => b\nb => c", "a b", "b c"),
        ("straße => strahsse", "Die Straße, STRAßE", "Die strahsse, strahsse"),
        ("cafe => caffay", "cafe cafe\u0301", "caffay cafe\u0301"),
        ("東京 => とうきょう", "東京都", "とうきょう都"),
        ("C# => C sharp\n.NET => dot net", "C# and .NET", "C sharp and dot net"),
        ("etc. =>", "and so on etc. and", "and so on  and"),
        ("/Ch\\. (\\d+)/ => Chapter \\1", "See Ch. 12 and Ch. X", "See Chapter 12 and Ch. X"),
        ("/(?P<n>\\d+)°C/ => \\g<n> degrees", "5°C", "5 degrees"),
        ("/x*/ => why", "axxbx", "awhybwhy"),
        ("/\\d+/ => number\n12 => a dozen", "12 13", "a dozen number"),
        ("/a b/ => long\na => short", "a b a", "long short"),
        ("# a comment\n\n  word   =>   said so  \n", "word # a", "said so # a"),
        ("/a=>b/ => arrow", "a=>b", "arrow"),
        ("İ => dotted", "İ i", "dotted i"),
    ],
)
def test_rules_replace_written_words_by_spoken_ones(rules: object, file: str, text: str, spoken: str) -> None:
    assert said(rules(file), text) == spoken  # type: ignore[operator]


def test_rules_of_the_books_file_take_precedence_over_global_rules(rules: object) -> None:
    both = rules("tea => tay\nPolish => Pohlish\n/\\d/ => global", "tea => tee\npolish => mine\n/[0-9]/ => book")  # type: ignore[operator]
    assert said(both, "Tea, Polish 5") == "tee, mine book"


def test_any_part_of_a_replaced_word_maps_back_to_the_whole_written_word(rules: object) -> None:
    text = "Dr Who met Ch. 7 etc now"
    spoken, alignment = rules("dr => Doctor\netc =>\n/Ch\\. (\\d)/ => Chapter \\1").apply(text)  # type: ignore[operator]
    assert spoken == "Doctor Who met Chapter 7  now"

    def origin(part: str) -> str:
        begin = spoken.index(part)
        start, end = alignment.origin(begin, begin + len(part))
        return text[start:end]

    assert origin("Doctor") == origin("ct") == "Dr"
    assert origin("Who met") == "Who met"
    assert origin("Doctor Who") == "Dr Who"
    assert origin("apter") == "Ch. 7"
    assert origin("Chapter 7 ") == "Ch. 7 etc"
    assert origin(" now") == " now"
    assert alignment.origin(0, len(spoken)) == (0, len(text))


@given(text=st.text("ab cX'é.", max_size=30), cuts=st.lists(st.integers(0, 60), max_size=4))
def test_adjacent_spans_that_cover_the_spoken_text_cover_the_written_text(text: str, cuts: list[int]) -> None:
    from voxspool.books.pronunciation import _rule, _Word

    lines = ["a => alpha", "ab => ", "X => x x x", "/b+ ?c/ => see", "é => e"]
    found = [_rule(line, (0, number)) for number, line in enumerate(lines)]
    words = [one for one in found if isinstance(one, _Word)]
    rules = Pronunciations(words, [one for one in found if not isinstance(one, _Word)])
    spoken, alignment = rules.apply(text)
    borders = sorted({0, len(spoken), *(cut for cut in cuts if cut < len(spoken))})
    covered = [alignment.origin(a, b) for a, b in itertools.pairwise(borders)]
    if covered:
        assert (covered[0][0], covered[-1][1]) == (0, len(text))
        for (_, end), (start, _) in itertools.pairwise(covered):
            assert start <= end


def test_without_rules_a_text_is_spoken_unchanged() -> None:
    assert Pronunciations().apply("As it stands.") == ("As it stands.", Alignment())
    assert Pronunciations.read().apply("") == ("", Alignment())


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("good => one\nbad line", r"0\.txt, line 2 is 'bad line' and has no =>; write it like: Siobhan"),
        (" => nothing", r"line 1 has no word before =>"),
        ("a => b\n\na => c", r"line 3 repeats 'a' from line 1; keep one"),
        ("/(/ => x", r"line 1 has an expression that cannot be used, /\(/ => x: missing \)"),
        ("/a(b)/ => \\2", r"line 1 has an expression that cannot be used.*group reference"),
        ("/(a|a)+$/ => x", r"line 1 repeats a group in /\(a\|a\)\+\$/"),
        ("/(a*){2,}/ => x", "repeats a group"),
    ],
)
def test_the_error_for_a_wrong_line_names_its_number(rules: object, file: str, message: str) -> None:
    with pytest.raises(BookError, match=message):
        rules(file)  # type: ignore[operator]


def test_brackets_in_character_sets_and_escapes_do_not_count_as_groups(rules: object) -> None:
    assert said(rules("/[()]+/ =>\n/\\)+x/ => y"), "a(b))c") == "abc"  # type: ignore[operator]


def test_the_error_for_an_unreadable_file_states_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BookError, match=r"cannot read the pronunciation file .*none\.txt: No such file"):
        Pronunciations.read(tmp_path / "none.txt")
    (tmp_path / "latin").write_bytes("é => e".encode("latin-1"))
    with pytest.raises(BookError, match="not UTF-8 text at byte 0"):
        Pronunciations.read(tmp_path / "latin")


def test_ten_thousand_words_do_not_slow_a_chapter(rules: object) -> None:
    few, many = (
        rules("\n".join(f"word{number} => spoken{number}" for number in range(words)))  # type: ignore[operator] - a fixture that is a function
        for words in (100, 10_000)
    )
    text = "word17 stands among others, and nothing else. " * 2_000
    spoken, _ = many.apply(text)
    assert spoken.count("spoken17") == 2_000
    assert growth(lambda: few.apply(text), lambda: many.apply(text)) < 20, "100 times the words"
