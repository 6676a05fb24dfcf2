"""What the service manager hears, on a socket as systemd opens it (sd_notify(3))."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.fakes.fuse import HANG
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import LIMIT, Site
from watcher import systemd

pytestmark = pytest.mark.kernel


class ServiceManager(asyncio.DatagramProtocol):
    """The end of $NOTIFY_SOCKET that systemd holds; `told` is what came in, oldest first."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self._news = asyncio.Event()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.told.append(data.decode())
        self._news.set()

    async def wait_for(self, pattern: str, count: int = 1) -> str:
        """The `count`th datagram that is this regular expression."""
        try:
            async with asyncio.timeout(LIMIT):
                while len(found := [d for d in self.told if re.fullmatch(pattern, d)]) < count:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            told = [message for message in self.told if message != "WATCHDOG=1"]
            raise AssertionError(f"not told {count} times: {pattern}; told: {told}") from None
        return found[count - 1]


@asynccontextmanager
async def service_manager(address: str) -> AsyncIterator[ServiceManager]:
    """`address` as in $NOTIFY_SOCKET: a path, or "@" and an abstract name."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    end.bind("\0" + address[1:] if address.startswith("@") else address)
    transport, manager = await asyncio.get_running_loop().create_datagram_endpoint(ServiceManager, sock=end)
    try:
        yield manager
    finally:
        transport.close()
        await asyncio.sleep(0)  # the transport closes its socket in the loop's next turn


async def test_the_status_line_speaks_of_mounts_as_people_do(site: Site) -> None:
    site.mount("theirs", user_id=1000, group_id=1000)
    address = str(site.path / "notify")
    async with service_manager(address) as manager:
        site.write_config({})
        async with site.service(env={"NOTIFY_SOCKET": address}):
            await manager.wait_for("STATUS=watching 1 mount: 1 not checkable")


async def test_it_is_ready_before_the_first_answer_and_tells_how_it_is(site: Site) -> None:
    pending, dead = site.mount("pending", mode=HANG), site.mount("dead", mode=HANG)
    site.mount("fine")
    slow = f'[[override]]\nmounts = ["{pending.mount_point}"]\ntimeout = "5m"\nalarm_after = "10m"'
    address = str(site.path / "notify")
    async with service_manager(address) as manager, GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, more=slow)
        await gotify.stop()
        async with site.service(env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}) as service:
            await manager.wait_for("READY=1")
            await manager.wait_for("STATUS=watching 3 mounts: 3 unknown")
            await asyncio.to_thread(dead.wait_parked)
            await service.wait_for_line("stale: .*/dead")
            await service.wait_for_line("could not tell gotify")

            service.send(signal.SIGHUP)
            await manager.wait_for(r"RELOADING=1\nMONOTONIC_USEC=\d+")
            await manager.wait_for("READY=1", 2)
            await manager.wait_for("WATCHDOG=1", 4)

            site.config.write_text("broken")
            await service.wait_for_line("the configuration stays as it was")
            await manager.wait_for("READY=1", 3)
            status = await manager.wait_for("STATUS=.*; configuration unusable")
            counts, *rest = status.removeprefix("STATUS=watching 3 mounts: ").split("; ")
            assert sorted(counts.split(", ")) == ["1 ok", "1 stale", "1 unknown"]
            assert rest == ["1 probe hanging", "cannot tell gotify", "configuration unusable"]
            assert pending.counters().parked == 1
            assert await service.end() == 0
            await manager.wait_for("STOPPING=1")

    told = manager.told
    assert told[0] == "READY=1"
    reloading = [number for number, message in enumerate(told) if message.startswith("RELOADING=1")]
    ready = [number for number, message in enumerate(told) if message == "READY=1"]
    assert len(reloading) == 2
    assert ready[0] < reloading[0] < ready[1] < reloading[1] < ready[2] < told.index("STOPPING=1")
    assert not [message for message in told[told.index("STOPPING=1") :] if message != "STOPPING=1"]


async def test_nothing_is_told_after_the_last_word(site: Site) -> None:
    address = str(site.path / "notify")
    async with service_manager(address) as manager:
        ours = systemd.ServiceManager({"NOTIFY_SOCKET": address})
        ours.stopping()
        ours.alive()
        ours.status("watching")
        ours.stopping()
        ours.close()
        await manager.wait_for("STOPPING=1", 2)
    assert manager.told == ["STOPPING=1", "STOPPING=1"]


async def test_an_abstract_socket_and_no_watchdog(site: Site) -> None:
    site.write_config()
    address = f"@watcher-test-{uuid.uuid4().hex}"
    async with service_manager(address) as manager:
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"}
        async with site.service(env=env) as service:
            await manager.wait_for("READY=1")
            await manager.wait_for("STATUS=watching 0 mounts")
            # What READY=1 promises: signals are acted upon from here on.
            service.send(signal.SIGHUP)
            await manager.wait_for("READY=1", 2)
            assert await service.end() == 0
        await manager.wait_for("STOPPING=1")
    assert "WATCHDOG=1" not in manager.told


async def test_a_start_that_fails_is_never_ready(site: Site) -> None:
    site.write(site.config, "broken")
    address = str(site.path / "notify")
    async with service_manager(address) as manager:
        async with site.service(env={"NOTIFY_SOCKET": address}) as service:
            assert await service.wait_end() == 3
        await manager.wait_for("STOPPING=1")
    assert "READY=1" not in manager.told
