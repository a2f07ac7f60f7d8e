"""Receive a speech, stop at any moment, and resume later at the same position.

    voxspool enqueue --file chapter.txt --job-id chapter-1     # prints the job's id
    python resume.py chapter-1 chapter-1.pcm                   # Ctrl-C, a crash, a reboot …
    python resume.py chapter-1 chapter-1.pcm                   # … and it continues
    ffplay -f s16le -ar 24000 chapter-1.pcm                    # the sample rate that it printed

Redis keeps a speech for an hour after its end (`keep_s` changes that), so a reader can resume within that time. The
program writes the samples to a file and the id of the last entry to a second file, FILE.position. The position is
written after the samples. On resuming, the program cuts off samples behind the position, so no sample is missing or
repeated.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from voxspool import Client, VoxspoolError


def load(position: Path, job_id: str, target: Path) -> tuple[str, int]:
    """Return the id of the last entry that was read, and the size of the file at that entry, in bytes."""
    saved = json.loads(position.read_text()) if position.exists() else {"job": job_id, "id": "0-0", "bytes": 0}
    size_bytes = target.stat().st_size if target.exists() else 0
    if saved["job"] != job_id or size_bytes < saved["bytes"] or (size_bytes and not position.exists()):
        raise SystemExit(f"{target} does not contain the beginning of job {job_id}; choose another file")
    return saved["id"], saved["bytes"]


def save(position: Path, job_id: str, entry_id: str, size_bytes: int) -> None:
    """Write the position to a new file and rename it, so that a crash leaves the old or the new position."""
    partial = position.with_name(position.name + ".partial")
    partial.write_text(json.dumps({"job": job_id, "id": entry_id, "bytes": size_bytes}))
    partial.replace(position)


def receive(job_id: str, target: Path) -> int:
    """Append all samples after the saved position to the file, and return its size in bytes."""
    position = target.with_name(target.name + ".position")
    last, size_bytes = load(position, job_id, target)
    with Client() as client, target.open("ab") as file:
        file.truncate(size_bytes)
        file.seek(size_bytes)
        for chunk in client.speech(job_id).chunks(after=last):
            if file.tell() == 0:
                print(f"{chunk.sample_rate} Hz, 16 bit, mono", file=sys.stderr)
            file.write(chunk.pcm)
            file.flush()
            os.fsync(file.fileno())
            save(position, job_id, chunk.id, file.tell())
        return file.tell()


def main() -> int:
    """Receive a speech to its end."""
    if len(sys.argv) != 3:
        print("usage: python resume.py JOB FILE.pcm", file=sys.stderr)
        return 2
    try:
        print(f"complete: {receive(sys.argv[1], Path(sys.argv[2]))} bytes", file=sys.stderr)
    except VoxspoolError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same command to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
