"""The service is killed at any moment, again and again, while mounts die and recover: the story must stay true.

`--kills 200` for more of it, `--kill-seed` for another course of events.
"""

from __future__ import annotations

import asyncio
import errno
import re
import signal
from collections.abc import Iterator
from random import Random

import pytest

from tests.fakes.fuse import HANG, OK, FuseMount, fails
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import Site
from tests.integration.test_notifications import tell_last, titles

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(3000)]

MOUNTS = 5
SETTLE = 90.0  # seconds in which all must be told once nothing happens any more
WAYS = [fails(errno.EIO), fails(errno.ESTALE), HANG]


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


def story(receiver: GotifyReceiver, mount: FuseMount) -> list[str]:
    """What was told of this mount, in order: "down", "up", or "late" for what was over before it could be told."""
    words = []
    for title in titles(receiver):
        if re.search(rf"{re.escape(mount.mount_point)}\b", title):
            assert title[0] in "🔴🟢⚪", title
            words.append({"🔴": "down", "🟢": "up", "⚪": "late"}[title[0]])
    return words


def check(words: list[str]) -> int:
    """Whether they tell a story; how often something was told again."""
    repeated, believed = 0, "up"
    for word in words:
        if word == "late":
            assert believed == "up", f"told late what is known: {words}"
        elif word == believed:
            repeated += 1
        else:
            believed = word
    return repeated


async def test_whenever_it_is_killed_the_story_is_true(site: Site, pytestconfig: pytest.Config) -> None:
    kills, random = pytestconfig.getoption("--kills"), Random(pytestconfig.getoption("--kill-seed"))
    mounts = [
        site.mount(f"m{n}x", fstype=f"fuse.m{n}x") for n in range(MOUNTS)
    ]  # of one type they would be one message
    last = site.mount("last")
    dead = dict.fromkeys(range(MOUNTS), False)
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        for _ in range(kills):
            async with site.service() as service:
                # As long as it takes to start, to find something, to tell it, to note that; or until some time between.
                until = asyncio.get_running_loop().time() + random.choice([0.5, 2.0, 5.0]) * random.random() + 0.2
                while (left := until - asyncio.get_running_loop().time()) > 0:
                    n = random.randrange(MOUNTS)
                    dead[n] = not dead[n]
                    mounts[n].set(random.choice(WAYS) if dead[n] else OK)
                    await asyncio.sleep(min(left, random.random()))
                service.send(signal.SIGKILL)
                await service.wait_end()
        async with site.service() as service:
            truth = {n: "down" if down else "up" for n, down in dead.items()}

            def is_told() -> bool:
                believed = {}
                for n, mount in enumerate(mounts):
                    words = [w for w in story(gotify, mount) if w != "late"]
                    believed[n] = words[-1] if words else "up"
                return believed == truth

            try:
                async with asyncio.timeout(SETTLE):
                    while not is_told():
                        await asyncio.sleep(0.1)
            except TimeoutError:
                stories = {f"m{n}x is {truth[n]}": story(gotify, mount)[-5:] for n, mount in enumerate(mounts)}
                raise AssertionError(f"not told in the end: {stories}") from None
            await tell_last(last, gotify)
            await service.end()
        assert is_told()
        repeated = sum(check(story(gotify, mount)) for mount in mounts)
        assert repeated <= kills
        assert len(titles(gotify)) > kills / 4, "too little happened"
        print(f"{kills} kills, {len(titles(gotify))} messages, {repeated} told again")  # noqa: T201 - shown with -rP
