"""SMB that dies and comes back: samba, the kernel's client, default settings, a real receiver, and the control."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.following import OwnAct, follow, joined
from tests.system.hanging import reads, works
from tests.system.net import ADDRESS, SMB_CONF, Server, mountinfo, run
from tests.system.table import Row
from tests.system.watching import ERROR, LAG, QUICK, RECOVERY, SILENCE, Watch, once, outage

Note = Callable[[Row], None]
# Once packets pass again the kernel takes as long as TCP waits between its last tries: the longer the cut, the longer.
BACK_WITHIN = 240.0


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
    with share() as place, reads(place / "file"):
        assert once("--path", str(place))[0] == 0
        told = await outage(place, server.stop_smbd, says="NO ANSWER", within=SILENCE, hangs=["tail ("])
    assert f"{ADDRESS}:445 refuses connections" in told.alarm.message
    assert f"Do on {ADDRESS}: systemctl restart smbd" in told.alarm.message
    row(told.row(40, "SMB 3.1.1: smbd stopped", "NO ANSWER"))


@pytest.mark.lab("cifs")
@pytest.mark.timeout(240)
async def test_who_is_patient_enough_to_hear_that_the_host_is_down(server: Server) -> None:
    """An error after ten seconds, where others have seen silence after five: the same outage, the same words."""
    with share() as place:
        async with Watch([str(place)], probe={"timeout": "15s"}) as watch:
            await watch.status("1 ok")
            told = await watch.outage(place, server.stop_smbd)
            assert len(watch.messages) == 2, watch.messages
            assert "NO ANSWER" in told.alarm.title
            assert "Host is down" in told.alarm.message
            assert told.recovery_after < RECOVERY + LAG


@pytest.mark.lab("cifs")
@pytest.mark.timeout(240)
async def test_the_share_is_removed_and_offered_again(
    server: Server, row: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And, once it is well again, unmounted: what is told then needs the password alone."""
    with share() as place, works(place / "dir"):
        gone = "SHARE NOT OFFERED"
        edits = OwnAct(f"[share] written into {SMB_CONF} again, on {ADDRESS}", server.write_share)
        told = await outage(place, server.remove_share, edits=edits, says=gone, within=ERROR, hangs=["sleep ("])
        share_of = f"//{ADDRESS}/share"
        assert f"Do on {ADDRESS}: testparm -s; smbcontrol all reload-config" in told.alarm.message
    with share() as place:
        monkeypatch.setenv("PASSWD", "lab")  # mount.cifs(8) asks for none then
        async with Watch([str(place)], on=["vanished"], probe=QUICK) as watch:
            await watch.status("1 ok")
            run("umount", str(place))
            alarm = await watch.next_message(0)
            await asyncio.to_thread(follow, alarm.message)
            mended = await watch.next_message(1)
    assert "NOT MOUNTED" in alarm.title
    assert f"{ADDRESS}:445 accepts connections" in alarm.message
    assert f" {share_of} {place} # asks for the password" in alarm.message
    assert "mounted again" in mended.title
    row(told.row(42, "SMB 3.1.1: share removed on the server", gone))


@pytest.mark.lab("cifs-cut")
@pytest.mark.timeout(500)
async def test_packets_dropped(server: Server, row: Note) -> None:
    with share() as place, reads(place / "file"):
        told = await outage(
            place,
            server.cut,
            joined(server),
            says="NO ANSWER",
            within=SILENCE,
            hangs=["tail ("],
            back_within=BACK_WITHIN,
        )
    row(told.row(41, "SMB 3.1.1: packets dropped", "NO ANSWER"))
