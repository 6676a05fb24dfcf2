"""The sender with a real courier and receiver, and a clock that can be set."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from time import time

from tests.fakes.receivers import GotifyReceiver
from tests.unit.mounts import subject, transition
from watcher.children import Children
from watcher.core.incident import Condition
from watcher.core.incidents import Incidents
from watcher.core.outbox import Told
from watcher.delivery.channel import UNREACHABLE
from watcher.delivery.sender import Sender
from watcher.model import Change

LIMIT = 60.0


class Clock:
    """The epoch's seconds, and how much somebody has set it by."""

    def __init__(self) -> None:
        self.set_by = 0.0

    def __call__(self) -> float:
        return time() + self.set_by


class Desk:
    """A sender that serves one channel."""

    def __init__(self, children: Children, gotify: GotifyReceiver) -> None:
        self.clock, self.incidents, self.recorded = Clock(), Incidents(), 0
        self.url = gotify.url
        self.sender = Sender(
            self.incidents,
            children,
            host="pve1",
            env=dict(os.environ),
            group_wait=0.1,
            max_age=86400.0,
            clock=self.clock,
            recorded=self.record,
        )
        self.configure("phone")

    def configure(self, *names: str) -> None:
        async def resolve() -> str:
            return self.url

        self.sender.configure(dict.fromkeys(names, resolve), group_wait=0.1, max_age=86400.0)

    async def record(self) -> None:
        self.recorded += 1

    def tell(self, change: Change, point: str = "/mnt/nas") -> None:
        self.incidents.apply(transition(change, subject(point), at=0.0), now=0.0, wall=self.clock())
        self.sender.kick()

    async def until_failing(self) -> None:
        async with asyncio.timeout(LIMIT):
            while not self.sender.failing:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def desk(gotify: GotifyReceiver) -> AsyncIterator[Desk]:
    children = Children()
    made = Desk(children, gotify)
    task = asyncio.create_task(made.sender.run())
    try:
        yield made
    finally:
        made.sender.stop()
        task.cancel()
        await asyncio.wait([task])
        children.close()


async def test_a_clock_that_is_set_back_delays_no_alarm() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        it.tell(Change.BEGAN)
        it.clock.set_by = -7200.0
        it.incidents.shift(-7200.0)
        it.sender.shift(-7200.0)
        [message] = await gotify.wait_for(1)
        assert message.title == "🔴 pve1: /mnt/nas NO ANSWER"


async def test_nor_a_second_attempt() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        gotify.fail(500)
        it.tell(Change.BEGAN)
        await it.until_failing()
        gotify.accept()
        it.clock.set_by = -7200.0
        it.incidents.shift(-7200.0)
        it.sender.shift(-7200.0)
        await gotify.wait_for(1)


async def test_a_channel_that_fails_for_long_is_known_as_such_until_it_works() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        gotify.fail(500)
        it.tell(Change.BEGAN)
        await it.until_failing()
        assert it.sender.unreachable() == {}
        it.clock.set_by += UNREACHABLE + 1
        [(name, (_, error))] = it.sender.unreachable().items()
        assert (name, bool(error)) == ("phone", True)
        gotify.accept()
        it.configure("phone")  # which tries at once
        await gotify.wait_for(1)
        async with asyncio.timeout(LIMIT):
            while it.sender.unreachable():
                await asyncio.sleep(0.02)


async def test_what_is_told_is_recorded_before_the_next_is_told() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        release, noted = asyncio.Event(), list[Mapping[tuple[str, int], Told]]()

        async def slow() -> None:
            noted.append(it.sender.state().told)
            if len(noted) > 1:  # that the first is under way is noted at once
                await release.wait()

        it.sender._recorded = slow
        it.incidents.apply(transition(Change.BEGAN, subject("/mnt/a", source="a:/")), now=0.0, wall=it.clock())
        it.tell(Change.BEGAN)
        await gotify.wait_for(1)
        assert gotify.attempts == 1
        release.set()
        await gotify.wait_for(2)
        [(trying, told)] = [(noted[0][key], noted[1][key]) for key in noted[0]]
        assert (dict(trying.conditions), set(trying.unsure)) == ({}, {0})
        assert (dict(told.conditions), set(told.unsure)) == ({0: Condition.DOWN}, set())


async def test_a_channel_that_is_new_is_told_what_is_down_but_not_what_is_over() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        gotify.fail(500)
        it.tell(Change.BEGAN)
        await it.until_failing()
        it.clock.set_by += 60
        it.tell(Change.ENDED)
        it.incidents.apply(transition(Change.BEGAN, subject("/mnt/b", source="b:/")), now=0.0, wall=it.clock())
        it.clock.set_by += 60
        gotify.accept()
        it.configure("other")
        [message] = await gotify.wait_for(1)
        assert message.title == "🔴 pve1: /mnt/b NO ANSWER"
        assert {name for name, _ in it.sender.state().told} <= {"other"}
        assert set(it.sender.state().channels) == {"other"}


async def test_when_a_channel_was_told_last_is_known_to_a_later_run() -> None:
    async with GotifyReceiver() as gotify, desk(gotify) as it:
        assert it.sender.outlook()[0].last_told is None
        it.tell(Change.BEGAN)
        await gotify.wait_for(1)
        async with asyncio.timeout(LIMIT):
            while (told := it.sender.outlook()[0].last_told) is None:
                await asyncio.sleep(0.02)
        state = it.sender.state()
    # Although of what it was told nothing is left that could be followed up.
    async with GotifyReceiver() as gotify, desk(gotify) as later:
        later.configure()
        later.sender.restore(replace(state, incidents={}, told={}), 0.0)
        later.configure("phone")
        assert later.sender.outlook()[0].last_told == told
