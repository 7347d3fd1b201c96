"""Asynchronous clients, one for each event loop."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

_closing: dict[int, Any] = {}
"""Clients that are to be closed, when their loop comes to it: nothing else keeps them, or the tasks that do it."""


@dataclass(slots=True)
class _Kept:
    client: Any
    free: asyncio.Semaphore
    keeper: AsyncGenerator[Any, None] = field(repr=False)


class PerEventLoop:
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
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()

    async def client(self) -> tuple[Any, asyncio.Semaphore]:
        """Return the running loop's client, and what to hold while using it: there are only so many connections."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            for other in [other for other in self._kept if other.is_closed()]:
                del self._kept[other]
            keeper = self._keep()
            kept = self._kept[loop] = _Kept(await anext(keeper), asyncio.Semaphore(self._most), keeper)
        return kept.client, kept.free

    def close(self) -> None:
        """Close the clients of all loops: at once, or as soon as a loop that runs comes to it."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, kept in list(self._kept.items()):
            if loop.is_closed():
                continue
            if not loop.is_running():
                loop.run_until_complete(self._end(kept))
                continue
            # Kept until it is closed: the loop may end before it comes to the task, and then closes the generator.
            _closing[id(kept.client)] = kept
            if loop is here:
                task = loop.create_task(self._end(kept))
                _closing[id(task)] = task
                task.add_done_callback(lambda task: _closing.pop(id(task), None))
            else:
                asyncio.run_coroutine_threadsafe(self._end(kept), loop)
        self._kept.clear()

    async def _keep(self) -> AsyncGenerator[Any, None]:
        client = self._connect()
        try:
            yield client
        finally:
            self._kept.pop(asyncio.get_running_loop(), None)
            try:
                await client.aclose()
            except asyncio.CancelledError:
                await client.aclose()  # a loop that ends cancels its tasks once, and waits for them
                raise
            finally:
                _closing.pop(id(client), None)

    @staticmethod
    async def _end(kept: _Kept) -> None:
        await kept.keeper.aclose()
