"""The heartbeat: that it beats while the watcher works, and only then; that it says nothing of its URL."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading

import anyio
import pytest

from tests.fakes.fuse import HANG
from tests.fakes.fuse_server import MS_BIND, mount, unmount
from tests.fakes.heartbeats import HeartbeatReceiver
from tests.integration.service import LIMIT, Site
from watcher.core.vitals import Verdict
from watcher.delivery.heartbeat import Heartbeat
from watcher.delivery.ping import Pinger, Resolver

TOKEN = "APingTokenThatIsSecret"


def heartbeat(line: str) -> str:
    return f'[heartbeat]\n{line}\ninterval = "5s"\n'


# ---- the service


@pytest.mark.kernel
async def test_the_service_beats_while_mounts_are_stale_and_stops_when_it_does(site: Site) -> None:
    site.mount("nas", mode=HANG)
    async with HeartbeatReceiver(TOKEN) as receiver:
        site.write_config(more=heartbeat(f'url = "{receiver.url}"'))
        async with site.service() as service:
            await service.wait_for_line("stale: ")
            await receiver.wait_for(2)
            assert await service.end() == 0
        assert set(receiver.received) == {"mountwatch"}
        assert TOKEN not in service.log
        assert not service.found("heartbeat")


@pytest.mark.once
@pytest.mark.kernel
async def test_a_ping_that_fails_is_said_once_and_nobody_is_alarmed(site: Site) -> None:
    site.mount("nas")
    url = site.path / "url"
    async with HeartbeatReceiver(TOKEN) as receiver:
        site.write(url, receiver.url + "\n")
        receiver.fail(500, receiver.url)
        site.write_config(more=heartbeat(f'url_file = "{url}"'))
        async with site.service("-v") as service:
            await receiver.wait_for_attempts(2)
            line = await service.wait_for_line("WARNING the heartbeat does not get through")
            assert line.endswith("does not get through: HTTP 500 (it goes on trying)")
            receiver.accept()
            await service.wait_for_line("INFO the heartbeat gets through again")
            assert (await site.run("health")).code == 0
            assert await service.end() == 0
        assert len(service.found("heartbeat")) == 2
        assert TOKEN not in service.log


@pytest.mark.once
@pytest.mark.kernel
async def test_it_can_be_configured_while_it_runs(site: Site) -> None:
    site.mount("nas")
    async with HeartbeatReceiver(TOKEN) as receiver:
        site.write_config()
        async with site.service() as service:
            await service.wait_for_edits_to_count()
            assert (await site.run("health")).code == 0  # has loaded aiohttp's server; the heartbeat needs its client
            site.write_config(more=heartbeat(f'url = "{receiver.url}"'))
            await receiver.wait_for(1)
            assert (await site.run("health")).code == 0
            assert await service.end() == 0


@pytest.mark.once
@pytest.mark.kernel
async def test_a_credential_that_is_missing_is_said_once(site: Site) -> None:
    site.write_config(more=heartbeat('credential = "ping"'))
    async with site.service() as service:
        line = await service.wait_for_line("the heartbeat does not get through")
        assert '[heartbeat]: no credential "ping"' in line
        assert await service.end() == 0


@pytest.mark.kernel
async def test_a_name_server_that_hangs_holds_up_neither_the_watching_nor_the_end(site: Site) -> None:
    nas = site.mount("nas")
    resolv, nsswitch = site.path / "resolv.conf", site.path / "nsswitch.conf"
    resolv.write_text("nameserver 127.9.9.9\noptions timeout:30 attempts:5\n")
    nsswitch.write_text("hosts: files dns\n")
    covered = [(resolv, b"/etc/resolv.conf"), (nsswitch, b"/etc/nsswitch.conf")]
    site.write_config(more=heartbeat(f'url = "http://hc.example/{TOKEN}"'))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.9.9.9", 53))
        silent.setblocking(False)
        for path, over in covered:
            mount(os.fsencode(path), over, b"none", MS_BIND)
        try:
            async with site.service() as service:
                await asyncio.get_running_loop().sock_recv(silent, 512)  # a question that is never answered
                nas.unmount()
                await service.wait_for_line("no longer mounted")
                assert await service.end() == 0
        finally:
            for _, over in covered:
                unmount(over)


@pytest.mark.kernel
async def test_over_tls(site: Site) -> None:
    """And what a certificate that nobody vouches for comes to."""
    async with HeartbeatReceiver(TOKEN, name="localhost") as receiver:
        site.write_config(more=heartbeat(f'url = "{receiver.url}"'))
        async with site.service(env={"SSL_CERT_FILE": receiver.ca_file}) as service:
            await receiver.wait_for(2)
            assert await service.end() == 0
        async with site.service() as service:
            line = await service.wait_for_line("the heartbeat does not get through")
            assert line.endswith("does not get through: its certificate is not accepted (it goes on trying)")
            assert await service.end() == 0
        assert TOKEN not in service.log


# ---- its parts


async def test_it_pauses_while_the_watcher_is_not_healthy(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "watcher")
    healthy, asked = False, anyio.Event()

    def verdict() -> Verdict:
        asked.set()
        return Verdict(healthy, () if healthy else ("the mount table was never read",))

    async with HeartbeatReceiver() as receiver, anyio.create_task_group() as tasks:
        beat = Heartbeat(verdict)

        async def url() -> str:
            return receiver.url

        beat.configure(url, 0.05)
        tasks.start_soon(beat.run)
        for _ in range(3):
            asked = anyio.Event()
            await asked.wait()
        assert receiver.attempts == 0
        healthy = True
        await receiver.wait_for(2)
        healthy = False
        asked = anyio.Event()
        await asked.wait()
        beat.configure(None, 0.05)
        tasks.cancel_scope.cancel()
    said = [record.message for record in caplog.records if record.name.startswith("watcher.")]
    assert said == [
        "the heartbeat pauses: the mount table was never read",
        "the heartbeat goes on",
        "the heartbeat pauses: the mount table was never read",
    ]


@pytest.mark.once
async def test_every_way_to_fail_is_put_in_words_without_the_url() -> None:
    pinger = Pinger()
    async with HeartbeatReceiver(TOKEN) as receiver:
        assert await pinger.ping(receiver.url) == ""
        assert await pinger.ping(receiver.url + "x") == "HTTP 404"
        receiver.fail(503)
        assert await pinger.ping(receiver.url) == "HTTP 503"
    assert await pinger.ping(receiver.url) == "Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(content: bytes) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(content)

        port = server.getsockname()[1]
        for content in (b"", b"nonsense\r\n\r\n", b"HTTP/1.1 302 x\r\nLocation: " + b"x" * 9000 + b"\r\n\r\n"):
            thread = threading.Thread(target=answer, args=(content,))
            thread.start()
            words = await pinger.ping(f"http://127.0.0.1:{port}/{TOKEN}")
            thread.join()
            assert words
            assert TOKEN not in words
            assert str(port) not in words
    for url in (f"http://[::1/{TOKEN}", f"http://127.0.0.1:99999/{TOKEN}", f"http://x..y/{TOKEN}"):
        words = await pinger.ping(url)
        assert words
        assert TOKEN not in words


async def test_a_look_up_that_hangs_is_not_repeated_beside_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    release, calls = threading.Event(), []

    def hangs(*arguments: object, **options: object) -> list[object]:
        calls.append(arguments)
        release.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    resolver = Resolver()
    with anyio.move_on_after(0.05):
        await resolver.resolve("hc.example", 443)
    with pytest.raises(OSError, match="still hangs"):
        await resolver.resolve("hc.example", 443)
    assert len(calls) == 1
    release.set()
    async with asyncio.timeout(LIMIT):
        while True:
            try:
                assert await resolver.resolve("hc.example", 443) == []
                break
            except OSError:
                await asyncio.sleep(0.01)  # the thread has not ended yet
