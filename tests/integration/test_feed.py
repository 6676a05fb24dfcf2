"""Who follows the events and does not keep up is dropped, and holds nobody else up."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from tests.integration.service import LIMIT
from watcher.status.answers import Service
from watcher.status.api import Api
from watcher.status.feed import MAX_WAITING, Feed, Listener, event_text


def test_a_queue_has_an_end() -> None:
    feed, dropped = Feed(), list[str]()
    slow, quick = Listener(lambda: dropped.append("slow")), Listener(lambda: dropped.append("quick"))
    feed.join(slow)
    for _ in range(4):
        feed.tell(b"x" * (MAX_WAITING // 4))
    feed.join(quick)
    assert (dropped, len(feed)) == ([], 2)
    feed.tell(b"x")
    assert (dropped, len(feed)) == (["slow"], 1)


async def test_what_has_been_taken_waits_no_more() -> None:
    feed, dropped = Feed(), list[str]()
    listener = Listener(lambda: dropped.append("quick"))
    feed.join(listener)
    for _ in range(10):
        feed.tell(b"x" * (MAX_WAITING // 2))
        assert await listener.next()
    assert (dropped, len(feed)) == ([], 1)


async def test_when_a_server_dies_with_a_thousand_mounts_who_reads_is_told_of_each() -> None:
    feed, dropped = Feed(), list[str]()
    listener = Listener(lambda: dropped.append("quick"))
    feed.join(listener)
    for number in range(1000):  # in one turn of the loop
        feed.change(lambda number=number: {"place": f"/mnt/{number}", "error": "x" * 300})  # type: ignore[misc]
    assert dropped == []
    assert [b"id: %d\n" % n in await listener.next() for n in range(1, 1001)] == [True] * 1000


def test_nothing_is_put_into_words_while_nobody_listens() -> None:
    feed = Feed()
    feed.change(lambda: 1 / 0)  # type: ignore[arg-type, return-value]
    assert feed.changed.is_set()


def test_an_event_is_one_event_whatever_is_in_it() -> None:
    text = event_text("change", {"source": "a\n\nevent: x\r\u2028\udc80"}, number=7)
    assert text == b'id: 7\nevent: change\ndata: {"source": "a\\n\\nevent: x\\r\\u2028\\udc80"}\n\n'


class Bare:
    """As much of a service as the events need."""

    host, version = "pve1", "1"

    def __init__(self) -> None:
        self.feed = Feed()

    def status(self) -> str:
        return "all is well"

    def counts(self) -> dict[str, int]:
        return {"ok": 1}


async def test_who_does_not_read_is_dropped_and_who_reads_is_told_all() -> None:
    service = Bare()
    api = Api(cast(Service, service))
    await api.start()
    server = await asyncio.get_running_loop().create_server(api.connections(None), "127.0.0.1", 0)
    address: Any = server.sockets[0].getsockname()
    quick_reader, quick = await asyncio.open_connection(*address)
    sleepy = socket.socket()
    sleepy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sleepy.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sleepy, address)
    _, slow = await asyncio.open_connection(sock=sleepy, limit=1)
    for writer in (quick, slow):
        writer.write(b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n")
    async with asyncio.timeout(LIMIT):
        while len(service.feed) < 2:
            await asyncio.sleep(0)
        slow.transport.pause_reading()  # type: ignore[attr-defined]
        number, told = 0, 0
        while len(service.feed) == 2:
            service.feed.change(lambda: {"text": "x" * 60_000})
            number += 1
            while told < number:  # the quick one keeps up, whatever the other does
                told += (await quick_reader.readline()).startswith(b"event: change")
                assert not quick_reader.at_eof()
        assert len(service.feed) == 1
        quick.close()
        while len(service.feed):  # who has gone is let go at once
            await asyncio.sleep(0)
    slow.close()
    server.close()
    await api.close()
