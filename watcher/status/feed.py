"""What happens, to all who listen: each has a queue of his own with an end, and who does not keep up is dropped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

MAX_WAITING = 4 * 1024 * 1024  # bytes of events that wait for one listener; a thousand mounts that die at once are half


class Listener:
    """One who listens."""

    def __init__(self, dropped: Callable[[], object]) -> None:
        """`dropped`: called if he is too slow."""
        self._queue = asyncio.Queue[bytes]()
        self._waiting = 0  # bytes
        self._dropped = dropped
        self._closed = False

    async def next(self) -> bytes:
        """The next event, as it goes over the wire; empty at the end."""
        if self._closed:
            return b""
        event = await self._queue.get()
        self._waiting -= len(event)
        return event

    def close(self) -> None:
        """There is nothing more to hear."""
        self._closed = True
        if self._queue.empty():
            self._queue.put_nowait(b"")

    def put(self, event: bytes) -> bool:
        """Whether there was room; else he is told that he is dropped."""
        # Not by their number: when a server dies hundreds come in one turn of the loop, and nobody can take them.
        if self._waiting + len(event) > MAX_WAITING:
            self._dropped()
            return False
        self._waiting += len(event)
        self._queue.put_nowait(event)
        return True


class Feed:
    """Passes events on. Each is encoded once, and only if somebody listens."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()
        self._number = 0
        self.changed = asyncio.Event()  # something has happened since it was cleared

    def __len__(self) -> int:
        return len(self._listeners)

    def join(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def close(self) -> None:
        """To all: that is the end."""
        for listener in self._listeners:
            listener.close()

    def change(self, of: Callable[[], Mapping[str, Any]]) -> None:
        """Something has changed. `of`: gives what is told of it."""
        self._number += 1
        self.changed.set()
        if self._listeners:
            self.tell(event_text("change", of(), number=self._number))

    def tell(self, event: bytes) -> None:
        """Pass on what is encoded already."""
        for listener in list(self._listeners):
            if not listener.put(event):
                self._listeners.discard(listener)


def event_text(kind: str, data: Mapping[str, Any], *, number: int | None = None) -> bytes:
    """An event of text/event-stream (HTML, "Server-sent events"). JSON in ASCII has no line breaks."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()
