"""The service is killed at any moment, again and again, while mounts die and recover: the story must stay true.

`--kills 200` for more of it, `--kill-seed` for another course of events.
"""

from __future__ import annotations

from random import Random

import pytest

from tests.fakes.receivers import GotifyReceiver
from tests.integration import storm
from tests.integration.service import Site
from tests.integration.test_notifications import titles

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(3000)]


async def test_whenever_it_is_killed_the_story_is_true(site: Site, pytestconfig: pytest.Config) -> None:
    kills, random = pytestconfig.getoption("--kills"), Random(pytestconfig.getoption("--kill-seed"))
    mounts = storm.mounts(site)
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        dead = await storm.rage(site, mounts, kills=kills, random=random)
        repeated = await storm.settle(site, mounts, dead, lambda: titles(gotify))
        assert repeated <= kills
        assert len(titles(gotify)) > kills / 10, "too little happened"
        print(f"{kills} kills, {len(titles(gotify))} messages, {repeated} told again")  # noqa: T201 - shown with -rP
