"""The documentation site builds, is complete, has no broken link or anchor, and loads nothing from another host."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import pytest

import voxspool
from tests.support.bare import unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
LOADS: Final = {"script": "src", "img": "src", "audio": "src", "source": "src", "iframe": "src", "video": "src"}
"""Tag -> the attribute whose file a browser loads with the page."""
LOADED_LINKS: Final = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "prefetch"}


class Page(HTMLParser):
    """The anchors and links of one page of the site, and the files that a browser loads with it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.anchors = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {found[name] or "" for name in ("id", "name") if name in found}
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag == "link" and LOADED_LINKS & set((found.get("rel") or "").split()):
            self.loaded.append(str(found["href"]))
        if found.get(LOADS.get(tag, "")):
            self.loaded.append(str(found[LOADS[tag]]))

    def target(self, link: str) -> tuple[Path, str] | None:
        """Return the file and the anchor of a link within the site."""
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            return None
        return (self.file(parts.path) if parts.path else self.path), unquote(parts.fragment)

    def file(self, path: str) -> Path:
        """Return the file that a path leads to. Only the page for missing addresses has absolute paths."""
        return (self.path.parent / unquote(path).lstrip("/")).resolve()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does, and return its folder."""
    if not find_spec("zensical") or not find_spec("mkdocstrings"):
        unavailable("Zensical or mkdocstrings is not installed: run make install")
    out = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, "tools/docs.py", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def entries(nav: list[Any]) -> Iterator[str]:
    """Yield the pages of the navigation."""
    for entry in nav:
        for where in entry.values():
            yield from [where] if isinstance(where, str) else entries(where)


def test_the_navigation_lists_exactly_the_pages_of_the_site(site: Path) -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    named = [where.removesuffix(".md") for where in entries(config["nav"])]
    assert sorted(named) == sorted(path.stem for path in site.glob("*.html") if path.stem != "404")


def test_every_link_leads_to_an_existing_file_and_anchor(pages: dict[Path, Page]) -> None:
    broken = []
    for page in pages.values():
        for link in page.links:
            found = page.target(link)
            if found is None:
                continue
            target, anchor = found
            if not target.exists() or (target in pages and anchor not in pages[target].anchors):
                broken.append(f"{page.path.name}: {link}")
    assert not broken


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert page.loaded
        for address in page.loaded:
            assert not urlsplit(address).netloc, f"{page.path.name} loads {address}"
            assert page.file(urlsplit(address).path).exists(), f"{page.path.name}: no {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_no_page_uses_a_feature_that_the_theme_loads_from_another_host(pages: dict[Path, Page]) -> None:
    for page in pages.values():
        text = page.path.read_text(encoding="utf-8")
        assert 'class="mermaid"' not in text, f"{page.path.name}: the theme loads Mermaid from another host"
        assert 'data-md-component="source"' not in text, "with repo_url the theme asks GitHub's API on every page"


def test_the_python_reference_has_every_public_name(pages: dict[Path, Page], site: Path) -> None:
    documented = pages[site / "api.html"].anchors
    missing = [name for name in voxspool.__all__ if f"voxspool.{name}" not in documented]
    assert not missing, "add `::: voxspool.NAME` to docs/api.md"


@pytest.mark.parametrize("program", ["voxspool", "voxspool-worker"])
def test_the_reference_of_a_program_has_every_command_and_option(
    program: str, pages: dict[Path, Page], site: Path
) -> None:
    from voxspool.cli import main as client
    from voxspool_worker.cli import main as worker

    commands = {"voxspool": client, "voxspool-worker": worker}[program].commands
    page = pages[site / f"command-{program}.html"]
    text = page.path.read_text(encoding="utf-8")
    for name, command in commands.items():
        assert command.hidden or f"{program}-{name}" in page.anchors
        for option in command.params:
            assert command.hidden or getattr(option, "hidden", False) or all(opt in text for opt in option.opts), name


def test_the_blocks_of_the_web_app_guide_are_those_of_the_example() -> None:
    guide = (ROOT / "docs" / "web-app.md").read_text(encoding="utf-8")
    example = (ROOT / "examples" / "python" / "read_aloud.py").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        assert block in example
