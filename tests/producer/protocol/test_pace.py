"""The pace of each language, and that it is the one of the model that speaks it."""

from __future__ import annotations

import pytest

from voxspool.protocol.pace import CHARS_PER_S, chars_per_s


def test_languages_have_their_pace_and_an_unknown_one_is_taken_as_english() -> None:
    assert chars_per_s("ja", "xtts") < chars_per_s("ru", "xtts") < chars_per_s("en", "xtts") < chars_per_s("fr", "xtts")
    assert chars_per_s("pt-BR", "xtts") == chars_per_s("pt_pt", "xtts") == CHARS_PER_S["pt"]
    assert chars_per_s("zh-cn", "xtts") == CHARS_PER_S["zh"]
    assert chars_per_s(None, "xtts") == chars_per_s("tlh", "piper") == chars_per_s("en-gb", "piper") == 16


def test_the_pace_of_a_language_is_that_of_the_model_that_speaks_it() -> None:
    limits = pytest.importorskip("voxspool_worker.engines.xtts.tokenizer").MAX_CHARS
    of_xtts = {language.split("-")[0]: round(16 * most / limits["en"], 1) for language, most in limits.items()}
    assert of_xtts == CHARS_PER_S
