"""Convert the language that a book declares into the tags that voices use, such as en or pt-br."""

from __future__ import annotations

import re
from typing import Final

_TAG: Final = re.compile(r"[a-z]{2,3}(?:-[a-z0-9]{1,8})*")
_NONE: Final = frozenset({"und", "mul", "zxx", "mis"})
_SHORT: Final = dict(
    pair.split(":")
    for pair in str.split(
        "eng:en fra:fr fre:fr deu:de ger:de spa:es ita:it por:pt nld:nl dut:nl pol:pl rus:ru tur:tr ces:cs cze:cs"
        " ara:ar zho:zh chi:zh jpn:ja hun:hu kor:ko hin:hi swe:sv nor:no dan:da fin:fi ell:el gre:el ukr:uk ron:ro"
        " rum:ro"
    )
)
"""Three-letter codes (ISO 639-2), which books use, and their two-letter codes (ISO 639-1), which voices use."""


def tag(said: str | None) -> str | None:
    """Return the tag that voices use for a language; None if the text is not a language tag."""
    wanted = (said or "").strip().casefold().replace("_", "-")
    first, dash, rest = wanted.partition("-")
    if not _TAG.fullmatch(wanted) or first in _NONE:
        return None
    return _SHORT.get(first, first) + dash + rest


def same_language(one: str | None, other: str | None) -> bool:
    """Return whether a voice for language `other` can speak text in language `one`.

    It can if both have the same base language (en and en-gb), or if the text does not state its language (None).
    """
    return one is None or (other is not None and one.split("-")[0] == other.split("-")[0])
