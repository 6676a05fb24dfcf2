"""SMB that dies and comes back: samba, the kernel's client, default settings, a real receiver, and the control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.net import ADDRESS, Server, mountinfo, run
from tests.system.table import Row
from tests.system.watching import Watch, once

Note = Callable[[Row], None]
SILENCE, LAG = 35.0, 15.0  # seconds: the promise with default settings, and what a lab may be late
RECOVERY = 12.0


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.smb()
        yield server


@contextmanager
def share(where: str = "/mnt/smb") -> Iterator[Path]:
    Path(where).mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "cifs", "-o", "username=root,password=lab,vers=3.1.1", f"//{ADDRESS}/share", where)
    try:
        yield Path(where)
    finally:
        while mountinfo(where):
            run("umount", "-l", where)


@pytest.mark.lab("cifs")
@pytest.mark.timeout(240)
async def test_smbd_stopped_and_started(server: Server, row: Note) -> None:
    with share() as place:
        assert once("--path", str(place))[0] == 0
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, server.stop_smbd, server.start_smbd)
        assert len(watch.messages) == 2, watch.messages
    assert f"{ADDRESS}" in told.alarm.message
    assert told.alarm_after < SILENCE + LAG
    assert told.recovery_after < RECOVERY + LAG
    words = told.alarm.title.partition(str(place))[2].strip()
    row(told.row(40, "CIFS: smbd stopped", words))


@pytest.mark.lab("cifs-cut", limit=600)
@pytest.mark.timeout(400)
async def test_packets_dropped(server: Server, row: Note) -> None:
    with share() as place:
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, server.cut, server.join)
        assert len(watch.messages) == 2, watch.messages
    assert "NO ANSWER" in told.alarm.title
    assert told.alarm_after < SILENCE + LAG
    assert told.recovery_after < RECOVERY + LAG
    row(told.row(41, "CIFS: packets dropped", "NO ANSWER"))
