"""Asyncio clients of Redis, one for each event loop: connections belong to the loop that made them.

They let one AsyncClient serve several calls of `asyncio.run`, one after the other or in several threads.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from voxspool.reading.acknowledge import AsyncReporter

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import AsyncGenerator, Callable

    from redis.asyncio import Redis


class LoopClients:
    """Makes an asyncio client when a loop first needs one, and closes it when that loop ends.

    `asyncio.run` and `asyncio.Runner` close the asynchronous generators of a loop before they close the loop, and
    so does every server that uses them. Such a generator therefore keeps a client open and closes it at its end.
    """

    def __init__(self, make: Callable[[], Redis]) -> None:
        self._make = make
        self._open: dict[AbstractEventLoop, tuple[Redis, AsyncGenerator[None], AsyncReporter]] = {}

    async def get(self) -> Redis:
        """Return the client of the running loop. Raises what `make` raises."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            client = self._make()
            keeper = self._keep(loop, client)
            self._open[loop] = client, keeper, AsyncReporter(client)
            await anext(keeper)
        return self._open[loop][0]

    async def reporter(self) -> AsyncReporter:
        """Return what reports for the readers of the running loop. Raises what `make` raises."""
        await self.get()
        return self._open[asyncio.get_running_loop()][2]

    async def close(self) -> None:
        """Close the client of the running loop, if it has one. The loop's next `get` makes another."""
        if found := self._open.get(asyncio.get_running_loop()):
            await found[1].aclose()

    async def _keep(self, loop: AbstractEventLoop, client: Redis) -> AsyncGenerator[None]:
        """Keep a client open until this generator is closed."""
        try:
            yield
        finally:
            del self._open[loop]
            await client.aclose()
            for sentinel in _sentinels(client):
                await sentinel.aclose()


def _sentinels(client: Redis) -> list[Redis]:
    """Return the clients with which a client asks Sentinel for its server: redis-py does not close them."""
    return list(getattr(getattr(client.connection_pool, "sentinel_manager", None), "sentinels", ()))
