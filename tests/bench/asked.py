"""The service while it is asked: by Prometheus, and by people who look on."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from tests.bench import gauges
from tests.bench.report import Row, Section, megabytes, nothing, percent, seconds
from tests.bench.service import LIMIT, configuration, running
from tests.bench.stage import Stage

READERS = 50
SHARE = 2.0  # percent of a core: the most that all who ask may cost


class _Connection(http.client.HTTPConnection):
    """To a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT)
        self._path = path

    def connect(self) -> None:
        self.sock = self.line = socket.socket(socket.AF_UNIX)
        self.line.settimeout(LIMIT)
        self.line.connect(str(self._path))

    def ask(self, target: str) -> http.client.HTTPResponse:
        self.request("GET", target)
        return self.getresponse()


class Scrapes:
    """What came of them."""

    def __init__(self, path: Path) -> None:
        self.took: list[float] = []  # seconds, from the question to the last byte
        self.size = 0  # bytes of the last answer
        self._path = path

    def once(self) -> None:
        began = time.perf_counter()
        connection = _Connection(self._path)
        response = connection.ask("/metrics")
        self.size = len(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"/metrics: {response.status}")
        self.took.append(time.perf_counter() - began)

    @contextmanager
    def each_second(self) -> Iterator[None]:
        """In a thread, for as long as the block lasts."""
        over = threading.Event()

        def run() -> None:
            due = time.monotonic()
            while not over.wait(max(0.0, due - time.monotonic())):
                due += 1.0
                self.once()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextmanager
def readers(path: Path, count: int) -> Iterator[bool]:
    """So many who follow the events for as long as the block lasts; False if the service has none."""
    connections = [_Connection(path) for _ in range(count)]
    responses = [connection.ask("/api/v1/events") for connection in connections]
    has_events = all(response.status == 200 for response in responses)

    def follow(response: http.client.HTTPResponse) -> None:
        with suppress(http.client.IncompleteRead):  # ended by us, within the stream
            while response.read1(1 << 16):
                pass

    threads = [threading.Thread(target=follow, args=(response,)) for response in responses]
    for thread in threads:
        thread.start()
    try:
        yield has_events
        if has_events and not all(thread.is_alive() for thread in threads):
            raise RuntimeError("not all could follow the events to the end")
    finally:
        for connection in connections:
            with suppress(OSError):
                connection.line.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection, response in zip(connections, responses, strict=True):
            response.close()
            connection.line.close()


def section(stage: Stage, count: int, duration: float) -> Section:
    mounts = stage.mounts(count)
    config = configuration(stage)
    path = config.with_name("sock")
    with running(config, mounts) as pid:
        alone, before = _share(pid, duration), gauges.memory(pid, "VmRSS")
        Scrapes(path).once()
        after, scrapes = gauges.memory(pid, "VmRSS"), Scrapes(path)
        with scrapes.each_second():
            scraped = _share(pid, duration)
        followed = None
        with readers(path, READERS) as has_events:
            if has_events:
                with Scrapes(path).each_second():
                    followed = _share(pid, duration)
    share = percent(SHARE)
    rows = [
        Row("processor time, of one core, with children", percent(alone)),
        Row("one scrape a second: more than that", percent(scraped - alone), target=share),
        Row(
            f"the same, and {READERS} follow the events",
            nothing("it has none") if followed is None else percent(followed - alone),
            target=share,
        ),
        Row("a scrape (median)", seconds(median(scrapes.took))),
        Row("a scrape: size", megabytes(scrapes.size)),
        Row("resident memory before the first scrape, socket not asked yet", megabytes(before)),
        Row("after it", megabytes(after)),
    ]
    return f"The service asked, {count} mounts, over {duration:g} s", rows


def _share(pid: int, duration: float) -> float:
    """Percent of one core that it uses in so many seconds, with its children."""
    began, cpu = time.monotonic(), gauges.cpu_of(pid)
    time.sleep(duration)
    return 100 * (gauges.cpu_of(pid) - cpu) / (time.monotonic() - began)
