"""Engines from other distributions: registration, names that cannot be used, and errors of broken engines."""

from __future__ import annotations

import inspect
import logging
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.support.engines import segment_for, speak
from voxspool.errors import EngineLoadError, MissingExtraError, UnknownEngineError
from voxspool_worker import engines
from voxspool_worker.engines import base, load, load_or_stand_in, plugins
from voxspool_worker.engines.warmup import warm_up
from voxspool_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Install = Callable[..., None]

BEEP = textwrap.dedent(inspect.getdoc(base).partition("in each step:\n")[2])  # type: ignore[union-attr] # it has one
"""The minimal engine in the docstring of `engines.base`."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a distribution with one module and the given entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def installed(distribution: str, code: str, **entries: str) -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        folder = tmp_path / f"{module}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"{name} = {module}:{target}" for name, target in entries.items()]
        (folder / "entry_points.txt").write_text("\n".join([f"[{plugins.GROUP}]", *lines]))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return installed


def test_the_documented_minimal_engine_can_be_installed_and_speaks(install: Install) -> None:
    install("beeps", BEEP, beep="BeepEngine")
    assert engines.names() == ["piper", "tone", "xtts", "beep"]
    engine = load("beep", Settings())
    assert warm_up(engine).audio_s > 0
    pcm = speak(engine, segment_for(engine, "x" * 100))
    assert len(pcm) == 6 * engine.sample_rate
    engine.admit(segment_for(engine))
    engine.drop("a")
    assert (engine.free, engine.step()) == (1, [])


def test_a_distribution_is_imported_only_when_its_engine_is_loaded(install: Install) -> None:
    install("beeps", BEEP, beep="BeepEngine")
    load("tone", Settings())
    assert engines.names()[-1] == "beep"
    assert "beeps" not in sys.modules


def test_an_unknown_name_suggests_engines_of_other_distributions(install: Install) -> None:
    install("beeps", BEEP, beep="BeepEngine")
    with pytest.raises(UnknownEngineError, match=r"no engine 'beeep' \(did you mean beep\?\)"):
        load("beeep", Settings())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import nothing_of_this_name",
            r"cannot be loaded \(ModuleNotFoundError: No module named 'nothing_of_this_name'\)",
        ),
        ("def BeepEngine(", r"cannot be loaded \(SyntaxError: "),
        ("", r"cannot be loaded \(AttributeError: "),
        ("def BeepEngine(settings): 1 / 0", r"cannot be loaded \(ZeroDivisionError: division by zero\)"),
        ("def BeepEngine(): pass", r"cannot be loaded \(TypeError: "),
        ("def BeepEngine(settings): return object()", "is not an engine: it has no name, model, device, "),
        (BEEP.replace("def drop", "def drops"), r"is not an engine: it has no drop \("),
        (BEEP.replace('name = "beep"', 'name = "boop"'), "has the name 'boop'; its attribute `name` must be 'beep'"),
        (BEEP.replace("rows = 1", "rows = 0"), "has rows = 0; it must be a positive whole number"),
        (BEEP.replace("24_000", "24e3"), "has sample_rate = 24000.0; it must be a positive whole number"),
    ],
)
def test_a_broken_engine_raises_an_error_of_one_line_and_others_can_be_loaded(
    install: Install, code: str, message: str
) -> None:
    install("beeps", code, beep="BeepEngine")
    with pytest.raises(EngineLoadError, match=rf"^the engine 'beep' of beeps 1\.0 {message}") as raised:
        load("beep", Settings())
    assert str(raised.value).endswith("; repair or uninstall it")
    assert "\n" not in str(raised.value)
    assert load("tone", Settings()).name == "tone"


def test_a_voxspool_error_of_the_engine_is_passed_on(install: Install) -> None:
    install(
        "beeps",
        "from voxspool.errors import MissingExtraError\ndef make(settings): raise MissingExtraError('get it')",
        beep="make",
    )
    with pytest.raises(MissingExtraError, match=r"^get it$"):
        load("beep", Settings())


@pytest.mark.parametrize(
    "code",
    [BEEP.replace("np.int16", "np.float32"), BEEP.replace("astype(np.int16)", "astype(np.int16).reshape(-1, 1)")],
)
def test_warm_up_raises_an_error_for_samples_of_a_wrong_dtype_or_shape(install: Install, code: str) -> None:
    install("beeps", code, beep="BeepEngine")
    with pytest.raises(
        EngineLoadError,
        match=r"^the engine 'beep' returned samples of (float32|int16) .*; they must be int16 of shape \(n,\)$",
    ):
        warm_up(load("beep", Settings()))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["piper"],
            "beeps 1.0 registers the engine 'piper', but voxspool has an engine of that name; voxspool's own is used",
        ),
        (
            ["My.Engine"],
            "beeps 1.0 registers an engine as 'My.Engine', which cannot be part of a queue's name; a name has",
        ),
        (["auto"], "beeps 1.0 registers an engine as 'auto', which cannot"),
    ],
)
def test_one_warning_is_logged_for_a_name_that_cannot_be_used(
    install: Install, caplog: pytest.LogCaptureFixture, names: list[str], message: str
) -> None:
    install("beeps", BEEP, beep="BeepEngine", **dict.fromkeys(names, "BeepEngine"))
    with caplog.at_level(logging.WARNING):
        assert load_or_stand_in(Settings(engine="tone")).engine.name == "tone"
    (line,) = caplog.messages
    assert line.startswith(f"engine.refused {message}")
    assert engines.names() == ["piper", "tone", "xtts", "beep"]


def test_a_name_that_two_distributions_register_is_not_used(install: Install) -> None:
    install("beeps", BEEP, beep="BeepEngine")
    install("other-beeps", BEEP, beep="BeepEngine")
    (line,) = plugins.find().refused
    assert sorted(line.split(" both ")[0].split(" and ")) == ["beeps 1.0", "other-beeps 1.0"]
    assert line.endswith("both register the engine 'beep'; uninstall one of them")
    with pytest.raises(UnknownEngineError):
        load("beep", Settings())
