"""Whether the watcher itself works: tables read, probes returning, deliveries moving. Values in, verdict out.

A mount that is stale is no matter of this one: the watcher is healthy if it would notice, and could tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from watcher.core.wording import count, duration, name

# Seconds. Each is several times what the thing takes when all is slow but well.
TABLES = 120.0  # the host's table is looked at every 30 s, changed or not
OVERDUE = 30.0  # what is due is started within a fraction of a second
RETURN = 30.0  # a sweep ends at its time-out, and a little for starting and killing its child
SILENT = 120.0  # probes that all say nothing: it is we who are too slow
STUCK = 300.0  # back-off has come to minutes by then


class Delivery(NamedTuple):
    """How it goes with one channel. Times are ages in seconds."""

    channel: str
    failing: float | None = None  # since the first of the attempts that failed; None if the last one did not
    waiting: float | None = None  # since something became due that is not being told; None if nothing waits
    error: str = ""


class Signs(NamedTuple):
    """What was observed. Times are ages in seconds."""

    table_read: float | None  # since the host's mount table was last read; None: never yet
    overdue: float  # how long the next probe has been due; negative: it is not
    sweeps: tuple[float, ...]  # of each sweep that has not ended: how long past its time-out; negative: within it
    told_nothing: float | None  # since probes began to tell nothing, all of them; None: the last one told something
    deliveries: tuple[Delivery, ...] = ()
    running: float = float("inf")  # since the start: what has not had its time yet is not missed


class Verdict(NamedTuple):
    healthy: bool
    reasons: tuple[str, ...]  # why not, for people


def verdict(signs: Signs) -> Verdict:
    """Whether the whole chain works."""
    reasons = (*_tables(signs), *_probes(signs), *_deliveries(signs))
    return Verdict(not reasons, reasons)


def _tables(signs: Signs) -> Iterator[str]:
    if signs.table_read is None:
        if signs.running > TABLES:
            yield "the mount table has never been read"
    elif signs.table_read > TABLES:
        yield f"the mount table was last read {duration(signs.table_read)} ago"


def _probes(signs: Signs) -> Iterator[str]:
    if signs.overdue > OVERDUE:
        yield f"no probe is started, though one has been due for {duration(signs.overdue)}"
    lost = [age for age in signs.sweeps if age > RETURN]
    if lost:
        yield f"{count(len(lost), 'round')} of probes did not return, {duration(max(lost))} after the time-out"
    if signs.told_nothing is not None and signs.told_nothing > SILENT:
        yield f"no probe has told anything for {duration(signs.told_nothing)}: this machine is too slow"


def _deliveries(signs: Signs) -> Iterator[str]:
    for delivery in signs.deliveries:
        channel = name(delivery.channel, 64)
        if delivery.failing is not None and delivery.failing > STUCK:
            why = f": {name(delivery.error, 200)}" if delivery.error else ""
            yield f"channel {channel} could not be told anything for {duration(delivery.failing)}{why}"
        elif delivery.failing is None and delivery.waiting is not None and delivery.waiting > STUCK:
            yield f"channel {channel}: a message has been waiting for {duration(delivery.waiting)}"


class Observations:
    """What the shell has seen, from which the signs are read. Times are seconds of one monotonic clock."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._table_read: float | None = None
        self._void_since: float | None = None
        self._sweeps: dict[object, float] = {}  # when each should be over

    def table_read(self, now: float) -> None:
        self._table_read = now

    def report(self, now: float, *, void: bool) -> None:
        """A probe came back; `void`: it says nothing."""
        if not void:
            self._void_since = None
        elif self._void_since is None:
            self._void_since = now

    def sweep_began(self, until: float) -> object:
        """A round of probes that should be over by then; what to give to `sweep_ended`."""
        sweep = object()
        self._sweeps[sweep] = until
        return sweep

    def sweep_ended(self, sweep: object) -> None:
        self._sweeps.pop(sweep, None)

    @property
    def is_idle(self) -> bool:
        """Whether no round of probes is under way."""
        return not self._sweeps

    def signs(self, now: float, *, next_due: float | None, deliveries: Iterable[Delivery]) -> Signs:
        return Signs(
            table_read=None if self._table_read is None else now - self._table_read,
            overdue=float("-inf") if next_due is None else now - next_due,
            sweeps=tuple(now - until for until in self._sweeps.values()),
            told_nothing=None if self._void_since is None else now - self._void_since,
            deliveries=tuple(deliveries),
            running=now - self._started,
        )
