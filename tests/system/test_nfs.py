"""NFS that dies and comes back: silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.system.net import Server
from tests.system.table import Row
from tests.system.watching import KERNEL, Watch, once

ALARM_LIMIT = 35.0 + 10.0  # seconds: the promise for silence with default settings, and what a lab may lag behind
RECOVERY_LIMIT = 12.0


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.mark.lab("nfs4")
@pytest.mark.timeout(240)
async def test_a_hard_mount_of_version_4_2_whose_packets_are_dropped(server: Server, row: Callable[[Row], None]) -> None:
    server.nfs()
    with server.nfs_mount("/mnt/nfs", "vers=4.2,hard") as place:
        assert once("--path", str(place))[0] == 0
        async with Watch([str(place)]) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, server.cut, server.join)
        assert len(watch.messages) == 2
    assert "NO ANSWER" in told.alarm.title
    assert set(told.control) == {"ok"}, "the control is expected to miss it"
    row(Row(10, "NFS 4.2, hard: packets dropped", KERNEL, told.control_words, "NO ANSWER", told.alarm_after, told.recovery_after))
