"""`watcher --once` as a person, a cron job and a backup's gate run it: output, exit codes, what it leaves behind."""

from __future__ import annotations

import base64
import errno
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.fuse import ALL_ONES, HANG, MS_BIND, MS_RDONLY, NO_INIT, OK, UNREAD, FuseServer, Mode, Statfs, delayed
from tests.fakes.fuse import fails as errors
from tests.fakes.fuse_server import MS_REMOUNT, mount, unmount
from tests.integration.looking import LIMIT, Command, probe_children, stuck_threads
from watcher import procfs

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]
KEYS = {
    "namespace", "source", "target", "fstype", "options", "readonly", "status", "reachable", "cause", "error",
    "proxmox_managed", "lxc_id", "lxc_name", "lxc_pid", "total_bytes", "used_bytes", "available_bytes",
    "usage_percent", "device", "root", "mount_id", "server", "latency_seconds", "since",
}  # fmt: skip
SUMMARY = {"total", "ok", "readonly", "denied", "stale", "missing", "unknown"}
FRSIZE = 4096


@pytest.fixture
def place(mount_dir: MakeDir, command: Command) -> MakeDir:
    """A function that makes a directory to mount on, below what is watched."""

    def make(name: str | bytes = b"nas") -> bytes:
        return mount_dir(b"mnt/" + os.fsencode(name))

    return make


def utc(text: str) -> datetime:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text), text
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


# ---- JSON


def test_document(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    good = fuse.mount(
        place("good"), source="me@nas01:/export", fstype="fuse.sshfs", statfs=Statfs(1000, 400, 300, FRSIZE)
    )
    dead = fuse.mount(place("dead"), mode=errors(errno.ESTALE), source="something")
    before = datetime.now(UTC).replace(microsecond=0)
    outcome = command.once()
    after = datetime.now(UTC)
    document = outcome.document
    assert outcome.code == 2
    assert set(document) == {"host", "checked_at", "duration_seconds", "summary", "mounts", "capacity", "notes"}
    assert document["host"] == socket.gethostname()
    assert before <= utc(document["checked_at"]) <= after
    assert 0 < document["duration_seconds"] < LIMIT
    assert document["summary"] == dict.fromkeys(SUMMARY, 0) | {"total": 2, "ok": 1, "stale": 1}
    assert [m["target"] for m in document["mounts"]] == [dead.mount_point, good.mount_point]  # worst first
    assert {frozenset(entry) for entry in document["mounts"]} == {frozenset(KEYS)}
    entry = outcome.mount(good.path)
    assert entry | {"latency_seconds": 0, "since": ""} == {
        "namespace": "host",
        "source": "me@nas01:/export",
        "target": good.mount_point,
        "fstype": "fuse.sshfs",
        "options": "rw,nosuid,nodev,relatime,user_id=0,group_id=0",
        "readonly": False,
        "status": "ok",
        "reachable": True,
        "cause": None,
        "error": None,
        "proxmox_managed": False,
        "lxc_id": None,
        "lxc_name": None,
        "lxc_pid": None,
        "total_bytes": 1000 * FRSIZE,
        "used_bytes": 600 * FRSIZE,
        "available_bytes": 300 * FRSIZE,
        "usage_percent": 60.0,
        "device": good.device,
        "root": "/",
        "mount_id": good.mount_id,
        "server": "nas01",
        "latency_seconds": 0,
        "since": "",
    }
    assert 0 < entry["latency_seconds"] < LIMIT
    assert before <= utc(entry["since"]) <= after
    entry = outcome.mount(dead.path)
    assert {k: entry[k] for k in ("status", "reachable", "cause", "error", "server", "total_bytes")} == {
        "status": "stale",
        "reachable": False,
        "cause": "stale_handle",
        "error": "Stale file handle (ESTALE)",
        "server": None,
        "total_bytes": None,
    }
    assert entry["latency_seconds"] is None


def test_nothing_to_watch(command: Command) -> None:
    outcome = command.once()
    assert (outcome.code, outcome.stderr, outcome.document["mounts"]) == (0, "", [])
    assert outcome.document["summary"] == dict.fromkeys(SUMMARY, 0)
    outcome = command.run("--once")
    assert (outcome.code, outcome.stdout) == (0, "No remote or FUSE mounts here.\n")


VERDICTS: list[tuple[Mode, int, str, str | None]] = [
    (OK, 0, "ok", None),
    (delayed(100), 0, "ok", None),
    (HANG, 2, "stale", "timeout"),
    (UNREAD, 2, "stale", "timeout"),
    (NO_INIT, 2, "stale", "timeout"),
    (errors(errno.EIO), 2, "stale", "io_error"),
    (errors(errno.ENOTCONN), 2, "stale", "disconnected"),
    (errors(errno.EHOSTDOWN), 2, "stale", "timeout"),
    (errors(errno.EACCES), 0, "denied", None),
]


def test_verdicts_and_exit_codes(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """Each alone, by --path, and all of them in one document."""
    paths = [fuse.mount(place(f"{n}-end"), mode=mode).path for n, (mode, *_) in enumerate(VERDICTS)]
    outcome = command.once()
    assert outcome.code == 2
    for path, (mode, _, status, cause) in zip(paths, VERDICTS, strict=True):
        entry = outcome.mount(path)
        assert (entry["status"], entry["cause"]) == (status, cause), mode
        assert entry["reachable"] is {"ok": True, "stale": False, "denied": None}[status]
    for path, (mode, code, status, _) in zip(paths, VERDICTS, strict=True):
        if status != "stale" or mode.kind == "errno":  # the silent ones took their second above
            outcome = command.once("--path", os.fsdecode(path))
            assert (outcome.code, outcome.document["summary"]["total"]) == (code, 1), mode


def test_server_killed(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted = fuse.mount(place())
    fuse.kill()
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["cause"]) == (2, "disconnected")


def test_directory_fails_while_statfs_answers(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted = fuse.mount(place())
    mounted.set(errors(errno.EIO), ops=["READDIR"])
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (2, "stale")


def test_error_that_passes_is_tried_again(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted = fuse.mount(place(), mode=errors(errno.EIO))
    with command.start("--once", "--json") as process:
        mounted.wait_seen("STATFS")
        mounted.set(OK)
        stdout, _ = process.communicate(timeout=LIMIT)
    assert (process.returncode, json.loads(stdout)["summary"]["ok"]) == (0, 1)


def test_refused_after_it_has_answered(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """The first run knows of the answer, the second of the first."""
    mounted = fuse.mount(place())
    assert command.once().code == 0
    assert command.state.exists()
    mounted.set(errors(errno.EACCES))
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["cause"]) == (2, "refused")
    command.state.unlink()
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "denied")


@pytest.mark.parametrize("content", [b"", b"no database\n" * 100], ids=["empty", "broken"])
def test_state_that_cannot_be_read(fuse: FuseServer, place: MakeDir, command: Command, content: bytes) -> None:
    fuse.mount(place())
    command.state.parent.mkdir()
    command.state.write_bytes(content)
    outcome = command.once()
    assert (outcome.code, outcome.document["summary"]["ok"]) == (0, 1)


@pytest.mark.parametrize("blocks", [0, ALL_ONES])
def test_no_size(fuse: FuseServer, place: MakeDir, command: Command, blocks: int) -> None:
    mounted = fuse.mount(place(), statfs=Statfs(blocks, blocks, blocks, FRSIZE))
    outcome = command.once()
    entry = outcome.mount(mounted.path)
    assert (outcome.code, entry["status"], entry["total_bytes"], entry["usage_percent"]) == (0, "ok", None, None)


@pytest.mark.parametrize(
    ("flags", "unexpected"), [(None, False), (MS_RDONLY, True)], ids=["by its mount option", "by its superblock"]
)
def test_read_only(fuse: FuseServer, place: MakeDir, command: Command, flags: int | None, unexpected: bool) -> None:
    """Meant so: 0. The mount says rw and the superblock ro: 1."""
    if flags is None:
        mounted = fuse.mount(place(), flags=MS_RDONLY)
        path = mounted.path
    else:
        mounted = fuse.mount(place("../aside"))
        path = place("bound")
        mount(mounted.path, path, b"none", MS_BIND)
        mounted.remount(flags)
    try:
        outcome = command.once()
        assert outcome.code == (1 if unexpected else 0)
        entry = outcome.mount(path)
        assert (entry["status"], entry["readonly"], entry["reachable"]) == ("readonly", True, True)
        outcome = command.run("--once")
        assert ("READ-ONLY" in outcome.stdout) is unexpected
    finally:
        if flags is not None:
            unmount(path)


def test_read_only_bind(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted, path = fuse.mount(place()), place("bound")
    mount(mounted.path, path, b"none", MS_BIND)
    mount(b"none", path, b"none", MS_REMOUNT | MS_BIND | MS_RDONLY)
    try:
        outcome = command.once()
        assert (outcome.code, outcome.mount(path)["status"], outcome.mount(mounted.path)["status"]) == (
            0,
            "readonly",
            "ok",
        )
        assert mounted.counters().requests["STATFS"] == 1  # one probe for both
    finally:
        unmount(path)


def test_behind_a_hung_mount(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    outer = fuse.mount(place("outer"), directories=["in"])
    inner = fuse.mount(outer.path + b"/in", source="nas02:/inner")
    outer.set(UNREAD)
    outcome = command.once()
    entry = outcome.mount(inner.path)
    assert (entry["status"], entry["error"]) == ("unknown", f"behind {outer.mount_point}")
    assert (entry["reachable"], entry["cause"]) == (None, None)
    assert outcome.mount(outer.path)["status"] == "stale"
    assert outcome.code == 2


def test_stacked(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    below = fuse.mount(place(), mode=HANG)
    top = fuse.mount(below.path)
    outcome = command.once()
    assert (outcome.code, outcome.mount(top.path)["mount_id"]) == (0, top.mount_id)
    assert "2 mounts on this directory" in command.run("--once").stdout


def test_override(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    slow, other = fuse.mount(place("wan"), mode=delayed(500)), fuse.mount(place("lan"), mode=delayed(500))
    command.sections["probe"] = 'timeout = "300ms"'
    command.extra = '[[override]]\nmounts = ["*/mnt/w*"]\ntimeout = "20s"\n'
    command.write()
    outcome = command.once()
    assert outcome.mount(slow.path)["status"] == "ok"
    assert outcome.mount(other.path)["error"] == "no answer within 0.3 s"


def test_timeout_option(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """It overrides the configuration, and its overrides too."""
    mounted = fuse.mount(place(), mode=UNREAD)
    command.extra = '[[override]]\nmounts = ["*"]\ntimeout = "40s"\n'
    command.write()
    outcome = command.once("--timeout", "300ms")
    assert (outcome.code, outcome.mount(mounted.path)["error"]) == (2, "no answer within 0.3 s")


# ---- names

NAMES = {
    "plain": (b"plain", "plain", False),
    "space": (b"a  b ", "a  b ", False),
    "newline": (b"a\nb", "a\\nb", True),
    "tab": (b"a\tb", "a\\tb", True),
    "backslash": (b"a\\nb", "a\\nb", False),
    "not UTF-8": (b"\xff\xc3", "\\xff\\xc3", True),
    "escape": (b"\x1b[31m\x07", "\\x1b[31m\\x07", True),
    "direction": ("a\u202eb".encode(), "a\\u202eb", True),
    "markup": (b"[bold]x[", "[bold]x[", False),
    "UTF-8": ("Fotos-ü".encode(), "Fotos-ü", False),
}


def test_names(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    paths = {label: fuse.mount(place(name[0]), source="s\n\x1b:/x").path for label, name in NAMES.items()}
    outcome = command.once()
    assert outcome.code == 0
    by_id = {m["mount_id"]: m for m in outcome.document["mounts"]}
    assert len(by_id) == len(NAMES)
    by_bytes = {
        base64.b64decode(m["target_bytes"]) if "target_bytes" in m else os.fsencode(m["target"]): m
        for m in by_id.values()
    }
    for label, (_, shown, lossy) in NAMES.items():
        entry = by_bytes[paths[label]]
        assert entry["target"].endswith("/mnt/" + shown)
        assert ("target_bytes" in entry) is lossy
        assert entry["source"] == "s\\n\\x1b:/x"
    table = command.run("--once").stdout
    assert [c for c in table if not c.isprintable() and c != "\n"] == []
    for _, shown, _ in NAMES.values():
        assert "/mnt/" + shown in table
    assert len(table.splitlines()) == 1 + len(NAMES) + 2  # heading, mounts, empty line, summary


def test_long_name(fuse: FuseServer, place: MakeDir, command: Command, tmp_path: Path) -> None:
    room = 4000 - len(os.fsencode(tmp_path)) - len("/mnt/")
    mounted = fuse.mount(place("/".join("x" * 200 for _ in range(room // 201)) + "/" + "y" * (room % 201)))
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "ok")
    table = command.run("--once")
    assert table.code == 0
    assert "x" * 150 in table.stdout


# ---- --path, the gate before a backup


def test_path_gate(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    good, bad = fuse.mount(place("good")), fuse.mount(place("bad"), mode=errors(errno.EIO))
    outcome = command.once("--path", good.mount_point)
    assert (outcome.code, [m["target"] for m in outcome.document["mounts"]]) == (0, [good.mount_point])
    assert command.once("--path", bad.mount_point).code == 2
    assert command.once("--path", good.mount_point, "--path", bad.mount_point).code == 2
    outcome = command.once("--path", f"{os.path.dirname(good.mount_point)}/*")
    assert outcome.document["summary"]["total"] == 2


def test_path_that_matches_nothing(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """Not mounted is the very thing that a gate must not let pass."""
    good = fuse.mount(place("good"))
    outcome = command.once("--path", good.mount_point, "--path", good.mount_point + "/none")
    assert outcome.code == 2
    assert outcome.stderr == f"watcher: nothing is mounted at {good.mount_point}/none\n"
    assert [m["status"] for m in outcome.document["mounts"]] == ["ok"]
    outcome = command.run("--once", "--path", "/nowhere")
    assert (outcome.code, outcome.stderr) == (2, "watcher: nothing is mounted at /nowhere\n")


def test_path_overrides_the_filters(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """What is excluded, or of a type not watched, or only shown, is looked at when it is named."""
    excluded = fuse.mount(place("excluded"), mode=errors(errno.EIO))
    path = place("tmpfs")
    mount(b"none", path, b"tmpfs", 0, b"size=64k")
    command.sections["watch"] += f'\nexclude = ["*/excluded"]\nshow_only = ["{excluded.fstype}"]'
    command.write()
    try:
        outcome = command.once()
        assert (outcome.code, outcome.document["mounts"]) == (0, [])
        outcome = command.once("--path", os.fsdecode(path))
        assert (outcome.code, outcome.mount(path)["fstype"]) == (0, "tmpfs")
        assert command.once("--path", excluded.mount_point).code == 2
    finally:
        unmount(path)


def test_shown_only_is_no_warning(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted = fuse.mount(place(), mode=errors(errno.EIO), fstype="fuse.portal")
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "stale")
    assert "STALE (shown only)" in command.run("--once").stdout


# ---- the table


def test_table(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    good = fuse.mount(place("good"), source="nas01:/good", statfs=Statfs(2**20, 2**19, 2**19, FRSIZE))
    bad = fuse.mount(place("bad"), source="nas02:/bad", mode=UNREAD)
    outcome = command.run("--once")
    assert (outcome.code, outcome.stderr) == (2, "")
    heading, first, second, empty, summary = outcome.stdout.splitlines()
    assert heading.split() == ["STATUS", "WHERE", "SOURCE", "TYPE", "SIZE", "USED", "LATENCY", "CAUSE"]
    assert first.split()[:4] == ["STALE", bad.mount_point, "nas02:/bad", "fuse.test"]
    assert "NO ANSWER; no answer within 1 s; hangs in " in first
    assert second.split()[:8] == ["ok", good.mount_point, "nas01:/good", "fuse.test", "4.00", "GiB", "50", "%"]
    assert empty == ""
    assert re.fullmatch(r"2 mounts: 1 STALE, 1 ok \(\d+\.\d\d s\)", summary)


def read_terminal(fd: int, process: subprocess.Popen[bytes]) -> str:
    """All that a process writes to its terminal."""
    seen = b""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data = os.read(fd, 4096)
            except OSError:  # EIO: nobody has it open any more
                break
            if not data:
                break
            seen += data
        elif process.poll() is not None:
            break
    return seen.decode()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        for fd in (ours, theirs):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.mark.parametrize("name", [b"slow", b"slow\x1b[31m\n"], ids=["plain", "hostile"])
def test_progress_on_a_terminal(
    fuse: FuseServer, place: MakeDir, command: Command, terminal: tuple[int, int], name: bytes
) -> None:
    ours, theirs = terminal
    fuse.mount(place(name), mode=UNREAD)
    with command.start("--once", "--json", stderr=theirs) as process:
        os.close(theirs)
        seen = read_terminal(ours, process)
        stdout, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert json.loads(stdout)["summary"]["stale"] == 1  # nothing of it between the JSON
    lines = seen.split("\r\x1b[2K")
    assert lines[0] == ""
    assert lines[-1] == ""  # cleared at the end
    assert {re.sub(r"/.*", "", line) for line in lines[1:-1]} == {"waiting for 1 mount: "}
    assert not re.search(r"[\x00-\x1f]", "".join(lines[1:-1]))


def test_no_progress_elsewhere(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    fuse.mount(place(), mode=UNREAD)
    assert command.run("--once").stderr == ""


# ---- usage, configuration, what goes wrong


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["nonsense"],
        ["--json"],
        ["--path", "/x"],
        ["--timeout", "2s"],
        ["--capacity"],
        ["--once", "--timeout", "2"],
        ["--once", "--timeout", "0s"],
        ["--once", "--timeout", "1h"],
        ["--once", "--timeout"],
        ["--once", "check-config"],
        ["--capacity", "check-config"],
        ["--once", "surplus"],
    ],
    ids=" ".join,
)
def test_usage_errors(command: Command, arguments: list[str]) -> None:
    outcome = command.run(*arguments)
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_help_and_version(command: Command) -> None:
    outcome = command.run("--help")
    assert (outcome.code, outcome.stderr) == (0, "")
    assert "--once" in outcome.stdout
    outcome = command.run("--version")
    assert (outcome.code, outcome.stderr) == (0, "")


CONFIGURATIONS = {
    "unknown key": ("[probe]\ntimeuot = '5s'\n", "timeout"),
    "unknown section": ("[prob]\n", "probe"),
    "wrong value": ("[probe]\ntimeout = 5\n", "timeout"),
    "no TOML": ("[probe\n", "line 1"),
}


@pytest.mark.parametrize(("text", "named"), CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def test_bad_configuration(command: Command, text: str, named: str) -> None:
    command.config.write_text(text)
    outcome = command.run("--once")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert str(command.config) in outcome.stderr
    assert named in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_missing_configuration(command: Command) -> None:
    command.config.unlink()
    outcome = command.run("--once")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert str(command.config) in outcome.stderr


def test_internal_error(command: Command, tmp_path: Path) -> None:
    """A bug is never taken for "all ok" or "stale"."""
    command.sections["paths"] += f'\nproc = "{tmp_path}/none"'
    command.write()
    assert command.run("--once").code == 3


@pytest.mark.parametrize("arguments", [["--once"], ["--once", "--json"]], ids=" ".join)
def test_broken_pipe(fuse: FuseServer, place: MakeDir, command: Command, arguments: list[str]) -> None:
    """The reader is gone before the first byte; the verdict stands."""
    fuse.mount(place(), mode=errors(errno.EIO))
    reader, writer = os.pipe()
    os.close(reader)
    with command.start(*arguments, stdout=writer) as process:
        os.close(writer)
        _, stderr = process.communicate(timeout=LIMIT)
    assert (process.returncode, stderr) == (2, b"")


def test_broken_pipe_of_a_long_document(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """More than a pipe holds, to a reader that takes a little."""
    for n in range(150):
        fuse.mount(place(f"{n}"))
    shell = ["bash", "-c", '"$@" | head -c 10 >&2; exit "${PIPESTATUS[0]}"', "-", *command.argv("--once", "--json")]
    done = subprocess.run(shell, env=command.environment(), capture_output=True, timeout=LIMIT, check=False, cwd="/")
    assert (done.returncode, done.stderr) == (0, b'{\n  "host"')


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", [UNREAD, HANG], ids=str)
def test_interrupted(fuse: FuseServer, place: MakeDir, command: Command, mode: Mode, number: signal.Signals) -> None:
    """While a mount keeps it waiting: at once, and nothing is left that could be killed."""
    mounted = fuse.mount(place(), mode=mode)
    with command.start("--once", "--timeout", "5m") as process:
        mounted.wait_waiting()
        children = probe_children(process.pid)
        assert len(children) == 1
        process.send_signal(number)
        try:
            stdout, stderr = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert stdout == b""
    assert b"Traceback" not in stderr
    assert process.returncode in ((3,) if number is signal.SIGINT else (3, -signal.SIGTERM))
    mounted.set(OK)
    deadline = time.monotonic() + LIMIT
    while Path(f"/proc/{children[0]}").exists() and stuck_threads(children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- no pile-up over any number of runs


@pytest.mark.once
def test_ten_runs_on_a_wedged_mount(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """The first leaves a thread that nothing can kill; the others say so, without another."""
    wedged, other = fuse.mount(place("wedged"), mode=HANG), fuse.mount(place("other"))
    outcome = command.once("--timeout", "300ms")
    assert outcome.mount(wedged.path)["error"] == "no answer within 0.3 s"
    (noted,) = command.noted_threads()
    since = outcome.mount(wedged.path)["since"]
    for n in range(9):
        outcome = command.once("--timeout", "300ms")
        entry = outcome.mount(wedged.path)
        assert (outcome.code, entry["status"], entry["cause"]) == (2, "stale", "timeout")
        assert "still hangs" in entry["error"]
        assert abs((utc(entry["since"]) - utc(since)).total_seconds()) <= 2
        assert outcome.mount(other.path)["status"] == "ok"
        assert command.noted_threads() == [noted], n
    assert wedged.counters().parked == 1
    assert wedged.counters().requests["STATFS"] == 1
    assert stuck_threads([noted[0]]) == [noted[1]]
    wedged.set(OK)
    deadline = time.monotonic() + LIMIT
    while procfs.thread_exists("/proc", *noted):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    outcome = command.once()
    assert (outcome.code, outcome.mount(wedged.path)["status"]) == (0, "ok")
    assert command.notes() == []


def test_new_mount_in_the_place_of_a_wedged_one(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    old = fuse.mount(place(), mode=HANG)
    assert command.once("--timeout", "300ms").code == 2
    unmount(old.path)
    new = fuse.mount(place())
    outcome = command.once()
    assert (outcome.code, outcome.mount(new.path)["status"]) == (0, "ok")
    assert len(command.noted_threads()) == 1  # its thread still hangs, in a mount that no one sees


def note(command: Command, mounted: Any, **changes: object) -> dict[str, Any]:
    """A note that the mount holds a thread: this very process's own, which lives."""
    pid = os.getpid()
    thread = {
        "pid": pid,
        "start_time": procfs.start_time("/proc", pid),
        "tid": pid,
        "superblock": [mounted.device, "/", mounted.fstype, mounted.source],
        "since": time.time() - 60,
    }
    record = {"boot_id": procfs.boot_id("/proc"), "threads": [thread | changes]}
    directory = command.runtime / "wedged"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / str(pid)).write_text(json.dumps(record))
    return record


def test_note_of_a_living_thread_is_believed(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """Else the tests below could not fail."""
    mounted = fuse.mount(place())
    note(command, mounted)
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (2, "stale")
    assert "STATFS" not in mounted.counters().requests
    assert len(command.notes()) == 1


@pytest.mark.parametrize("kind", ["another boot", "re-used pid", "dead thread", "another mount"])
def test_stale_note(fuse: FuseServer, place: MakeDir, command: Command, kind: str) -> None:
    mounted = fuse.mount(place())
    match kind:
        case "another boot":
            record = note(command, mounted) | {"boot_id": "00000000-0000-0000-0000-000000000000"}
            command.notes()[0].write_text(json.dumps(record))
        case "re-used pid":
            note(command, mounted, start_time=1)
        case "dead thread":
            note(command, mounted, tid=2**22 + 1)
        case _:
            note(command, mounted, superblock=["0:9999", "/", mounted.fstype, mounted.source])
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "ok")
    assert len(command.notes()) == (1 if kind == "another mount" else 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"boot_id": "',
        "[]",
        "null",
        '{"boot_id": "BOOT", "threads": 5}',
        '{"boot_id": "BOOT", "threads": [{"pid": 1}]}',
        '{"boot_id": "BOOT", "threads": [{"pid": 1, "start_time": 1, "tid": 1, "superblock": ["a"], "since": 1}]}',
        '{"boot_id": "BOOT", "threads": [{"pid": 1e999, "superblock": [1, 2, 3, 4]}]}',
        "\x00" * 100,
        "ä",
    ],
)
def test_half_written_note(fuse: FuseServer, place: MakeDir, command: Command, text: str) -> None:
    mounted = fuse.mount(place())
    note(command, mounted)
    command.notes()[0].write_text(text.replace("BOOT", procfs.boot_id("/proc")))
    (command.runtime / "wedged" / ".half").write_text("{")
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "ok")


def test_directory_among_the_notes(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounted = fuse.mount(place())
    (command.runtime / "wedged" / "123").mkdir(parents=True)
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "ok")


@pytest.mark.parametrize("kind", ["another user's", "a link"])
def test_notes_directory_of_somebody_else(fuse: FuseServer, place: MakeDir, command: Command, kind: str) -> None:
    """Who made it could choose what we believe to hang, or where we write."""
    mounted = fuse.mount(place())
    note(command, mounted)
    directory = command.runtime / "wedged"
    if kind == "another user's":
        os.chown(directory, 65534, 65534)
    else:
        directory.rename(command.runtime / "elsewhere")
        directory.symlink_to(command.runtime / "elsewhere")
    outcome = command.once()
    assert (outcome.code, outcome.mount(mounted.path)["status"]) == (0, "ok")
    before = sorted(directory.iterdir())
    hung = fuse.mount(place("hung"), mode=HANG)
    outcome = command.once("--timeout", "300ms")
    assert (outcome.code, outcome.mount(hung.path)["status"]) == (2, "stale")
    assert sorted(directory.iterdir()) == before  # nothing written where it is not ours


# ---- many


@pytest.mark.once
def test_ten_thousand_entries(fuse: FuseServer, place: MakeDir, command: Command, mount_dir: MakeDir) -> None:
    """The mount table may be long; the watched ones in it are found, and nothing else is asked."""
    base = mount_dir("many")
    mount(b"none", base, b"tmpfs")
    try:
        os.mkdir(base + b"/from")
        for n in range(10_000):
            path = b"%s/%05d" % (base, n)
            os.mkdir(path)
            mount(base + b"/from", path, b"none", MS_BIND)
        assert len(Path("/proc/self/mountinfo").read_bytes().splitlines()) > 10_000
        mounted = fuse.mount(place())
        outcome = command.once()
        assert (outcome.code, outcome.document["summary"]["total"]) == (0, 1)
        outcome = command.once("--path", os.fsdecode(base) + "/*")  # all of one superblock: one probe
        assert (outcome.code, outcome.document["summary"]["ok"]) == (0, 10_000)
        assert outcome.mount(base + b"/09999")["status"] == "ok"
        assert mounted.counters().requests["STATFS"] == 1
    finally:
        unmount(base)


@pytest.mark.once
def test_two_hundred_hung(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    mounts = [fuse.mount(place(f"{n:03}"), mode=HANG) for n in range(200)]
    outcome = command.once()
    assert (outcome.code, outcome.document["summary"]["stale"]) == (2, 200)
    noted = command.noted_threads()
    assert len(noted) == 200
    assert len({pid for pid, _ in noted}) == 1
    outcome = command.once()
    assert (outcome.code, outcome.document["summary"]["stale"]) == (2, 200)
    assert command.noted_threads() == noted
    assert sum(m.counters().requests["STATFS"] for m in mounts) == 200


# ---- our own troubles


@pytest.mark.once
def test_out_of_descriptors(fuse: FuseServer, place: MakeDir, command: Command) -> None:
    """Enough to run, too few to start a child: nothing is known, and nothing blamed."""
    mounted = fuse.mount(place(), mode=HANG)
    limit = ["prlimit", "--nofile=10", "--", *command.argv("--once", "--json")]
    done = subprocess.run(limit, env=command.environment(), capture_output=True, timeout=LIMIT, check=False, cwd="/")
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    document = json.loads(done.stdout)
    assert (done.returncode, [m["status"] for m in document["mounts"]]) == (1, ["unknown"])
    assert "STATFS" not in mounted.counters().requests


def test_loads_nothing_heavy(command: Command) -> None:
    """It is run by cron every minute."""
    program = (
        "import sys, watcher.cli as c\n"
        "try: c.main()\n"
        "finally: print([m for m in ('aiohttp', 'apprise', 'requests', 'pyinotify') if m in sys.modules])"
    )
    command_line = [sys.executable, "-c", program, *command.argv("--once", "--json")[3:]]
    done = subprocess.run(
        command_line, env=command.environment(), capture_output=True, timeout=LIMIT, check=True, cwd="/", text=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
