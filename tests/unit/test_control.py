from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest

from watcher import control
from watcher.control import Answer, NoAnswer, Unreachable, ask
from watcher.overview import watch
from watcher.quieting import moment_of

NOW = datetime.fromisoformat("2026-11-20T15:04:05")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:30", "2026-11-20 18:30"),
        ("15:05", "2026-11-20 15:05"),
        ("15:04", "2026-11-21 15:04"),  # has been, today
        ("6:00", "2026-11-21 06:00"),
        ("00:00", "2026-11-21 00:00"),
        ("24:00", "2026-11-21 00:00"),
        ("2026-11-20 18:30", "2026-11-20 18:30"),
        ("2026-12-24T18:30", "2026-12-24 18:30"),
        ("2026-12-24", "2026-12-24 00:00"),
    ],
)
def test_moments_are_local_and_to_come(text: str, moment: str) -> None:
    found = moment_of(text, NOW)
    assert f"{found:%Y-%m-%d %H:%M}" == moment
    assert found.tzinfo is not None


def test_a_moment_may_bring_its_zone() -> None:
    assert moment_of("2026-11-20T18:30:00Z", NOW).timestamp() == 1_795_199_400.0


@pytest.mark.parametrize("text", ["", "noon", "25:00", "2h", "18.30", "2026-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r'is not a time of day; write one such as "01:00" or "18:30" or "2026-11-20'):
        moment_of(text, NOW)


# ---- what it is asked while it goes on


def test_a_thousand_changes_are_not_a_thousand_times_the_list(
    listening: socket.socket, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    kinds = ["hello", *["change"] * 1000, "summary"]
    bodies = {
        "/api/v1/events": "".join(f"event: {kind}\ndata: {{}}\n\n" for kind in kinds),
        "/api/v1/mounts": json.dumps({"at": "2026-11-20T15:04:05Z", "status": "watching 0 mounts", "mounts": []}),
    }

    def serve() -> None:
        for _ in range(3):
            connection, _ = listening.accept()
            with connection:
                path = connection.recv(65536).split()[1].decode()
                asked.append(path)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(bodies[path])}\r\n\r\n"
                connection.sendall((head + bodies[path]).encode())

    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes what comes for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(control, "ANSWER_LIMIT", 5.0)
    serving = threading.Thread(target=serve)
    serving.start()
    with pytest.raises(Unreachable, match="the service has ended"):
        watch(listening.getsockname(), as_json=False, say=print)
    serving.join()
    assert asked == ["/api/v1/events", "/api/v1/mounts", "/api/v1/mounts"]
    assert "15:04:05" in capsys.readouterr().out


# ---- a service that is busy: the queue of those who wait for it is full


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.settimeout(60)
        listening.bind(str(tmp_path / "sock"))
        listening.listen(1)
        yield listening


def fill(queue: socket.socket) -> list[socket.socket]:
    waiting: list[socket.socket] = []
    while True:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        try:
            one.connect(queue.getsockname())
        except BlockingIOError:
            one.close()
            return waiting
        waiting.append(one)


def test_who_finds_the_queue_full_waits_for_the_limit_first(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ANSWER_LIMIT", 0.25)
    waiting = fill(listening)
    assert waiting
    with pytest.raises(NoAnswer, match=r"does not answer within 0\.25 s"):
        ask(listening.getsockname(), "GET", "health")
    for one in waiting:
        one.close()


def test_who_finds_the_queue_full_is_answered_when_it_is_his_turn(listening: socket.socket) -> None:
    found: list[Answer] = []
    waiting = fill(listening)
    asking = threading.Thread(target=lambda: found.append(ask(listening.getsockname(), "GET", "health")))
    asking.start()
    for one in waiting:
        one.close()
    answered = False
    while not answered:
        connection, _ = listening.accept()
        with connection, suppress(BrokenPipeError):
            if connection.recv(1000):
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n{"healthy": true}')
                answered = True
    asking.join(60)
    assert found == [Answer(200, {"healthy": True})]
