"""The language that a book declares -> the tags that voices have: en, pt-br."""

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
"""Three letters (ISO 639-2), which books have and voices have not."""


def tag(said: str | None) -> str | None:
    """Return a language as a voice would name it; None for what names none."""
    wanted = (said or "").strip().casefold().replace("_", "-")
    first, dash, rest = wanted.partition("-")
    if not _TAG.fullmatch(wanted) or first in _NONE:
        return None
    return _SHORT.get(first, first) + dash + rest


def same_language(one: str | None, other: str | None) -> bool:
    """Whether a voice for the one may say the other: en and en-gb, and what is not said at all."""
    return one is None or (other is not None and one.split("-")[0] == other.split("-")[0])
