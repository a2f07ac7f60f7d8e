"""Put <span id="…"> around parts of a paragraph, in the tree from which its text was read.

A part may begin or end inside an inline element, if the whole element can go into the span without taking other text
along. If one part of a paragraph cannot get a span, none of them does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from voxspool.books.html_text import Slot, is_block
from voxspool.books.xml import XHTML, local

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lxml.etree import _Element as Element

    from voxspool.books.html_text import Run

    Origin = tuple[Slot, int] | None

_WHOLE: Final = frozenset({"ruby", "math", "button", "label"})
"""Elements whose children must not be wrapped in a span."""
_NO_PHRASES: Final = frozenset({"tr", "table", "tbody", "thead", "tfoot", "ul", "ol", "dl", "menu"})
"""Elements that must not contain a span as a child."""


class _Edge(NamedTuple):
    """Where a span begins or ends: at character `at` of a text, or at an element that goes into it whole."""

    slot: Slot | None
    at: int
    element: Element | None


class _Cut(NamedTuple):
    """A part to wrap: both of its edges are among the children of one element."""

    parent: Element
    first: _Edge
    last: _Edge


def wrap(run: Run, spans: Sequence[tuple[int, int]], name: Callable[[], str]) -> list[str] | None:
    """Wrap parts of a run's text in spans and return their ids, which `name` draws. Parts are in order and apart.

    Returns None if one of them cannot have a span of its own; then the tree is unchanged.
    """
    text, origins = run.text, run.origins()
    cuts = [_cut(run, text, origins, start, end) for start, end in spans]
    if not all(cuts):
        return None
    names = [name() for _ in cuts]
    for cut, ident in zip(reversed(cuts), reversed(names), strict=True):
        if cut:
            _surround(cut, ident)  # from the end, so that earlier positions stay valid
    return names


def _cut(run: Run, text: str, origins: Sequence[Origin], start: int, end: int) -> _Cut | None:
    """Return the part from `start` to `end` of the text; None if markup crosses its edges."""
    inside = [index for index in range(start, min(end, len(text))) if _is_visible(text, origins, index)]
    if not inside:
        return None
    first, last = origins[inside[0]], origins[inside[-1]]
    if first is None or last is None:
        return None
    parent = _parent(run.element, first[0], last[0])
    if parent is None:
        return None
    before = next((origins[i] for i in range(inside[0] - 1, -1, -1) if _is_visible(text, origins, i)), None)
    after = next((origins[i] for i in range(inside[-1] + 1, len(text)) if _is_visible(text, origins, i)), None)
    one, other = _edge(parent, first[0], first[1], before), _edge(parent, last[0], last[1] + 1, after)
    return None if one is None or other is None else _Cut(parent, one, other)


def _is_visible(text: str, origins: Sequence[Origin], index: int) -> bool:
    """Return whether a character of the text is no space and stands in the tree."""
    return text[index] != " " and origins[index] is not None


def _around(slot: Slot) -> list[Element]:
    """Return the elements that contain a text, the innermost first."""
    owner = slot.owner
    return list(owner.iterancestors()) if slot.tail else [owner, *owner.iterancestors()]


def _parent(block: Element, first: Slot, last: Slot) -> Element | None:
    """Return the innermost element that contains both texts and may contain a span; None if there is none."""
    shared = set(_around(last))
    found = next(one for one in _around(first) if one in shared)
    chain = [found, *found.iterancestors()]
    inner = chain[: chain.index(block) + 1]
    whole = max((index for index, one in enumerate(inner) if local(one) in _WHOLE), default=-1)
    allowed = inner[whole + 1 :]
    return allowed[0] if allowed and local(allowed[0]) not in _NO_PHRASES else None


def _edge(parent: Element, slot: Slot, at: int, beyond: Origin) -> _Edge | None:
    """Return the edge moved out to the children of `parent`; None if text beyond the edge would go into the span."""
    around = _around(slot)
    depth = around.index(parent)
    if depth == 0:
        return _Edge(slot, at, None)
    lifted = around[depth - 1]
    if is_block(lifted) or (beyond is not None and lifted in _around(beyond[0])):
        return None
    return _Edge(None, 0, lifted)


def _surround(cut: _Cut, name: str) -> None:
    """Wrap a part in a span with this id."""
    span = cut.parent.makeelement(f"{{{XHTML}}}span", {"id": name})
    first, begin = _before(cut.first)
    last, end = _behind(cut.last)
    if first == last:
        text = _text(first)
        span.text, span.tail = text[begin:end], text[end:]
        _set_text(first, text[:begin])
        cut.parent.insert(_index(cut.parent, first), span)
        return
    head, tail = _text(first), _text(last)
    at = _index(cut.parent, first)
    taken = list(cut.parent)[at : _index(cut.parent, last)]
    _set_text(first, head[:begin])
    _set_text(last, tail[:end])
    span.text, span.tail = head[begin:], tail[end:]
    cut.parent.insert(at, span)
    span.extend(taken)


def _before(edge: _Edge) -> tuple[Slot, int]:
    """Return the text that a span begins in, and the character at which it begins."""
    if edge.slot is not None:
        return edge.slot, edge.at
    assert edge.element is not None
    previous, parent = edge.element.getprevious(), edge.element.getparent()
    assert parent is not None
    slot = Slot(parent, tail=False) if previous is None else Slot(previous, tail=True)
    return slot, len(_text(slot))


def _behind(edge: _Edge) -> tuple[Slot, int]:
    """Return the text that a span ends in, and the character before which it ends."""
    if edge.slot is not None:
        return edge.slot, edge.at
    assert edge.element is not None
    return Slot(edge.element, tail=True), 0


def _index(parent: Element, slot: Slot) -> int:
    """Return the index of the child that follows a text."""
    return parent.index(slot.owner) + 1 if slot.tail else 0


def _text(slot: Slot) -> str:
    return (slot.owner.tail if slot.tail else slot.owner.text) or ""


def _set_text(slot: Slot, text: str) -> None:
    if slot.tail:
        slot.owner.tail = text
    else:
        slot.owner.text = text
