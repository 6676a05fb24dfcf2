"""The service's silences against clocks that are set and machines that sleep; the store is a fake in memory."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import anyio
import pytest

from tests.unit.mounts import subject, transition
from watcher.core.incidents import Incidents
from watcher.core.quiet import Window
from watcher.core.silences import REMEMBERED
from watcher.model import Change, Silence
from watcher.silencing import Silencing

HOUR = 3600.0


class Shelf:
    """Keeps silences in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Silence] = {}

    async def silences(self) -> list[Silence]:
        return list(self.kept.values())

    async def put_silence(self, silence: Silence) -> None:
        self.kept[silence.id] = silence

    async def drop_silence(self, id: str) -> None:
        self.kept.pop(id, None)


class Site:
    """A service, its shelf and its clocks."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.wall, self.boot = wall, 1000.0
        self.shelf = Shelf()
        self.changes = 0
        self.start()
        incidents = Incidents()
        incidents.apply(transition(Change.BEGAN, subject("/mnt/a"), at=0), now=0, wall=wall)
        [self.incident] = incidents

    def start(self) -> None:
        self.silencing = Silencing(
            self.shelf,
            self.changed,
            local=lambda wall: datetime.fromtimestamp(wall, UTC),
            wall=lambda: self.wall,
            boottime=lambda: self.boot,
        )

    def changed(self) -> None:
        self.changes += 1

    async def pass_by(self, seconds: float, *, step: float = 0.0) -> None:
        """Time passes, the clock on the wall is set by `step` as well, and the service looks at it."""
        self.wall += seconds + step
        self.boot += seconds
        with anyio.move_on_after(0.02):
            await self.silencing.run()

    def silenced(self) -> bool:
        return self.silencing.silenced(self.incident)


async def silence_for(site: Site, seconds: float) -> Silence:
    return await site.silencing.add(("/mnt/*",), site.wall + seconds, "why")


async def test_it_ends_when_its_time_has_passed() -> None:
    site = Site()
    silence = await silence_for(site, HOUR)
    assert site.silenced()
    await site.pass_by(HOUR - 1)
    assert site.silenced()
    before = site.changes
    await site.pass_by(1)
    assert not site.silenced()
    assert site.changes > before
    assert site.silencing.active() == []
    # It still explains why something was not told.
    assert silence.id in site.shelf.kept
    await site.pass_by(REMEMBERED)
    assert site.shelf.kept == {}


@pytest.mark.parametrize("step", [HOUR, 24 * HOUR])
async def test_a_clock_that_is_set_forward_past_its_end_ends_it(step: float) -> None:
    site = Site()
    await silence_for(site, HOUR)
    await site.pass_by(1, step=step)
    assert not site.silenced()


@pytest.mark.parametrize("step", [-60.0, -24 * HOUR, -365 * 24 * HOUR])
async def test_a_clock_that_is_set_back_does_not_prolong_it(step: float) -> None:
    site = Site()
    await silence_for(site, HOUR)
    await site.pass_by(1, step=step)
    assert site.silenced()
    await site.pass_by(HOUR - 2)
    assert site.silenced()
    await site.pass_by(1)
    assert not site.silenced()
    # Nor does a restart bring it back.
    site.start()
    await site.silencing.load()
    assert not site.silenced()


async def test_after_a_restart_with_a_clock_set_back_it_lasts_no_longer_than_it_was_to() -> None:
    site = Site()
    await silence_for(site, HOUR)
    site.wall -= 24 * HOUR
    site.start()
    await site.silencing.load()
    assert site.silenced()
    await site.pass_by(HOUR)
    assert not site.silenced()


async def test_a_machine_that_slept_through_its_end_finds_it_over() -> None:
    site = Site()
    await silence_for(site, HOUR)
    await site.pass_by(8 * HOUR)
    assert not site.silenced()


async def test_one_that_is_ended_early_stays_ended_over_a_restart() -> None:
    site = Site()
    silence = await silence_for(site, HOUR)
    await site.pass_by(10)
    assert await site.silencing.end(silence.id)
    assert not await site.silencing.end(silence.id)
    assert not site.silenced()
    site.start()
    await site.silencing.load()
    assert not site.silenced()


async def test_what_the_disk_gives_only_later_is_taken_up() -> None:
    site = Site()
    await site.silencing.load()
    site.shelf.kept["late"] = Silence("late", ("/mnt/*",), site.wall - 10, site.wall + HOUR, "")
    before = site.changes
    await site.pass_by(60)
    assert site.silenced()
    assert site.changes > before


async def test_the_ends_of_silences_and_windows_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "watcher")
    site = Site(wall=1_800_000_000.0 // 86400 * 86400 + 30 * 60)  # 00:30
    site.silencing.configure([Window(("/mnt/*",), 60, 120)])
    silence = await silence_for(site, 0.2 * HOUR)
    for _ in range(10):
        await site.pass_by(0.2 * HOUR)
    assert [r.message.replace(silence.id, "ID") for r in caplog.records if r.name == "watcher.silencing"] == [
        "silence ID for 12 min: /mnt/* (why)",
        "silence ID is over: /mnt/*",
        "quiet from 01:00 to 02:00: /mnt/*",
        "no longer quiet (01:00 to 02:00): /mnt/*",
    ]


async def test_ids_differ() -> None:
    site = Site()
    ids = {(await silence_for(site, HOUR)).id for _ in range(300)}
    assert len(ids) == 300
