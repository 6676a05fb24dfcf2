"""One channel: the way to it, what it was told, and how its attempts went. Nothing is decided or sent here.

Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import anyio

from watcher.core import vitals
from watcher.core.incident import INSIDE, Incident
from watcher.core.outbox import FORGET, Lately, News, Told
from watcher.core.saved import Served, State

UNREACHABLE = 900.0  # seconds without success after which a channel is a matter for the others


class UnresolvedURL(Exception):
    """A channel's URL cannot be had just now; the text says why and does not hold it."""


Resolve = Callable[[], Awaitable[str]]  # gives the URL, or raises UnresolvedURL


class Outlook(NamedTuple):
    """How it stands with a channel."""

    name: str
    due: int  # messages that should be out by now
    failing_since: float | None
    last_error: str
    last_told: float | None
    next_attempt: float | None


@dataclass(slots=True)
class Channel:
    """What is known of it."""

    name: str
    resolve: Resolve
    added: float  # since when it is to be told; what was over before is none of its news
    attempt: int = 0
    failing_since: float | None = None
    retry_at: float = 0.0
    last_error: str = ""
    ledger: dict[int, Told] = field(default_factory=dict)  # by the incident's number
    lately: dict[str, Lately] = field(default_factory=dict)  # by group, of what containers serve themselves
    told: float | None = None  # when it was last told anything
    served: bool = False
    kicked: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @classmethod
    def restored(cls, name: str, resolve: Resolve, state: State, now: float) -> Channel:
        """As earlier runs left it; new from now on if they did not know it."""
        served = state.channels.get(name) or Served(now)
        return cls(
            name,
            resolve,
            served.added,
            failing_since=served.failing_since,
            told=served.told,
            ledger={number: told for (channel, number), told in state.told.items() if channel == name},
            lately={group: entry for (channel, group), entry in state.lately.items() if channel == name},
        )

    def saved(self) -> Served:
        """What a later run should know, beside the ledger."""
        return Served(self.added, self.failing_since, self.told)

    def shift(self, seconds: float) -> None:
        """The clock was set: all that was told was told as long ago as before."""
        self.added += seconds
        self.retry_at += seconds
        self.told = None if self.told is None else self.told + seconds
        if self.failing_since is not None:
            self.failing_since += seconds
        self.ledger = {n: replace(told, at=told.at + seconds) for n, told in self.ledger.items()}
        self.lately = {g: entry._replace(at=entry.at + seconds) for g, entry in self.lately.items()}

    # ---- how its attempts went

    def delivered(self, incident: Incident, entry: Told, now: float) -> None:
        """It was told of this incident what the entry says."""
        self.ledger[incident.number] = entry
        self.told, group = now, incident.group
        if INSIDE in group:
            kept = {g: before for g, before in self.lately.items() if now - before.at <= FORGET}
            self.lately = {**kept, group: kept.get(group, Lately(0, now)).once_more(now)}
        self.attempt, self.failing_since, self.retry_at, self.last_error = 0, None, 0.0, ""

    def failed(self, error: str, now: float) -> None:
        """It could not be told. When to try again is to be set."""
        self.attempt += 1
        self.failing_since = self.failing_since or now
        self.last_error = error

    def put_back(self, number: int, told: Told | None) -> None:
        """What it was told of an incident is what it was before the attempt."""
        if told is not None:
            self.ledger[number] = told
        else:
            self.ledger.pop(number, None)

    # ---- how it stands with it

    def unreachable_since(self, now: float) -> float | None:
        """None unless it has failed for long."""
        failing = self.failing_since
        return failing if failing is not None and self.attempt and now - failing >= UNREACHABLE else None

    def progress(self, pending: list[News], now: float) -> vitals.Delivery:
        """`pending`: what there is to tell it, the first due in front."""
        waiting = now - pending[0].due if pending else 0.0
        failing = None if self.failing_since is None else now - self.failing_since
        return vitals.Delivery(self.name, failing, waiting if waiting > 0 else None, error=self.last_error)

    def outlook(self, pending: list[News], now: float) -> Outlook:
        """Likewise, for those who ask."""
        due = sum(news.due <= now for news in pending)
        again = self.retry_at if self.failing_since is not None and self.attempt else None
        return Outlook(self.name, due, self.failing_since, self.last_error, self.told, again)
