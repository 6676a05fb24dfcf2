"""Drives `core.outbox`: for each channel, in order and with back-off, one courier at a time.

What was told lives in the ledger, and an entry is written only when the courier has said that the
message was delivered. Channels do not wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from random import random
from time import time

import anyio
import anyio.lowlevel

from watcher.children import Children
from watcher.core import messages, outbox, vitals
from watcher.core.evidence import Evidence
from watcher.core.incident import Incident
from watcher.core.incidents import Incidents, nothing_is_silenced
from watcher.core.outbox import News, Told, Topic
from watcher.core.saved import State
from watcher.core.wording import count
from watcher.delivery.channel import Channel, Outlook, Resolve, UnresolvedURL
from watcher.delivery.couriers import Courier, Delivery

log = logging.getLogger(__name__)

GATHER = 0.02  # seconds: a server's mounts die in a burst, and each look at what there is to tell costs
LAST_ANSWER = 5.0  # seconds for a receiver to answer once we are to end
_EXPLAINED = frozenset({Topic.PROBLEM, Topic.UPDATE, Topic.REPEAT, Topic.PARTIAL})  # says why, and what to do


async def nothing_found(incident: Incident) -> Evidence | None:
    """That nobody has looked why."""
    return None


class Sender:
    """Tells every channel what it does not know yet."""

    def __init__(
        self,
        incidents: Incidents,
        children: Children,
        *,
        host: str,
        env: Mapping[str, str],
        group_wait: float,
        max_age: float,
        clock: Callable[[], float] = time,
        recorded: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint,
        found: Callable[[Incident], Awaitable[Evidence | None]] = nothing_found,
        attempted: Callable[[str, bool], object] = lambda channel, delivered: None,
    ) -> None:
        """`recorded`: returns when what was told is on disk, or soon if that is slow; `found`: soon, too, what is known
        of why an incident is; `attempted`: is told of each attempt's channel, and whether it was delivered.
        """
        self._incidents = incidents
        self._children = children
        self._host = host
        self._env = env
        self._group_wait = group_wait
        self._max_age = max_age
        self._repeat_interval = 0.0
        self._clock = clock
        self._recorded = recorded
        self._found = found
        self._attempted = attempted
        self._restored = State()
        self._stopping = self._kicked = False
        self._under_way: set[anyio.CancelScope] = set()  # attempts: an answer that is not heard is told twice
        self._silenced: set[int] = set()  # incidents over which a silence holds
        self._released: dict[int, float] = {}  # by incident: when the last silence over it ended
        self._channels: dict[str, Channel] = {}
        self._changed = anyio.Event()

    def configure(
        self,
        channels: Mapping[str, Resolve],
        *,
        group_wait: float,
        max_age: float,
        repeat_interval: float = 0.0,
        silenced: Callable[[Incident], bool] = nothing_is_silenced,
    ) -> None:
        """Tell these channels from now on; a channel that keeps its name keeps what it was told.

        While `silenced` holds for an incident, no channel is told that it began, or grew. When its answer changes
        with time, `kick` makes it count.
        """
        self._group_wait, self._max_age, self._repeat_interval = group_wait, max_age, repeat_interval
        self._incidents.silenced = silenced
        for gone in set(self._channels) - set(channels):
            self._channels.pop(gone).scope.cancel()
        for name, resolve in channels.items():
            if name in self._channels:
                self._channels[name].resolve = resolve
                self._channels[name].retry_at = 0.0  # it may have been mended by this very change
            else:
                self._channels[name] = Channel.restored(name, resolve, self._restored, self._clock())
        self._restored = State()
        self._changed.set()
        self.kick()

    def restore(self, state: State, released: float) -> None:
        """What channels were told in earlier runs, before `configure`. Until `released` nothing is told of that: it
        is seen first how things stand.
        """
        self._restored = state
        self._released = {n: released for n, incident in state.incidents.items() if incident.closed is None}

    def state(self) -> State:
        """What a later run should know: incidents and what was told of them."""
        channels = self._channels.values()
        return State(
            incidents={i.number: i for i in self._incidents},
            channels={c.name: c.saved() for c in channels},
            told={(c.name, number): told for c in channels for number, told in c.ledger.items()},
            lately={(c.name, group): entry for c in channels for group, entry in c.lately.items()},
        )

    def shift(self, seconds: float) -> None:
        """The clock was set: all that was told was told as long ago as before."""
        self._released = {number: at + seconds for number, at in self._released.items()}
        for channel in self._channels.values():
            channel.shift(seconds)
        self.kick()

    def stop(self) -> None:
        """Begin no attempt from now on; those under way have a little time for their answer."""
        self._stopping = True
        for scope in self._under_way:
            scope.deadline = min(scope.deadline, anyio.current_time() + LAST_ANSWER)

    def unreachable(self) -> dict[str, tuple[float, str]]:
        """The channels that have failed for long: since when, and how the last attempt ended."""
        now = self._clock()
        return {
            c.name: (since, c.last_error)
            for c in self._channels.values()
            if (since := c.unreachable_since(now)) is not None
        }

    def kick(self) -> None:
        """The incidents have changed, or what is silenced."""
        if not self._kicked:  # mounts die by the hundred: what follows is done once for all that die in one turn
            self._kicked = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._kicked = False
        self._note_silences()
        self._forget_settled()
        for channel in self._channels.values():
            channel.kicked.set()

    async def run(self) -> None:
        """Serve the channels until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._changed = anyio.Event()
                for channel in self._channels.values():
                    if not channel.served:
                        channel.served = True
                        tasks.start_soon(self._serve, channel, name=f"channel {channel.name}")
                await self._changed.wait()

    @property
    def channels(self) -> list[str]:
        return list(self._channels)

    @property
    def failing(self) -> list[str]:
        """The channels whose last attempt failed."""
        return [c.name for c in self._channels.values() if c.failing_since is not None]

    def progress(self) -> list[vitals.Delivery]:
        """How it goes with each channel."""
        now = self._clock()
        return [c.progress(self._pending(c), now) for c in self._channels.values()]

    def outlook(self) -> list[Outlook]:
        """How it stands with each channel, for those who ask."""
        now = self._clock()
        return [c.outlook(self._pending(c), now) for c in self._channels.values()]

    # ---- one channel

    async def _serve(self, channel: Channel) -> None:
        with channel.scope:
            while True:
                channel.kicked = anyio.Event()
                pause = None if self._stopping else self._pause(channel)
                if pause is None or pause > 0:
                    with anyio.move_on_after(pause):
                        await channel.kicked.wait()
                        await anyio.sleep(GATHER)
                else:
                    await self._deliver(channel)

    def _pending(self, channel: Channel, incidents: Iterable[Incident] | None = None) -> list[News]:
        return outbox.pending(
            self._incidents if incidents is None else incidents,
            channel.ledger,
            now=self._clock(),
            group_wait=self._group_wait,
            max_age=self._max_age,
            lately=channel.lately,
            silenced=self._is_held_back,
            released=self._released,
            channel=channel.name,
            added=channel.added,
            repeat_interval=self._repeat_interval,
        )

    def _is_held_back(self, incident: Incident) -> bool:
        return self._incidents.silenced(incident) or self._incidents.is_unconfirmed(incident)

    def _pause(self, channel: Channel) -> float | None:
        """Seconds until there is something to send; None while there is nothing."""
        pending = self._pending(channel)
        return max(pending[0].due, channel.retry_at) - self._clock() if pending else None

    async def _deliver(self, channel: Channel) -> None:
        """Send all that is due, through one courier, until nothing is due or one attempt fails."""
        courier = Courier(self._children, self._env)
        try:
            while (news := self._next(channel)) is not None:
                found = None
                if news.topic in _EXPLAINED:
                    # What there is to say may be another by then.
                    found = await self._found(news.incident)
                    if (news := self._next(channel)) is None:
                        continue
                with anyio.CancelScope(shield=True) as scope:
                    self._under_way.add(scope)
                    try:
                        told = await self._attempt(channel, courier, news, found)
                    finally:
                        self._under_way.discard(scope)
                if scope.cancelled_caught or not told:
                    return
        finally:
            courier.close()
            self._forget_settled()

    def _next(self, channel: Channel) -> News | None:
        """What is to be sent now."""
        if self._stopping or not (pending := self._pending(channel)) or pending[0].due > self._clock():
            return None
        return pending[0]

    async def _attempt(self, channel: Channel, courier: Courier, news: News, found: Evidence | None) -> bool:
        number = news.incident.number
        told = channel.ledger.get(number)
        now = self._clock()
        message = messages.compose(
            news,
            _mounts_down(news.incident, told),
            messages.Sender(self._host, channel.name, channel.failing_since),
            now=now,
            local=local_time,
            found=found,
        )
        entry = outbox.told_now(news.incident, now, told, news.topic)  # as composed: it may change while it is sent
        try:
            url = await channel.resolve()
        except UnresolvedURL as e:
            delivery = Delivery(False, str(e))
        else:
            channel.ledger[number] = outbox.attempted(told, entry)
            await self._recorded()
            delivery = await courier.send(url, message)
        self._attempted(channel.name, delivery.ok)
        if delivery.ok:
            again = f" (after {count(channel.attempt, 'failed attempt')})" if channel.attempt else ""
            channel.delivered(news.incident, entry, now)
            await self._recorded()
            log.info("told %s%s: %s", channel.name, again, message.title)
        else:
            channel.put_back(number, told)
            self._failed(channel, delivery)
        return delivery.ok

    def _failed(self, channel: Channel, delivery: Delivery) -> None:
        now = self._clock()
        channel.failed(delivery.error, now)
        pause = outbox.retry_after(channel.attempt, delivery.retry_after, random())
        channel.retry_at = now + pause
        log.warning(
            "could not tell %s (attempt %d, next in %.0f s): %s", channel.name, channel.attempt, pause, delivery.error
        )

    def _note_silences(self) -> None:
        """What is told when its silence is over is not told late."""
        now, silenced = self._clock(), {i.number for i in self._incidents if self._is_held_back(i)}
        numbers = {i.number for i in self._incidents}
        self._released = {n: at for n, at in self._released.items() if n in numbers}
        for number in (self._silenced - silenced) & numbers:
            self._released[number] = max(now, self._released.get(number, now))
        self._silenced = silenced

    def _forget_settled(self) -> None:
        """Drop the incidents of which every channel knows the end."""
        now = self._clock()
        for incident in self._incidents:
            if incident.closed is None:
                continue
            waiting = any(self._pending(channel, [incident]) for channel in self._channels.values())
            if not waiting and now - incident.closed > outbox.REMOUNT_WAIT:
                self._incidents.drop(incident.number)
                for channel in self._channels.values():
                    channel.ledger.pop(incident.number, None)


def _mounts_down(incident: Incident, told: Told | None) -> int:
    """How many mounts the channel believes to be down."""
    down = told.down if told else set()
    return sum(len(m.subject.places) for m in incident.members if m.slot in down)


def local_time(wall: float) -> datetime:
    """Epoch seconds as local time with its zone."""
    return datetime.fromtimestamp(wall).astimezone()
