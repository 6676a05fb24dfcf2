"""Waiting in a lab for what no event tells of: it is looked at again and again, up to a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LIMIT = 90.0  # seconds for what takes a few: a lab is slow, and may share its processor with others
POLL = 0.2  # seconds between two looks


def wait_until(true: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Until it is so; `what` stands in the error when it is not within `limit` seconds."""
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(POLL)


async def until(true: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """The same beside an event loop on which receivers run."""
    end = time.monotonic() + limit
    while not true():
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        await asyncio.sleep(POLL)
