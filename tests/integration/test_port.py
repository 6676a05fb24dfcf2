"""The port: who may ask through it, and that nobody there can disturb the watching."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
import socket
from contextlib import suppress
from typing import Any, cast

import pytest

from tests.fakes.fuse import fails
from tests.fakes.ports import free_port
from tests.integration.asking import Address, Reply, connect, events, request, send
from tests.integration.service import LIMIT, POLL, Service, Site
from tests.integration.test_feed import Bare
from watcher.status import connections
from watcher.status.answers import Service as StatusService
from watcher.status.api import Api
from watcher.status.connections import MAX_CONNECTIONS, MAX_REFUSALS, Connection

pytestmark = pytest.mark.kernel

TOKEN = "0123456789abcdef0123456789abcdef"
JSON = {"Content-Type": "application/json"}


def listening_on(site: Site, listen: str, *more: str, **options: Any) -> None:
    """A configuration whose [status] has these lines, too."""
    text = site.config_text(**options)
    lines = "\n".join([f'listen = "{listen}"', *more])
    site.write(site.config, text.replace("[status]\n", f"[status]\n{lines}\n"))


async def serving(service: Service, port: int) -> None:
    await service.wait_for_line(f"answering on http://.*:{port}$")
    await service.wait_serving()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_whoever_is_on_this_machine_may_ask_and_no_page_of_a_stranger(site: Site, host: str) -> None:
    nas = site.mount("nas")
    port = free_port(host)
    listening_on(site, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 'hosts = ["pve.example.org"]')
    own = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    async with site.service() as service:
        await serving(service, port)
        await service.wait_for_line(f"watching {nas.mount_point}")
        address = (host, port)
        for name in (own, f"localhost:{port}", socket.gethostname(), "pve.example.org"):
            assert (await request(address, "GET", "/api/v1/mounts", headers={"Host": name})).status == 200, name
        reply = await request(address, "GET", "/api/v1/mounts", headers={"Host": "evil.example.org"})
        assert reply.status == 403
        assert reply.json["detail"].startswith("this is not the name of this machine")
        assert (await send(address, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 403
        good = {"Origin": f"http://localhost:{port}", "Host": f"localhost:{port}"}
        reply = await request(address, "GET", "/api/v1/mounts", headers=good)
        assert reply.status == 200
        assert "access-control-allow-origin" not in reply.headers
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("default-src 'none';")
        assert (reply.headers["cache-control"], reply.headers["server"]) == ("no-store", "mountwatch")
        evil = good | {"Origin": "http://evil.example.org"}
        for method, path in (("GET", "/api/v1/mounts"), ("POST", f"/api/v1/probe?mount={nas.mount_point}")):
            assert (await request(address, method, path, headers=evil | JSON)).status == 403
        path, plain = f"/api/v1/probe?mount={nas.mount_point}", {"Content-Type": "text/plain"}
        assert (await request(address, "POST", path, headers=plain)).status == 415
        assert (await request(address, "POST", path, headers=JSON)).status == 202
        silence = json.dumps({"mounts": ["/mnt/*"], "duration": "2h"}).encode()
        assert (await request(address, "POST", "/api/v1/silences", silence, headers=plain)).status == 415
        assert (await request(address, "OPTIONS", "/api/v1/silences", headers=evil)).status == 403
        async with events(address) as stream:
            assert (await stream.next()).kind == "hello"
        assert await service.end() == 0
        assert not service.found("ERROR|Traceback")


async def test_with_a_token_only_who_has_it(site: Site) -> None:
    port, token = free_port(), site.path / "token"
    listening_on(site, f"0.0.0.0:{port}", f'token_file = "{token}"')
    outcome = await site.run("check-config")
    assert outcome.code == 3
    assert f"[status] token_file: {token}: No such file or directory; make one: (umask 077; openssl" in outcome.err
    async with site.service() as service:  # never without its token; and the socket is there all the same
        await service.wait_for_line(f"ERROR .*token_file: {token}: .*; not listening on 0.0.0.0:{port}")
        await service.wait_serving()
        assert (await site.run("health")).code == 0
        with pytest.raises(ConnectionRefusedError):
            await connect(("127.0.0.1", port))
        assert await service.end() == 0
    site.write(token, f"{TOKEN}\n", mode=0o644)
    outcome = await site.run("check-config")
    assert outcome.code == 0, outcome
    assert f"{token}: holds a secret token, and every user can read it; chmod 600" in outcome.out
    assert TOKEN not in outcome.out
    async with site.service() as service:
        await serving(service, port)
        address = ("127.0.0.1", port)
        reply = await request(address, "GET", "/api/v1/mounts")
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert (await request(address, "GET", "/api/v1/mounts", headers={"Authorization": "Bearer x"})).status == 401
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert (await request(address, "GET", "/api/v1/mounts", headers=known)).status == 200
        assert (await request(address, "GET", "/healthz")).body == b"ok\n"
        assert (await request(address, "GET", "/api/v1/mounts", headers=known | {"Host": "evil.org"})).status == 403
        assert (await site.run("status")).code == 0  # through the socket as ever

        # Another token counts from when it is written, also to who follows the events; none at all opens nothing.
        async with events(address, headers=known) as stream:
            assert (await stream.next()).kind == "hello"
            await service.wait_for_edits_to_count(files=2)
            site.write(token, f"{TOKEN[::-1]}\n")
            await service.wait_for_line("token_file: there is another token")
            with pytest.raises((EOFError, ConnectionError)):
                await stream.next("of a kind that never comes")
        anew = {"Authorization": f"Bearer {TOKEN[::-1]}"}
        for count, content in enumerate(("", None, f"{TOKEN}\n{TOKEN}\n"), 1):
            if content is None:
                token.unlink()
            else:
                site.write(token, content)
            await service.wait_for_line(f"ERROR .*token_file: {token}: .*; the token stays as it was", count)
            for headers, status in (({}, 401), ({"Authorization": "Bearer "}, 401), (known, 401), (anew, 200)):
                assert (await request(address, "GET", "/api/v1/mounts", headers=headers)).status == status
        site.write(token, f"{TOKEN}\n")
        service.send(signal.SIGHUP)
        await service.wait_for_line("token_file: there is another token", 2)
        assert (await request(address, "GET", "/api/v1/mounts", headers=known)).status == 200
        assert not service.found(f"{TOKEN}|{TOKEN[::-1]}")
        assert await service.end() == 0


async def test_beyond_this_machine_not_without_a_token(site: Site) -> None:
    listening_on(site, "0.0.0.0:9199")
    outcome = await site.run("check-config")
    assert outcome == (
        3,
        "",
        f'watcher: {site.config}: [status] listen: "0.0.0.0:9199" can be reached by other machines; '
        'add a token_file, or write "127.0.0.1:9199"\n',
    )


async def test_a_port_that_is_taken_is_done_without(site: Site) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listening_on(site, f"127.0.0.1:{other.getsockname()[1]}")
        async with site.service() as service:
            await service.wait_for_line(r"ERROR \[status\] listen: 127.0.0.1:\d+: Address already in use; going on")
            await service.wait_serving()
            assert (await site.run("health")).code == 0
            assert await service.end() == 0


# ---- a storm

BAD = [
    (b"nonsense\r\n\r\n", {400}),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, {400}),  # who speaks TLS to us
    (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
    (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", {400, 431, 0}),  # 0: reset while we still wrote
]
REQUESTS: list[tuple[str, str, set[int]]] = [
    ("GET", "/../../etc/passwd", {404}),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", {404}),
    ("GET", "/api/v1/mounts/../../../etc/shadow", {404}),
    ("GET", "//etc/passwd", {404}),
    ("TRACE", "/api/v1/mounts", {405}),
    ("CONNECT", "localhost:22", {400, 404, 405}),
    ("DELETE", "/api/v1/mounts", {405}),
    ("PUT", "/api/v1/probe", {405}),
    ("GET", "/api/v1/probe", {405}),
    ("HEAD", "/api/v1/events", {405}),
    ("GET", "/api/v1/mounts?on=", {422}),
    ("GET", "/api/v1/mounts?on=/x&on=/y", {400}),
    ("GET", "/api/v1/mounts?id=x&on=/y", {400}),
    ("GET", "/api/v1/mounts?" + "a=b&" * 1000, {400}),
    ("GET", "/api/v1/mounts?id=%00%ff%0a", {404}),
    ("GET", "/api/v1/history?since=soon", {422}),
    ("GET", "/api/v1/history?since=0001-01-01T00:00:00%2B14:00", {200, 422}),
    ("GET", "/api/v1/history?since=99999999999999999999d", {200, 422}),
    ("GET", "/api/v1/history?limit=0", {422}),
    ("GET", "/api/v1/history?limit=1001", {422}),
    ("GET", "/api/v1/history?limit=%C2%B2", {422}),
    ("GET", "/api/v1/history?limit=-1", {422}),
    ("GET", "/api/v1/history?x=y", {400}),
    ("GET", "/api/v1/incidents?x=y", {400}),
    ("GET", "/api/v1/channels?x", {400}),
    ("GET", "/api/v1/events?x=y", {400}),
    ("POST", "/api/v1/probe", {400}),
    ("POST", "/api/v1/probe?mount=", {400}),
    ("POST", "/api/v1/probe?mount=/nowhere", {404}),
    ("POST", "/api/v1/probe?mount=" + "/x" * 3000, {422}),
    ("POST", "/api/v1/probe?mount=%ff%00", {404}),
]


def is_problem(reply: Reply) -> bool:
    return (
        reply.headers["content-type"] == "application/problem+json; charset=utf-8"
        and reply.json["status"] == reply.status
        and bool(reply.json["detail"])
    )


async def half_a_request(address: Address) -> int:
    """Who begins, and never ends: the status that it comes to; 0 for a reset."""
    with suppress(OSError):
        return (await send(address, b"GET /api/v1/mounts HTTP/1.1\r\nHost: local")).status
    return 0


async def test_of_a_crowd_that_goes_on_most_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # With a descriptor for each of them none would be left for probes, tables and the other door.
    monkeypatch.setattr(connections, "REFUSAL_LIMIT", 10 * LIMIT)
    api = Api(cast(StatusService, Bare()))
    await api.start()
    server = await asyncio.get_running_loop().create_server(api.connections(None), "127.0.0.1", 0)
    address: Address = server.sockets[0].getsockname()
    crowd = [await connect(address) for _ in range(MAX_CONNECTIONS + MAX_REFUSALS + 100)]
    said = []
    for reader, _ in crowd[MAX_CONNECTIONS:]:
        with suppress(ConnectionResetError):
            async with asyncio.timeout(LIMIT):
                said.append(await reader.readline())
    assert said.count(b"HTTP/1.1 503 Service Unavailable\r\n") == MAX_REFUSALS
    for _, writer in crowd:
        writer.close()
    server.close()
    await api.close()


async def test_what_is_asked_ahead_does_not_pile_up() -> None:
    # Else what one client sends within its 20 s is gigabytes of requests that wait.
    api = Api(cast(StatusService, Bare()))
    await api.start()
    made: list[Connection] = []

    def make() -> asyncio.Protocol:
        connection = door()
        assert isinstance(connection, Connection)
        made.append(connection)
        return connection

    door = api.connections(None)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    address: Address = server.sockets[0].getsockname()
    reader, writer = await connect(address)
    writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    most = 0
    with suppress(ConnectionResetError):  # with aiohttp 3.11; a later one lets them wait in the kernel
        async with asyncio.timeout(LIMIT):
            while await reader.readline():
                most = max(most, len(made[0]._messages))
                if most and not made[0]._messages:
                    break
    writer.close()
    server.close()
    await api.close()
    assert most <= 64


async def test_a_connection_that_is_kept_open_ends_with_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(cast(StatusService, Bare()))
    await api.start()
    server = await asyncio.get_running_loop().create_server(api.connections(None), "127.0.0.1", 0)
    address: Address = server.sockets[0].getsockname()
    reader, writer = await connect(address)
    async with asyncio.timeout(LIMIT):
        for age in (LIMIT, LIMIT, -1):
            monkeypatch.setattr(connections, "LAST_ANSWER", age)
            writer.write(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert (b"\r\nConnection: close\r\n" in head) is (age == -1)  # so that nothing is asked over it any more
            await reader.readuntil(b"}\n")
        assert await reader.read() == b""
    writer.close()
    server.close()
    await api.close()


async def test_a_storm_of_bad_clients_disturbs_nothing(site: Site) -> None:
    nas, other = site.mount("nas"), site.mount("other", source="nas02:/x")
    port = free_port()
    listening_on(site, f"127.0.0.1:{port}", interval="1s")
    address: Address = ("127.0.0.1", port)

    async def mounts() -> dict[str, Any]:
        reply = await request(site, "GET", "/api/v1/mounts")
        assert reply.status == 200
        return {m["target"]: m for m in reply.json["mounts"]}

    async with site.service() as service:
        await serving(service, port)
        await service.wait_for_line(f"watching {nas.mount_point}")
        for method, path, statuses in REQUESTS:
            reply = await request(address, method, path, headers=JSON)
            assert reply.status in statuses, (method, path, reply.status, reply.body)
            assert reply.status == 200 or method == "HEAD" or is_problem(reply), (method, path, reply.body)
        for raw, statuses in BAD:
            with suppress(ConnectionResetError, BrokenPipeError):
                reply = await send(address, raw)
                assert reply.status in statuses, (raw[:40], reply.status)
                assert not reply.status or is_problem(reply)
        expecting = {"Expect": "miracles"} | JSON
        assert is_problem(await request(address, "POST", "/api/v1/silences", b"{}", headers=expecting))

        # ---- fifty who listen and never read, beside a scrape
        silent = [await connect(address) for _ in range(50)]
        for _, writer in silent:
            writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for reader, _ in silent:
            async with asyncio.timeout(LIMIT):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert (await request(address, "GET", "/api/v1/mounts")).status == 200

        # ---- a thousand at once, while probes go on
        while (before := (await mounts())[other.mount_point]["probes"]) == 0:
            await asyncio.sleep(POLL)
        crowd = [asyncio.create_task(half_a_request(address)) for _ in range(1000)]
        nas.set(fails(errno.EIO))
        await service.wait_for_line(f"stale: {nas.mount_point} ")  # seen all the same
        async with asyncio.timeout(LIMIT):
            while (await mounts())[other.mount_point]["probes"] < before + 5:
                assert (await request(site, "GET", "/api/v1/health")).status == 200
                await asyncio.sleep(POLL)
        async with asyncio.timeout(LIMIT):
            while sum(each.done() for each in crowd) < 1000 - MAX_CONNECTIONS:  # these were turned away
                await asyncio.wait([each for each in crowd if not each.done()], return_when=asyncio.FIRST_COMPLETED)
        assert {each.result() for each in crowd if each.done()} <= {408, 503, 0}
        for each in crowd:
            each.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
        assert (await request(address, "GET", "/api/v1/mounts")).status == 200
        for _, writer in silent:
            writer.close()
        assert await service.end() == 0
        assert not service.found("ERROR|Traceback")
