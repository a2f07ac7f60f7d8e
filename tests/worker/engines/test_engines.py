"""Loading engines by name, and the stand-in for an engine that cannot be loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import loaded
from voxspool.errors import CheckpointError, UnknownEngineError
from voxspool_worker import engines
from voxspool_worker.engines import load, load_or_stand_in
from voxspool_worker.engines.tone import ToneEngine
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from voxspool_worker.engines.base import Engine


def test_an_unknown_engine_name_raises_an_error_with_the_closest_name() -> None:
    with pytest.raises(UnknownEngineError, match=r"no engine 'pipre' \(did you mean piper\?\)"):
        load("pipre", Settings())


@pytest.mark.parametrize("name", ["tone", "piper"])
def test_load_returns_the_engine_of_that_name(name: str) -> None:
    assert loaded(name).name == name


def loader(*broken: str) -> Callable[..., Engine]:
    """Return a `load` that raises CheckpointError for the engines in `broken` and returns tone for all others."""

    def load_unless_broken(name: str, *_: object) -> Engine:
        if name in broken:
            raise CheckpointError(f"{name} is broken")
        return ToneEngine()

    return load_unless_broken


def test_the_wanted_engine_is_loaded_without_a_fallback() -> None:
    found = load_or_stand_in(Settings(engine="tone"))
    assert (found.engine.name, found.fallback_from) == ("tone", "")


def test_if_xtts_cannot_be_loaded_piper_is_loaded_and_the_reason_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "load", loader("xtts"))
    with caplog.at_level(logging.ERROR):
        found = load_or_stand_in(Settings(engine="xtts"))
    assert found.fallback_from == "xtts: xtts is broken"
    assert caplog.messages == ["engine.fallback wanted=xtts error=xtts is broken serving=piper"]


@pytest.mark.parametrize("wanted", ["xtts", "piper"])
def test_if_no_engine_can_be_loaded_the_error_of_the_wanted_one_is_raised(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(engines, "load", loader("xtts", "piper"))
    with pytest.raises(CheckpointError, match=f"^{wanted} is broken$"):
        load_or_stand_in(Settings(engine=wanted))
