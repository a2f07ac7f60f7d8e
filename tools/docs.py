"""Build the documentation site from docs/ and other pages of the repository, as static HTML.

Usage: docs.py [--out build/docs]

The pages are copied beside the output, and Zensical builds the copy. In the copy, links to files outside docs/ become
links to copies on the site, so the site works without the repository. The reference of the commands is generated from
click. The build needs no network, and the site loads nothing from other hosts.
"""

import argparse
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from voxspool.cli import main as voxspool
from voxspool_worker.cli import main as voxspool_worker

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIG = ROOT / "zensical.toml"
COMMANDS = {"voxspool": voxspool, "voxspool-worker": voxspool_worker}
OTHER_PAGES = {
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "SECURITY.md": "reporting.md",
    ROOT / "examples/supervisor/README.md": "supervisors.md",
    ROOT / "examples/engine/README.md": "engine-plugins.md",
    ROOT / "examples/python/README.md": "examples.md",
}
"""Page of the site outside docs/ -> its name on the site."""

LINK = re.compile(r"(?<=\])\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
"""Pattern of Markdown code, in which links are not changed."""


def build(out: Path) -> None:
    """Build the site into a folder. A broken link, a missing anchor or an object without documentation is an error."""
    source = out.with_name(f"{out.name}-source")
    for folder in (out, source):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, source)
    for page in [*DOCS.glob("*.md"), *OTHER_PAGES]:
        text = site_links(page.read_text(encoding="utf-8"), page, source)
        (source / OTHER_PAGES.get(page, page.name)).write_text(text, encoding="utf-8")
    for name, command in COMMANDS.items():
        (source / f"command-{name}.md").write_text("".join(command_page(name, command)), encoding="utf-8")
    zensical(source, out)


def zensical(source: Path, out: Path) -> None:
    """Run Zensical on a folder of pages, with the settings of zensical.toml.

    Zensical's paths are relative to its settings file. So a copy of the file is written beside the pages, with full
    paths to the Python packages.
    """
    config = tomllib.loads(CONFIG.read_text(encoding="utf-8"))["project"]
    text = CONFIG.read_text(encoding="utf-8")
    text = text.replace(f'docs_dir = "{config["docs_dir"]}"', f'docs_dir = "{source.name}"')
    text = text.replace(f'site_dir = "{config["site_dir"]}"', f'site_dir = "{out.name}"')
    for package in ("producer", "worker"):
        text = text.replace(f'"{package}"', f'"{ROOT / package}"')
    copy = source.with_suffix(".toml")
    copy.write_text(text, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "-f", str(copy)], check=True)


def site_links(text: str, page: Path, source: Path) -> str:
    """Return a page's text with the links of the site. Exit if a link's target is not a file.

    Links to OTHER_PAGES lead to their names on the site. Links to other files outside docs/ lead to copies with the
    suffix .txt, which browsers display.
    """

    def site_link(link: re.Match[str]) -> str:
        target, anchor = (page.parent / link[1]).resolve(), link[2] or ""
        if target in OTHER_PAGES:
            return f"({OTHER_PAGES[target]}{anchor})"
        if target == ROOT / "README.md":
            return f"(index.md{anchor})"
        if target.is_relative_to(DOCS):
            return f"({target.relative_to(DOCS)}{anchor})"
        if not target.is_file():
            raise SystemExit(f"{page.relative_to(ROOT)} links to {link[1]}, which is not a file")
        name = f"{target.relative_to(ROOT)}.txt".lstrip(".")  # Zensical omits hidden folders
        copy = Path("files") / name
        (source / copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(target, source / copy)
        return f"({copy}{anchor})"

    parts = FENCE.split(text)
    return "".join(part if place % 2 else LINK.sub(site_link, part) for place, part in enumerate(parts))


def command_page(name: str, command: click.Command) -> Iterator[str]:
    """Yield the parts of a program's page: help, usage and options of each command."""
    yield f"# The command {name}\n\nThis page is generated from `{name} --help`. [The command line](cli.md) describes\n"
    yield "how the commands behave in scripts and terminals.\n\n"
    yield from command_section(name, command, 2)


def command_section(name: str, command: click.Command, level: int) -> Iterator[str]:
    """Yield the section of a command, then the sections of its subcommands."""
    context = click.Context(command, info_name=name)
    yield f"{'#' * level} {name}\n\n"
    yield from help_text(command.help or "")
    yield f"```text\n{' '.join([name, *command.collect_usage_pieces(context)])}\n```\n\n"
    rows = [record for option in command.get_params(context) if (record := option.get_help_record(context))]
    rows = [(option, description) for option, description in rows if description]
    yield "| option | |\n|---|---|\n"
    yield from (f"| `{cell(option)}` | {cell(description)} |\n" for option, description in rows)
    yield "\n"
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            if not command.commands[word].hidden:
                yield from command_section(f"{name} {word}", command.commands[word], min(level + 1, 4))


def help_text(text: str) -> Iterator[str]:
    """Yield a help text as Markdown. A paragraph that starts with a backspace (do not wrap) becomes a code block."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        kept = paragraph.startswith("\b")
        yield f"```text\n{paragraph[1:].strip()}\n```\n\n" if kept else f"{escaped(paragraph)}\n\n"


def cell(text: str) -> str:
    """Return a text escaped for a cell of a Markdown table."""
    return escaped(text).replace("|", "\\|")


def escaped(text: str) -> str:
    """Return a text whose brackets are not Markdown links or HTML tags."""
    return text.replace("[", "\\[").replace("<", "&lt;")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/docs")
    build(parser.parse_args().out.resolve())


if __name__ == "__main__":
    main()
