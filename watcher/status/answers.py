"""What can be asked of the service, and what is answered, as JSON. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from watcher.core.explain import Address
from watcher.core.measured import Measured
from watcher.core.quiet import Window
from watcher.core.times import utc
from watcher.core.vitals import Verdict
from watcher.model import Silence
from watcher.status.feed import Feed
from watcher.values import TimeOfDay

AT_ONCE = 20  # patterns that are tried with all mounts in one turn of the loop


class Health(NamedTuple):
    """How the service is, and some figures beside it."""

    verdict: Verdict
    figures: Mapping[str, Any]


class Probing(NamedTuple):
    """What comes of the wish that a mount be probed now."""

    mount: dict[str, Any]
    why_not: str  # empty: it begins, or is under way


class Service(Protocol):
    """What the running service lets others do. Mounts are as `core.entries` has them, with what is known beside it."""

    @property
    def host(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def feed(self) -> Feed: ...

    def status(self) -> str:
        """How all is, in one line."""
        ...

    def counts(self) -> dict[str, int]:
        """How many mounts there are of each status."""
        ...

    async def silence(self, patterns: tuple[str, ...], ends: float, comment: str) -> Silence: ...

    async def unsilence(self, name: str) -> bool:
        """Whether there was one of this name."""
        ...

    def silences(self) -> Sequence[Silence]:
        """Those that hold."""
        ...

    def windows(self) -> Sequence[tuple[Window, bool]]:
        """The quiet windows, and whether they hold."""
        ...

    def matches(self, patterns: Sequence[str]) -> int:
        """How many of the watched mounts they are about."""
        ...

    def unmatched(self, patterns: Sequence[str]) -> list[str]:
        """Those that are about none of them."""
        ...

    def health(self) -> Health: ...

    def mount_on(self, path: Address) -> dict[str, Any] | None:
        """The watched mount that a path lies on, with what to do; None if there is none."""
        ...

    def measured(self) -> Measured:
        """For Prometheus."""
        ...

    def mount(self, id: str) -> dict[str, Any] | None:
        """The mount of this id, with why it fails, as far as that is known, and what to do."""
        ...

    async def mounts(self) -> list[dict[str, Any]]:
        """All of them, the worst first."""
        ...

    def probe(self, place: str) -> Probing | None:
        """Probe one now; None if it is not watched."""
        ...

    def incidents(self) -> list[dict[str, Any]]:
        """Open ones first, the newest in front."""
        ...

    async def history(self, since: float, limit: int) -> tuple[list[dict[str, Any]], bool]:
        """The newest first, and whether it is all there is."""
        ...

    def channels(self) -> list[dict[str, Any]]: ...

    def ready(self) -> bool:
        """Whether all has been looked at once."""
        ...


async def silence_json(silence: Silence, service: Service) -> dict[str, Any]:
    unmatched: list[str] = []
    for n in range(0, len(silence.patterns), AT_ONCE):
        unmatched += service.unmatched(silence.patterns[n : n + AT_ONCE])
        await asyncio.sleep(0)
    return {
        "id": silence.id,
        "mounts": list(silence.patterns),
        "begins": utc(silence.begins),
        "ends": utc(silence.ends),
        "comment": silence.comment,
        "matches": service.matches(silence.patterns),
        "unmatched": unmatched,
    }


def window_json(window: Window, holds: bool, matches: int) -> dict[str, Any]:
    return {
        "mounts": list(window.mounts),
        "from": str(TimeOfDay(window.begins)),
        "to": str(TimeOfDay(window.ends)),
        "days": list(window.days),
        "active": holds,
        "matches": matches,
    }


def health_json(health: Health) -> dict[str, Any]:
    return {"healthy": health.verdict.healthy, "reasons": list(health.verdict.reasons), **health.figures}
