"""The children that look around a mount that fails, put before a made-up /proc in which much is a trap.

A trap is a pipe: whoever opens it to read is noticed, and hangs.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from watcher import radius
from watcher.children import script
from watcher.core.evidence import Question
from watcher.core.served import Served
from watcher.model import Place, Superblock
from watcher.probing import asking

OURS, THEIRS = 1, 2  # namespaces


class Proc:
    """A made-up /proc."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._traps: dict[str, Thread] = {}
        self.process("self", OURS)

    def process(self, pid: str, namespace: int, comm: str = "x", uid: int = 0) -> Path:
        base = self.path / pid
        for directory in ("ns", "fd", "fdinfo"):
            (base / directory).mkdir(parents=True)
        for kind in ("pid", "mnt"):
            (base / "ns" / kind).symlink_to(f"{kind}:[{namespace}]")
        (base / "stat").write_text(f"{pid} ({comm}) S {'0 ' * 30}\n")
        (base / "comm").write_text(f"{comm}\n")
        (base / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t0\t0\t0\n")
        (base / "cgroup").write_text("0::/\n")
        (base / "mountinfo").write_text("30 1 0:53 / /mnt/nas rw - fuse.sshfs nas01:/x rw\n")
        return base

    def trap(self, path: Path) -> None:
        os.mkfifo(path)
        self._traps[str(path)] = Thread(target=lambda: path.open("wb").close(), daemon=True)
        self._traps[str(path)].start()

    def caught(self) -> list[str]:
        """The traps that somebody has stepped into; all are removed."""
        found = [path for path, thread in self._traps.items() if not thread.is_alive()]
        for path, thread in self._traps.items():
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))  # lets it go
            thread.join()
        self._traps.clear()
        return found


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Proc]:
    proc = Proc(tmp_path)
    yield proc
    proc.caught()


def said_by(file: str, *fields: object, by: Sequence[str] = ()) -> list[Any]:
    """`by`: the command by which it is started."""
    asked = "".join(f"{field}\0" for field in fields).encode()
    done = subprocess.run([*by, *script(file)], input=asked, stdout=subprocess.PIPE, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_nobodys_command_line_is_read_who_may_hold_it_up(proc: Proc) -> None:
    """Who has the device open and lives elsewhere; who calls himself a backup of Proxmox VE's and is not root."""
    elsewhere = proc.process("7", THEIRS)
    (elsewhere / "fd/3").symlink_to("/dev/fuse")
    proc.trap(elsewhere / "cmdline")
    pretender = proc.process("8", OURS, comm="task UPID:pve1:", uid=1000)
    proc.trap(pretender / "cmdline")
    worker = proc.process("9", OURS, comm="task UPID:pve1:")
    (worker / "cmdline").write_bytes(b"task UPID:pve1:0:0:0:vzdump:101:root@pam:\0")
    said = said_by(
        radius.USERS, "proc", proc.path, "seconds", 30, "fuse", 53, "/mnt/nas", 0, "sshfs", "", "wanted", "0:53",
        "fuse.sshfs", "nas01:/x",
    )  # fmt: skip
    assert proc.caught() == []
    assert ["holder", 7, "x", "0::/", []] in said
    assert {"running": ["UPID:pve1:0:0:0:vzdump:101:root@pam:"]} in said
    assert said[-1] == {"end": True, "seen": False}  # without the first process others must be kept from us, too


def test_mount_statistics_without_end_are_read_up_to_a_bound(proc: Proc) -> None:
    path = proc.path / "self/mountstats"
    os.mkfifo(path)
    stopped = False

    def write() -> None:
        nonlocal stopped
        try:
            with path.open("wb", buffering=0) as file:
                while True:
                    file.write(b"device x:/y mounted on /z with fstype nfs4 statvers=1.1\n" * 100)
        except BrokenPipeError:
            stopped = True

    writer = Thread(target=write, daemon=True)
    writer.start()
    [stats, end] = said_by(asking.__file__, proc.path, "stats", 0)
    writer.join(60)
    assert stopped
    assert (len(stats[2]), end) == (asking.MAX_STATS, ["end"])


def test_the_device_by_whatever_name(proc: Proc) -> None:
    """In a jail's root, and after its node was removed: else nobody would seem to serve what is served."""
    for pid, name in ((7, "/jail/dev/fuse"), (8, "/dev/fuse (deleted)"), (9, "/dev/fused")):
        (proc.process(str(pid), OURS) / "fd/3").symlink_to(name)
    said = said_by(radius.USERS, "proc", proc.path, "seconds", 30, "fuse", 53, "/mnt/nas", 0, "x", "")
    assert sorted(w[1] for w in said if isinstance(w, list) and w[0] == "holder") == [7, 8]


def test_who_has_ended_by_then_is_not_told(proc: Proc) -> None:
    """Such as a probe of ours that was killed meanwhile: there is no command line any more by which it is known."""
    for pid, state, flags in ((7, "S", 0), (8, "Z", 0), (9, "R", 4)):
        one = proc.process(str(pid), OURS)
        (one / "stat").write_text(f"{pid} (x) {state} 0 0 0 0 0 {flags} {'0 ' * 20}\n")
        (one / "fd/3").symlink_to("/mnt/nas/film")
    said = said_by(radius.USERS, "proc", proc.path, "seconds", 30, "wanted", "0:53", "fuse.sshfs", "nas01:/x")
    found = next(words for words in said if "processes" in words)
    assert ([p["pid"] for p in found["processes"]], found["users"]) == ([7], 1)


@pytest.mark.parametrize("busy", [0.0, 0.3])
def test_the_search_has_more_time_where_its_own_start_takes_more(proc: Proc, busy: float) -> None:
    """On a machine where Python starts in 0.3 s of processor time, all of 0.11 s would be over before it begins."""
    user = proc.process("7", OURS)
    (user / "fd/3").symlink_to("/mnt/nas/film")
    directory = os.path.dirname(radius.USERS)
    code = f"""
import sys, time
sys.path.insert(0, {directory!r})
while time.process_time() < {busy}: pass
import users
users.main()
"""
    asked = "\0".join(
        ["proc", str(proc.path), "seconds", "30", "wanted", "0:53", "fuse.sshfs", "nas01:/x", ""]
    ).encode()
    command = [*script(radius.USERS)[:-2], code]
    done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, timeout=60, check=True)
    [found, *_] = map(json.loads, done.stdout.splitlines())
    assert ([p["pid"] for p in found["processes"]], found["cut"]) == ([7], False)


WANTED = ("wanted", "0:53", "fuse.sshfs", "nas01:/x")


@pytest.mark.parametrize(("allowance", "cut"), [(0.1, True), (1000, False)])
def test_who_is_patient_has_more_looked_at(proc: Proc, allowance: float, cut: bool) -> None:
    (proc.process("7", OURS) / "fd/3").symlink_to("/mnt/nas/film")
    found, *_ = said_by(radius.USERS, "proc", proc.path, "seconds", 30, "allowance", allowance, *WANTED)
    assert ([p["pid"] for p in found["processes"]], found["cut"] or found["lost"]) == ([] if cut else [7], cut)


def test_what_has_ended_is_no_secret(proc: Proc) -> None:
    proc.process("1", OURS)
    (proc.process("7", OURS) / "ns/mnt").unlink()
    (proc.process("8", OURS) / "fd").rmdir()
    *_, end = said_by(radius.USERS, "proc", proc.path, "seconds", 30, *WANTED, "directory", proc.path / "none")
    assert end == {"end": True, "seen": True}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another")
def test_an_ordinary_user_does_not_see_all() -> None:
    """One who can read all files, so that he can start Python wherever that lies, and is nobody else's superior."""
    may_read = [f"{flag}+dac_read_search" for flag in ("--inh-caps=", "--ambient-caps=")]
    somebody = ["setpriv", "--reuid=65534", "--clear-groups", *may_read, "--"]
    *_, end = said_by(radius.USERS, "proc", "/proc", "seconds", 30, *WANTED, by=somebody)
    assert end == {"end": True, "seen": False}


@pytest.mark.parametrize("inside", [False, True])
def test_the_first_processes_are_told_with_their_cgroup(proc: Proc, inside: bool) -> None:
    """As many of each sort as are named."""
    for pid in range(10, 20):
        base = proc.process(str(pid), OURS)
        (base / "fd/3").symlink_to("/mnt/nas/film")
        wall = "/lxc.payload.101" if inside else ""
        (base / "cgroup").write_text(f"0::{wall}/system.slice/smbd.service\n")
    found, *_ = said_by(radius.USERS, "proc", proc.path, "seconds", 30, "allowance", 1000, *WANTED)
    units = [radius.unit(p["cgroup"]) for p in found["processes"]]
    assert units == [*(["" if inside else "smbd.service"] * 4), *([""] * 6)]


def test_the_one_that_may_serve_it_where_the_kernel_does_not_tell(proc: Proc) -> None:
    """Of those with the device open that live in its pid namespace; who names another FUSE mount is busy with that."""
    table = (
        "30 1 0:53 / /mnt/own rw - fuse.x x rw\n31 1 0:54 / /mnt/other rw - fuse.y y rw\n32 1 8:1 / / rw - ext4 d rw\n"
    )
    for pid, namespace, title in ((1, OURS, "/"), (10, THEIRS, "x -f"), (11, THEIRS, "y /mnt/other"), (12, OURS, "x")):
        base = proc.process(str(pid), namespace, comm=title[:1])
        (base / "mountinfo").write_text(table)
        (base / "cmdline").write_bytes(title.encode().replace(b" ", b"\0") + b"\0/\0")
        if pid > 1:
            (base / "fd/3").symlink_to("/dev/fuse")
    served = Served()
    for words in said_by(radius.USERS, "proc", proc.path, "seconds", 30, "fuse", 53, "/mnt/own", 10, "sshfs", ""):
        if isinstance(words, list):
            served.take(words)
    question = Question(Superblock("0:53", "/", "fuse.sshfs", "x"), Place("ct:101", "/mnt/own"), init_pid=10)
    [daemon] = served.by(question) or ()
    assert (daemon.pid, daemon.comm, daemon.likely) == (10, "x", True)


def test_where_configured_paths_lead_without_a_touch_of_what_may_hang(proc: Proc, tmp_path: Path) -> None:
    """Links on local disks only: what lies on a mount, or beyond a trigger, stays a name."""
    top = tmp_path / "top"
    for path in ("disk/deep", "auto", "nas/x", "lxc/105"):
        (top / path).mkdir(parents=True)
    for path, to in (
        ("link", "disk/../nas"),
        ("deep", top / "link/films"),
        ("round", "round"),
        ("auto/film", "/nowhere"),
        ("nas/x/film", "/nowhere"),
        ("a b", "nas"),
        ("disk/up", "../disk/deep"),
    ):
        (top / path).symlink_to(to)
    points = (("/", "ext4", "8:1"), (top / "auto", "autofs", "0:40"), (top / "nas", "btrfs", "0:53"))
    (proc.path / "self/mountinfo").write_text(
        "".join(f"3{n} 1 {device} / {point} rw - {fstype} x rw\n" for n, (point, fstype, device) in enumerate(points))
    )
    entry = str(top / "a b").replace(" ", "\\040")
    (top / "lxc/105/config").write_text(
        f"mp0: {top}/deep/,mp=/x\nmp1: {top}/auto/film,mp=/x\nmp2: {top}/a b/x/film,mp=/x\n"
        f"lxc.mount.entry = {entry} mnt none bind,create=dir\nlxc.mount.entry = /bad\\9 x none bind\n"
        f"mp3: {top}/round/x\nmp4: volume={top}/disk/up/../x\nmp5: nas01:101/vm.raw,mp={top}/link\nmp6: /,mp=/x"
    )
    (top / "storage.cfg").write_text(f"dir: films\n\tpath {top}/link/a/\n")
    asked = ("proc", proc.path, "seconds", 30, *WANTED, "file", top / "storage.cfg", "directory", top / "lxc")
    links = {each["link"]: each["to"] for each in said_by(radius.USERS, *asked) if "link" in each}
    assert links == {
        f"{top}/link/a": f"{top}/nas/a",
        f"{top}/deep": f"{top}/nas/films",
        f"{top}/a b/x/film": f"{top}/nas/x/film",
        f"{top}/a b": f"{top}/nas",
        f"{top}/disk/up/../x": f"{top}/disk/x",
    }
