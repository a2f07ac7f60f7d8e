"""Convert articles to speech: one audio file for each text file.

    pip install voxspool                                  # voxspool-worker run must be running on any machine
    python articles.py articles/*.txt -o spoken/
    python articles.py articles/*.txt -o spoken/ --suffix .flac --voice en_US-joe-medium

The jobs have priority `batch`, so interactive jobs start before them. The program can be stopped and started again at
any time: it skips articles whose audio files exist, and it enqueues no article twice, because the id of a job is
computed from its text. On a terminal it shows progress; in a pipe it prints only errors. Exit code 1 means that at
least one article failed.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from voxspool import BusyError, Client, InvalidJobError, Speech, SpeechError, StreamError, VoxspoolError

KEEP_S = 24 * 3600
"""How long Redis keeps the audio, in seconds. The program must be started again within this time."""


def enqueue(client: Client, text: str, voice: str | None) -> Speech:
    """Enqueue an article. While Redis or the queue is full, wait and try again."""
    job_id = "article-" + hashlib.sha256(f"{voice}\n{text}".encode()).hexdigest()[:32]
    while True:
        try:
            return client.enqueue(text, id=job_id, voice=voice, priority="batch", keep_s=KEEP_S)
        except BusyError as busy:
            time.sleep(busy.retry_after_s)  # an estimate of when there is room


def is_spoken(article: Path, target: Path) -> bool:
    """Return whether the audio file exists and is newer than the text."""
    return target.exists() and target.stat().st_mtime >= article.stat().st_mtime


def main() -> int:
    """Enqueue all articles, then write each file when its speech is complete."""
    parser = argparse.ArgumentParser(description="Convert articles to speech.")
    parser.add_argument("articles", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the audio files")
    parser.add_argument("--suffix", default=".mp3", help=".mp3, .wav, .flac, .ogg or .opus")
    parser.add_argument("--voice", help="a name from `voxspool voices`")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    targets = {article: chosen.output / (article.stem + chosen.suffix) for article in chosen.articles}
    speeches: dict[Path, Speech] = {}
    failures: list[str] = []
    progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with Client() as client, progress:
        for article, target in targets.items():
            try:
                if not is_spoken(article, target):
                    speeches[article] = enqueue(client, article.read_text("utf-8"), chosen.voice)
            except InvalidJobError as error:
                failures.append(f"{article}: {error}")
        for article, speech in progress.track(speeches.items(), description="articles"):
            try:
                speech.save(targets[article])
            except (SpeechError, StreamError) as error:
                failures.append(f"{article}: {error}")
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VoxspoolError as error:  # no Redis, or a file cannot be written: all further articles would fail too
        sys.exit(str(error))
