"""Asynchronous clients, one for each event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from weakref import WeakKeyDictionary


class PerLoop:
    """One asynchronous client for each event loop, closed when the loop ends.

    A connection belongs to the loop that opened it, and asyncio has no call for when a loop ends. But before that it
    closes the asynchronous generators that were begun in it (``loop.shutdown_asyncgens``, as ``asyncio.run`` and uvicorn
    do), so each client lives in one.

    Args:
        connect: makes a client, without waiting for anything; it has ``aclose()``.
        most: how many tasks of a loop may use the client at once.
    """

    def __init__(self, connect: Callable[[], Any], most: int) -> None:
        self._connect = connect
        self._most = most
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, asyncio.Semaphore, AsyncGenerator[Any, None]]]
        self._kept = WeakKeyDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    async def client(self) -> tuple[Any, asyncio.Semaphore]:
        """Returns the running loop's client, and what to hold while using it: there are only so many connections."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            for other in [other for other in self._kept if other.is_closed()]:
                del self._kept[other]
            keeper = self._keep()
            kept = self._kept[loop] = (await anext(keeper), asyncio.Semaphore(self._most), keeper)
        return kept[0], kept[1]

    def close(self) -> None:
        """Closes the clients of all loops: at once, or as soon as a loop that runs comes to it."""
        for loop, (_, _, keeper) in list(self._kept.items()):
            closing = self._end(keeper)
            if loop.is_closed():
                closing.close()
            elif not loop.is_running():
                loop.run_until_complete(closing)
            elif asyncio._get_running_loop() is loop:
                task = loop.create_task(closing)
                self._closing.add(task)  # a loop itself does not keep its tasks
                task.add_done_callback(self._closing.discard)
            else:
                asyncio.run_coroutine_threadsafe(closing, loop)
        self._kept.clear()

    async def _keep(self) -> AsyncGenerator[Any, None]:
        client = self._connect()
        try:
            yield client
        finally:
            self._kept.pop(asyncio.get_running_loop(), None)
            await client.aclose()

    @staticmethod
    async def _end(keeper: AsyncGenerator[Any, None]) -> None:
        await keeper.aclose()
