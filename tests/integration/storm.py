"""Mounts that die and recover while the service is killed at any moment: and whether what was told of it is true.

mounts = storm.mounts(site)
dead = await storm.rage(site, mounts, kills=24, random=Random(1))
repeated = await storm.settle(site, mounts, dead, lambda: titles(receiver))
"""

from __future__ import annotations

import asyncio
import errno
import re
import signal
from collections.abc import Callable, Sequence
from random import Random

from tests.fakes.fuse import HANG, OK, FuseMount, fails
from tests.integration.service import Site

MOUNTS = 5
SETTLE = 90.0  # seconds in which all must be told once nothing happens any more
WAYS = [fails(errno.EIO), fails(errno.ESTALE), HANG]

Titles = Callable[[], Sequence[str]]  # of the messages that a receiver has by now, the first one first


def mounts(site: Site) -> list[FuseMount]:
    """Each of a type of its own: of one type they would be one message."""
    return [site.mount(f"m{n}x", fstype=f"fuse.m{n}x") for n in range(MOUNTS)]


async def rage(site: Site, mounts: Sequence[FuseMount], *, kills: int, random: Random, pace: float = 1.0) -> list[bool]:
    """Run the service again and again, and kill it; which mounts are dead in the end. `pace`: a slower machine's."""
    now = asyncio.get_running_loop().time
    dead = [False] * len(mounts)
    for _ in range(kills):
        async with site.service() as service:
            # As long as it takes to start, to find something, to tell it, to note that; or until some time between.
            until = now() + pace * (random.choice([0.5, 2.0, 5.0]) * random.random() + 0.2)
            while (left := until - now()) > 0:
                n = random.randrange(len(mounts))
                dead[n] = not dead[n]
                mounts[n].set(random.choice(WAYS) if dead[n] else OK)
                await asyncio.sleep(min(left, random.random()))
            service.send(signal.SIGKILL)
            await service.wait_end()
    return dead


async def settle(site: Site, mounts: Sequence[FuseMount], dead: Sequence[bool], titles: Titles) -> int:
    """Let the service tell all there is to tell: the story must be true, and end so. How often it was told again."""
    truth = ["down" if is_dead else "up" for is_dead in dead]

    def believed() -> list[str]:
        known = [story(titles(), mount) for mount in mounts]
        return ["down" if words and words[-1] == "down" else "up" for words in known]

    last = site.mount("last")
    async with site.service() as service:
        try:
            async with asyncio.timeout(SETTLE):
                while believed() != truth:
                    await asyncio.sleep(0.1)
                last.set(fails(errno.EIO))  # told after all that was still to be told
                while not any(f"{last.mount_point} I/O ERROR" in title for title in titles()):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"it is {truth}, and told was: {list(titles())}") from None
        await service.end()
    assert believed() == truth
    return sum(_repeated(story(titles(), mount)) for mount in mounts)


def story(titles: Sequence[str], mount: FuseMount) -> list[str]:
    """What was told of this mount, in order: "down", "up", or "late" for what was over before it could be told."""
    words = []
    for title in titles:
        if re.search(rf"{re.escape(mount.mount_point)}\b", title):
            assert title[0] in "🔴🟢⚪", title
            words.append({"🔴": "down", "🟢": "up", "⚪": "late"}[title[0]])
    return words


def _repeated(words: Sequence[str]) -> int:
    """How often something was told again, since it was killed before it had noted that it was told.

    Then what was told as "down" may come as "late", too, if it is over by the next start.
    """
    repeated, believed = 0, "up"
    for word in words:
        over = word in ("up", "late")
        repeated += word == believed or (word == "late" and believed == "down")
        believed = "up" if over else "down"
    return repeated
