"""What is fit to show: in one line, in JSON, in a log, in a traceback; whoever wrote it and whoever prints it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxspool.display import cell, json_line, printable

ORDINARY = (
    "plain text",
    "naïve “quotes” – 灯台 Лампа",
    "می‌خواهم",  # Persian, with a zero-width non-joiner
    "👩‍👩‍👧 family",  # emoji, with zero-width joiners
    "שלום עולם",
    "soft\u00adhyphen",
    r"back\slash [sic] {braces}",
)
ACTING = {
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "a\x9b31m": r"a\x9b31m",
    "one\ntwo\r\n": r"one\ntwo\r\n",
    "gpj.\u202eexe": r"gpj.\u202eexe",
    "\u2066isolated\u2069": r"\u2066isolated\u2069",
    "\u200e\u200f\u061c": r"\u200e\u200f\u061c",
    "line\u2028paragraph\u2029": r"line\u2028paragraph\u2029",
    "\x00\x7f": r"\x00\x7f",
    "\U000e0041hidden": r"\U000e0041hidden",
    "file\udc9b.txt": r"file\udc9b.txt",
}

PROGRAM = """
import logging, sys, threading, warnings
from voxspool.display import protect_process

protect_process()
EVIL = "\\x1b[2Jwiped\\n2026-01-01 00:00:00 INFO forged \\u202e"
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr)
own = logging.getLogger("library")  # with a handler of its own, as some libraries have
own.propagate = False
own.addHandler(logging.StreamHandler())
for log in (logging.getLogger("rq.worker"), own):
    log.warning("job %s ended", EVIL)
    log.warning(EVIL)
    log.warning("%d", EVIL)
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("failed", stack_info=True)
warnings.warn(EVIL)
thread = threading.Thread(target=lambda: 1 / 0 if not EVIL else int(EVIL), name=EVIL)
thread.start()
thread.join()
raise OSError(EVIL)
"""


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_any_script_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(("text", "shown"), ACTING.items())
def test_what_would_act_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_tab_is_a_space() -> None:
    assert printable("a\tb") == "a b"


@given(st.text())
def test_any_text_becomes_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert printable(shown) == shown
    assert all(one >= " " and not "\x7f" <= one <= "\x9f" for one in shown)


def test_brackets_are_no_markup_in_a_table() -> None:
    assert cell("The [/b] End [sic] :smile:").plain == "The [/b] End [sic] :smile:"


@given(st.text())
def test_json_stays_json_in_printable_ascii(text: str) -> None:
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text}
    assert line.isascii()
    assert line.isprintable()


def test_a_number_that_json_lacks_is_null() -> None:
    line = json_line({"a": [float("nan"), 1.5], "b": float("inf"), "c": {"d": -float("inf")}})
    assert line == '{"a": [null, 1.5], "b": null, "c": {"d": null}}'


def test_no_log_record_warning_or_traceback_of_any_library_forges_a_line() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=False, timeout=60)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (1, b"")
    assert said.count("wiped") >= 12, said
    assert [one for one in said if one < " " and one != "\n"] == []
    assert "\u202e" not in said
    assert [line for line in said.splitlines() if line.startswith("2026")] == []
    assert r"WARNING job \x1b[2Jwiped\n2026-01-01 00:00:00 INFO forged \u202e ended" in said.splitlines()
