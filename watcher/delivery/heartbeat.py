"""Pings a URL for as long as the watcher works, so that whoever is behind it notices when it does not.

A ping that fails is logged once and alarms nobody: to notice that none comes is the other side's part. The URL is a
secret, and stands in no log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from watcher.core.vitals import Verdict
from watcher.delivery.channel import Resolve, UnresolvedURL

if TYPE_CHECKING:
    from watcher.delivery.ping import Pinger

log = logging.getLogger(__name__)

FIRST = 10.0  # seconds after the start: one that ends again and again should not look alive
AGAIN = 5.0  # seconds until the next look at what is unhealthy


class Heartbeat:
    """Beats while all is well."""

    def __init__(self, verdict: Callable[[], Verdict]) -> None:
        self._verdict = verdict
        self._resolve: Resolve | None = None
        self._interval = 60.0
        self._changed = anyio.Event()
        self._pinger: Pinger | None = None
        self._failed = self._withheld = False

    def configure(self, resolve: Resolve | None, interval: float) -> None:
        """Ping the URL that `resolve` gives, every `interval` seconds; None: nothing."""
        if (resolve is None) is not (self._resolve is None) or interval != self._interval:
            self._changed.set()
        self._resolve, self._interval = resolve, interval

    async def run(self) -> None:
        """Until cancelled."""
        pause: float | None = min(FIRST, self._interval)
        while True:
            with anyio.move_on_after(None if self._resolve is None else pause):
                await self._changed.wait()
                self._changed = anyio.Event()
                pause = min(FIRST, self._interval)
                continue
            pause = await self._beat()

    async def _beat(self) -> float:
        """Ping, if all is well; seconds until the next time."""
        verdict = self._verdict()
        if not verdict.healthy:
            if not self._withheld:
                log.warning("the heartbeat pauses: %s", "; ".join(verdict.reasons))
            self._withheld = True
            return min(AGAIN, self._interval)
        if self._withheld:
            log.info("the heartbeat goes on")
            self._withheld = False
        error = await self._ping()
        if error and not self._failed:
            log.warning("the heartbeat does not get through: %s (it goes on trying)", error)
        elif self._failed and not error:
            log.info("the heartbeat gets through again")
        self._failed = bool(error)
        return self._interval

    async def _ping(self) -> str:
        """Why it failed; empty if it did not."""
        if self._resolve is None:
            return ""
        try:
            url = await self._resolve()
            if self._pinger is None:
                self._pinger = await anyio.to_thread.run_sync(_load, abandon_on_cancel=True)
            return await self._pinger.ping(url)
        except UnresolvedURL as e:
            return str(e)
        except Exception as e:  # noqa: BLE001  # a bug here must not end the watching; its text may hold the URL
            return f"internal error ({type(e).__name__})"


def _load() -> Pinger:
    # In a thread: aiohttp takes some tenths of a second to load, and reads certificates.
    from watcher.delivery.ping import Pinger

    return Pinger()
