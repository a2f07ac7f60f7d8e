"""Which language of a voice matches a wanted one: `en` means any English, `en-gb` the nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def meant(wanted: str, languages: Sequence[str]) -> str | None:
    """Return the tag that is spoken where a language is wanted; None where the voice does not speak it.

    `en` takes the voice's first tag of that language, and `en-gb` takes `en`; no tags at all: any language.
    """
    if not languages:
        return wanted
    tag = wanted.lower().replace("_", "-")
    if tag in languages:
        return tag
    return next((one for one in languages if one.split("-")[0] == tag or tag.split("-")[0] == one), None)
