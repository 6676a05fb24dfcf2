"""Messages to a real ntfy server: when it is away, when it says "too many requests", and when we are killed."""

from __future__ import annotations

import errno
import json
import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.fakes.fuse import HANG, OK, FuseMount, fails
from tests.integration import storm
from tests.integration.service import HOST, Site
from tests.integration.test_notifications import matches
from tests.system.waiting import LIMIT, until, wait_until

pytestmark = [pytest.mark.lab("ntfy"), pytest.mark.timeout(300)]

KILLS = 6


class Ntfy:
    """One server of its own, on a free port, and what it has taken."""

    def __init__(self, directory: Path, options: Mapping[str, str | int]) -> None:
        """`options`: of its server.yml."""
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._port = free.getsockname()[1]
        self._messages = directory / "ntfy.db"
        self._config = directory / "ntfy.yml"
        settings = {
            "base-url": f"http://127.0.0.1:{self._port}",
            "listen-http": f"127.0.0.1:{self._port}",
            "cache-file": str(self._messages),
        }
        lines = [f"{key}: {json.dumps(value)}" for key, value in {**settings, **options}.items()]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As Apprise takes it."""
        return f"ntfy://127.0.0.1:{self._port}/mounts"

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["ntfy", "serve", "--config", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._listens, "ntfy listens")

    def _listens(self) -> bool:
        # To ask for its health would count as a request.
        with closing(socket.socket()) as trial:
            return trial.connect_ex(("127.0.0.1", self._port)) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(LIMIT)
            self._process = None

    def titles(self) -> list[str]:
        """Of the messages in the order in which they came. Read from its database: asking counts as a request."""
        with closing(sqlite3.connect(f"file:{self._messages}?mode=ro", uri=True)) as db:
            return [title for (title,) in db.execute("SELECT title FROM messages ORDER BY id")]


class Stage(NamedTuple):
    site: Site
    directory: Path

    @contextmanager
    def ntfy(self, options: Mapping[str, str | int] = MappingProxyType({})) -> Iterator[Ntfy]:
        """A server, and the configuration that names it."""
        ntfy = Ntfy(self.directory, options)
        self.site.write_config({"phone": ntfy.url})
        ntfy.start()
        try:
            yield ntfy
        finally:
            ntfy.stop()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Site() as site:
        yield Stage(site, tmp_path)


async def asked(*mounts: FuseMount) -> None:
    """Return when each has been asked."""
    await until(lambda: all(mount.counters().requests.get("STATFS") for mount in mounts), "each is asked")


async def test_an_outage_is_told_in_two_messages(stage: Stage) -> None:
    nas = stage.site.mount("nas")
    with stage.ntfy() as ntfy:
        async with stage.site.service() as service:
            await asked(nas)
            nas.set(HANG)
            await until(ntfy.titles, "the alarm")
            nas.set(OK)
            await until(lambda: len(ntfy.titles()) == 2, "the recovery")
            await service.end()
        alarm, recovery = f"🔴 {HOST}: {nas.mount_point} NO ANSWER", f"🟢 {HOST}: {nas.mount_point} ok {{SPAN}}"
        assert matches(ntfy.titles(), [alarm, recovery])


async def test_what_happens_while_it_is_away_is_told_when_it_is_back(stage: Stage) -> None:
    over, lasts = stage.site.mount("over", fstype="fuse.over"), stage.site.mount("lasts", fstype="fuse.lasts")
    with stage.ntfy() as ntfy:
        ntfy.stop()
        async with stage.site.service() as service:
            await asked(over, lasts)
            over.set(fails(errno.EIO))
            await service.wait_for_line("could not tell phone")
            over.set(OK)
            await service.wait_for_line("stale no more: .*over")
            lasts.set(fails(errno.ESTALE))
            await service.wait_for_line("stale: .*lasts")
            # What was under way was composed while it was still down.
            await service.wait_for_line("could not tell phone", len(service.found("could not tell phone")) + 1)
            ntfy.start()
            await until(lambda: len(ntfy.titles()) == 2, "what was over, and what is not")
            await service.end()
        late, alarm = sorted(ntfy.titles())
        assert f"{HOST}: {over.mount_point} was I/O ERROR" in " ".join(ntfy.titles())
        assert f"🔴 {HOST}: {lasts.mount_point} STALE HANDLE" in (late, alarm)


async def test_too_many_requests_are_tried_again_and_none_is_lost_or_told_twice(stage: Stage) -> None:
    mounts = storm.mounts(stage.site)
    with stage.ntfy({"visitor-request-limit-burst": 2, "visitor-request-limit-replenish": "8s"}) as ntfy:
        async with stage.site.service() as service:
            await asked(*mounts)
            for mount in mounts:
                mount.set(fails(errno.EIO))
            await service.wait_for_line("could not tell phone .*429")
            await until(lambda: len(ntfy.titles()) == len(mounts), "all of them")
            await service.end()
        assert sorted(ntfy.titles()) == sorted(f"🔴 {HOST}: {mount.mount_point} I/O ERROR" for mount in mounts)


async def test_whenever_it_is_killed_the_story_is_true(stage: Stage) -> None:
    mounts = storm.mounts(stage.site)
    with stage.ntfy({"visitor-request-limit-exempt-hosts": "127.0.0.1"}) as ntfy:
        dead = await storm.rage(stage.site, mounts, kills=KILLS, random=Random(3), pace=2.0)
        repeated = await storm.settle(stage.site, mounts, dead, ntfy.titles)
        assert repeated <= KILLS
        assert len(ntfy.titles()) > KILLS / 10, "too little happened"
