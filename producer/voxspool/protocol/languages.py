"""Match a requested language with the languages of a voice: `en` matches any English, `en-gb` also matches `en`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def meant(wanted: str, languages: Sequence[str]) -> str | None:
    """Return the tag in `languages` that matches the requested one; None if the voice does not speak the language.

    `en` matches the first tag of this language, and `en-gb` matches `en` if there is no `en-gb`. A voice without tags
    speaks any language.
    """
    if not languages:
        return wanted
    tag = wanted.lower().replace("_", "-")
    if tag in languages:
        return tag
    return next((one for one in languages if one.split("-")[0] == tag or tag.split("-")[0] == one), None)
