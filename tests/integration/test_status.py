"""The service's socket: whose it is, that one service is behind it, and what hostile requests come to."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.integration.asking import request, send
from tests.integration.service import LIMIT, Service, Site

pytestmark = pytest.mark.kernel


async def listening(service: Service, site: Site) -> None:
    await service.wait_serving()
    await service.wait_until(site.socket.exists, "it listens")


# ---- whose it is


async def test_the_socket_is_roots_alone_and_goes_with_the_service(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await listening(service, site)
        assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
        assert (await site.run("health")).code == 0
        assert await service.end() == 0
        assert not site.socket.exists()


@pytest.mark.once
async def test_a_socket_that_was_left_behind_is_replaced(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await listening(service, site)
        assert await service.end(signal.SIGKILL) == -signal.SIGKILL
    assert site.socket.exists()
    async with site.service() as service:
        await service.wait_serving()
        await service.wait_until(lambda: site.socket.exists(), "it listens")
        assert (await site.run("health")).code == 0
        assert not service.found("WARNING (?!no channel)|ERROR")
        assert await service.end() == 0


@pytest.mark.once
@pytest.mark.parametrize("other", [None, ""])
async def test_a_second_service_is_refused(site: Site, other: str | None) -> None:
    site.write_config(socket=other)
    async with site.service() as first:
        await first.wait_serving()
        async with site.service() as second:
            assert await second.wait_end() == 3
            assert second.found(rf"ERROR another watcher runs already \(pid {first.pid}\), and holds .*watcher\.lock")
        assert site.socket.exists() is (other is None)
        if other is None:
            assert (await site.run("health")).code == 0
        assert await first.end() == 0


@pytest.mark.once
async def test_of_many_that_start_at_once_one_runs(site: Site) -> None:
    site.write_config()
    services = [site.service() for _ in range(5)]
    for service in services:
        await service.__aenter__()
    try:
        ends = [asyncio.create_task(service.wait_end()) for service in services]
        async with asyncio.timeout(LIMIT):
            while sum(end.done() for end in ends) < len(ends) - 1:
                await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        assert [end.result() for end in ends if end.done()] == [3] * (len(ends) - 1)
        [left] = [service for service, end in zip(services, ends, strict=True) if not end.done()]
        assert (await site.run("health")).code == 0
        assert await left.end() == 0
        await asyncio.gather(*ends)
    finally:
        for service in services:
            await service.__aexit__(None, None, None)


@pytest.mark.once
async def test_another_configuration_with_the_same_socket_is_refused_too(site: Site) -> None:
    other = site.path / "other.toml"
    site.write_config()
    site.write(other, site.config_text(state="other", socket=str(site.socket)))
    async with site.service() as first:
        await listening(first, site)
        async with site.service(config=other) as second:
            assert await second.wait_end() == 3
            assert second.found(r"another watcher runs already .*watcher\.sock\.lock")
        assert await first.end() == 0


@pytest.mark.once
async def test_another_process_on_the_socket_is_not_pushed_aside(site: Site) -> None:
    site.write_config()
    site.socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(site.socket))
        foreign.listen()
        async with site.service() as service:
            assert await service.wait_end() == 3
            assert service.found(f"ERROR another process listens on {site.socket}; stop it first")
        assert site.socket.exists()


def not_a_socket(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("precious")


def of_others(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 12345, -1)


def open_to_others(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.chmod(0o777)


def not_a_directory(path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    path.parent.write_text("precious")


@pytest.mark.once
@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        (not_a_socket, "is there, but is no socket; remove it"),
        (of_others, "belongs to user 12345"),
        (open_to_others, "others can write to .*; chmod go-w"),
        (not_a_directory, "File exists|Not a directory"),
    ],
)
async def test_where_it_cannot_listen_it_says_so_and_watches(site: Site, arrange: Any, words: str) -> None:
    nas = site.mount("nas")
    arrange(site.socket)
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line(rf"ERROR {site.socket}: .*({words})")
        await service.wait_for_line(f"watching {nas.mount_point}")
        assert (await site.run("health")).code == 3
        assert await service.end() == 0


# ---- health


@pytest.mark.once
async def test_health(site: Site) -> None:
    site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line("watching .*/nas")
        await listening(service, site)
        outcome = await site.run("health")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.startswith("healthy: watching 1 mount")
        said = json.loads((await site.run("health", "--json")).out)
        assert (said["healthy"], said["reasons"], said["mounts"], said["pid"]) == (True, [], 1, service.pid)
        service.send(signal.SIGSTOP)
        outcome = await site.run("health")
        service.send(signal.SIGCONT)
        assert outcome.code == 1
        assert outcome.out.startswith("UNHEALTHY: the service does not answer within 10 s")
        assert (await site.run("health")).code == 0
        assert await service.end() == 0


async def test_nothing_is_loaded_for_the_socket_until_somebody_asks(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await listening(service, site)

        def loaded() -> bool:
            return "aiohttp" in Path(f"/proc/{service.pid}/maps").read_text()

        assert not loaded()
        assert (await site.run("health")).code == 0
        assert loaded()
        assert await service.end() == 0


# ---- hostile requests

GOOD = json.dumps({"mounts": ["/mnt/*"], "duration": "2h"}).encode()


def silence(**changes: Any) -> bytes:
    return json.dumps({"mounts": ["/mnt/*"], "duration": "2h"} | changes).encode()


REQUESTS: list[tuple[str, str, bytes, int]] = [
    ("GET", "/nothing", b"", 404),
    ("POST", "/", b"", 405),
    ("GET", "/api/v1/silences/abcd", b"", 405),
    ("GET", "/api/v1/../../etc/passwd", b"", 404),
    ("PUT", "/api/v1/silences", GOOD, 405),
    ("POST", "/api/v1/health", b"", 405),
    ("DELETE", "/api/v1/silences", b"", 405),
    ("DELETE", "/api/v1/silences/nope", b"", 404),
    ("DELETE", "/api/v1/silences/%00%ff", b"", 404),
    ("PATCH", "/api/v1/silences", b"", 405),
    ("POST", "/api/v1/silences", b"", 400),
    ("POST", "/api/v1/silences", b"{", 400),
    ("POST", "/api/v1/silences", b"\xff\xfe", 400),
    ("POST", "/api/v1/silences", b"[" * 60_000, 400),
    ("POST", "/api/v1/silences", b"9" * 60_000, 400),
    ("POST", "/api/v1/silences", b"[]", 422),
    ("POST", "/api/v1/silences", b"null", 422),
    ("POST", "/api/v1/silences", silence(mounts=[]), 422),
    ("POST", "/api/v1/silences", silence(mounts="/mnt/*"), 422),
    ("POST", "/api/v1/silences", silence(mounts=[1]), 422),
    ("POST", "/api/v1/silences", silence(mounts=["/x"] * 101), 422),
    ("POST", "/api/v1/silences", silence(mounts=["/" + "x" * 5000]), 422),
    ("POST", "/api/v1/silences", silence(mounts=["nas01"]), 422),
    ("POST", "/api/v1/silences", silence(duration=7200), 422),
    ("POST", "/api/v1/silences", silence(duration="1e9"), 422),
    ("POST", "/api/v1/silences", silence(duration="9" * 30 + "d"), 422),
    ("POST", "/api/v1/silences", silence(ends="2999-01-01T00:00:00Z"), 422),
    ("POST", "/api/v1/silences", silence(duration=None), 422),
    ("POST", "/api/v1/silences", silence(duration=None, ends="2999-01-01T00:00:00Z"), 422),
    ("POST", "/api/v1/silences", silence(duration=None, ends="2027-01-01T00:00:00"), 422),
    ("POST", "/api/v1/silences", silence(duration=None, ends="0001-01-01T00:00:00+14:00"), 422),
    ("POST", "/api/v1/silences", silence(comment="x" * 501), 422),
    ("POST", "/api/v1/silences", silence(comment="half of \ud83d"), 422),
    ("POST", "/api/v1/silences", silence(coment="x"), 422),
    ("POST", "/api/v1/silences", b" " * 100_000, 413),
]
BROKEN = [
    b"nonsense\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\0" * 100,
]


async def test_hostile_requests_are_refused_and_disturb_nothing(site: Site) -> None:
    nas = site.mount("nas")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line(f"watching {nas.mount_point}")
        await listening(service, site)
        for method, path, body, status in REQUESTS:
            reply = await request(site, method, path, body)
            assert reply.status == status, (method, path, body[:60], reply.status, reply.body)
            assert reply.headers["content-type"] == "application/problem+json; charset=utf-8"
            said = reply.json
            assert (said["status"], said["type"]) == (status, "about:blank")
            assert said["title"]
            assert said["detail"]
            assert ("allow" in reply.headers) is (status == 405)
        for raw in BROKEN:
            reply = await send(site, raw)
            assert (reply.status, reply.json["status"]) == (400, 400)
            assert reply.headers["server"] == "mountwatch"  # and not which versions
        headers = {"Content-Encoding": "gzip"}
        reply = await request(site, "POST", "/api/v1/silences", gzip.compress(silence()), headers)
        assert reply.status == 400  # it is not unpacked: a little of it may be a lot
        reply = await request(site, "POST", "/api/v1/silences", b" " * 1_000_000)
        assert (reply.status, reply.json["detail"]) == (413, "a request has 131072 bytes at most")
        too_long = (
            b"POST /api/v1/silences HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        reply = await send(
            site, too_long + b"10000\r\n" + b" " * 65536 + b"\r\n" + b"10\r\n" + b" " * 16 + b"\r\n0\r\n\r\n"
        )
        assert reply.status == 413
        assert json.loads((await site.run("silences", "--json")).out)["silences"] == []
        nas.unmount()
        await service.wait_for_line("no longer mounted")
        assert await service.end() == 0
        assert not service.found("ERROR|Traceback")


@pytest.mark.once
async def test_slow_clients_are_given_up_and_too_many_turned_away(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await listening(service, site)
        assert (await site.run("health")).code == 0
        head = b"POST /api/v1/silences HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nConnection: close\r\n\r\n"
        slow_body = asyncio.create_task(send(site, head + b"{"))
        slow_head = [asyncio.create_task(send(site, b"GET /api/v1/health HTTP/1.1\r\nHo")) for _ in range(150)]
        async with asyncio.timeout(2 * LIMIT):
            turned_away = [reply.status for reply in await asyncio.gather(*slow_head)]
            assert set(turned_away) == {408, 503}
            assert turned_away.count(408) >= 120
            reply = await slow_body
        assert reply.status in (408, 503)
        assert (await site.run("health")).code == 0
        assert await service.end() == 0
        assert not service.found("ERROR|Traceback")


async def test_a_client_that_holds_on_does_not_keep_it_from_ending(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await listening(service, site)
        assert (await site.run("health")).code == 0
        _, idle = await asyncio.open_unix_connection(str(site.socket))
        _, busy = await asyncio.open_unix_connection(str(site.socket))
        busy.write(b"POST /api/v1/silences HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        await busy.drain()
        assert await service.end() == 0
        assert re.search("stopping", service.log)
        idle.close()
        busy.close()
