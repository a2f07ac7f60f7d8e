"""The jobs of narrations in Redis: enqueue chapters, read them side by side, find and cancel a narration by its name.

`run` uses it for a narration while it runs; `voxspool cancel` and `narrate --attach` for one that they do not run.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from voxspool.connections import connection
from voxspool.errors import UnknownJobError
from voxspool.protocol import keys
from voxspool.protocol.jobs import JobSpec
from voxspool.reading.many import Readers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voxspool.client import Client
    from voxspool.errors import VoxspoolError
    from voxspool.protocol.narration import ChapterSpec
    from voxspool.reading.reader import Received


@dataclass(frozen=True, slots=True)
class NarrationRecord:
    """What Redis holds of a book's narration: where its command ran last, and which jobs it enqueued."""

    title: str
    host: str
    folder: str
    """An absolute path on that host."""
    jobs: tuple[str, ...]
    """The ids of the jobs of the chapters that were not complete when the command began."""


class NarrationJobs:
    """The jobs of narrations on the Redis of a client. Methods raise RedisUnavailableError."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._redis = client._redis  # noqa: SLF001 - one package; a program has no use for it
        self._placer = client._placer  # noqa: SLF001 - the same

    def place(self, chapter: ChapterSpec) -> bool:
        """Enqueue a chapter in its engine's batch queue; return False if its id has this chapter already.

        Raises BusyError, and JobExistsError if the id belongs to something else.
        """
        with connection.translated(self._client.url):
            return self._placer.place_chapter(chapter)

    def read(self, jobs: Sequence[str]) -> Iterator[tuple[str, Received | VoxspoolError] | None]:
        """Yield the entries of several jobs as they come, each with its job's id; see Readers.read."""
        with connection.translated(self._client.url):
            yield from Readers(self._redis, jobs, self._client.url).read()

    def record(self, name: str, record: NarrationRecord) -> None:
        """Store the record of a narration under its name, for a week."""
        fields = {"title": record.title, "host": record.host, "folder": record.folder, "jobs": json.dumps(record.jobs)}
        with connection.translated(self._client.url), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.hset(keys.narration(name), mapping=fields)  # type: ignore[arg-type] # its dict is invariant
            pipeline.expire(keys.narration(name), keys.NARRATION_TTL_S)
            pipeline.execute()

    def find(self, name: str) -> NarrationRecord:
        """Return the record of a narration by its name. Raises UnknownJobError, InvalidJobError."""
        JobSpec("", id=name)  # a name has the characters of an id
        with connection.translated(self._client.url):
            found: Any = self._redis.hgetall(keys.narration(name))
        try:
            fields = {field.decode(): value.decode() for field, value in found.items()}
            jobs = tuple(str(job) for job in json.loads(fields["jobs"]))
            return NarrationRecord(fields["title"], fields["host"], fields["folder"], jobs)
        except (KeyError, ValueError, TypeError):
            raise UnknownJobError(
                f"there is no narration {name!r}, or it is older than a week; run the same voxspool narrate again"
            ) from None

    def cancel(self, name: str, by: str = "client") -> list[str]:
        """Cancel the chapters of a narration that are not over; return their jobs. Raises UnknownJobError."""
        cancelled = []
        for job in self.find(name).jobs:
            with contextlib.suppress(UnknownJobError):
                if self._client.speech(job).cancel(by) in ("asked", "cancelled"):
                    cancelled.append(job)
        return cancelled
