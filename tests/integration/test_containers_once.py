"""`watcher --once` on a host with containers: what it shows of them, as a table and as JSON, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, OK, FuseServer, Statfs
from tests.integration.looking import LIMIT, Command, Outcome

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]
FRSIZE = 4096
CAPACITY_KEYS = {
    "namespace", "lxc_id", "lxc_name", "lxc_pid", "source", "target", "fstype", "readonly", "total_bytes",
    "used_bytes", "available_bytes", "usage_percent", "full", "error", "device", "root",
}  # fmt: skip


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


def rows(outcome: Outcome, ctid: str) -> list[list[str]]:
    """The lines of the tables about one container, in words."""
    return [line.split() for line in outcome.stdout.splitlines() if f"CT {ctid} " in line]


# ---- mounts


def test_mounts(fuse: FuseServer, lxc: Containers, mount_dir: MakeDir, command: Command) -> None:
    """One of the container's own that hangs, one of the host's that both have: asked once."""
    shared = fuse.mount(mount_dir("nas"), source="nas01:/media", fstype="fuse.sshfs")
    ct = lxc.start(name="plex", user_namespace=True, binds={shared.mount_point: "/media"})
    unnamed = lxc.start()
    own, fine = ct.fuse.mount("/mnt/own", mode=HANG, source="nas02:/own"), unnamed.fuse.mount("/mnt/fine")
    command.look_into(lxc)
    outcome = command.once()
    assert outcome.code == 2
    summary = {key: number for key, number in outcome.document["summary"].items() if number}
    assert summary == {"total": 4, "ok": 3, "stale": 1}
    entry = outcome.mount("/mnt/own", ct.namespace)
    expected = {
        "lxc_id": ct.ctid,
        "lxc_name": "plex",
        "lxc_pid": ct.init.pid,
        "source": "nas02:/own",
        "status": "stale",
        "reachable": False,
        "cause": "timeout",
        "error": "no answer within 1 s",
        "proxmox_managed": False,
        "mount_id": own.mount_id,
    }
    assert {key: entry[key] for key in expected} == expected
    entry = outcome.mount("/media", ct.namespace)
    assert (entry["status"], entry["lxc_id"], entry["server"]) == ("ok", ct.ctid, "nas01")
    assert outcome.mount(shared.path)["lxc_id"] is None
    entry = outcome.mount("/mnt/fine", unnamed.namespace)
    assert (entry["status"], entry["lxc_name"], entry["lxc_pid"]) == ("ok", None, unnamed.init.pid)
    assert shared.counters().requests["STATFS"] == 1
    assert fine.counters().requests["STATFS"] == 1

    table = command.run("--once")
    assert table.code == 2
    assert [row[:6] for row in rows(table, ct.ctid)] == [
        ["STALE", "CT", ct.ctid, "plex", "/mnt/own", "nas02:/own"],
        ["ok", "CT", ct.ctid, "plex", "/media", "nas01:/media"],
    ]
    assert own.counters().parked == 1  # the second run has not added a thread

    for glob, code in ((f"{ct.namespace}:/media", 0), (f"{ct.namespace}:*", 2), (f"{ct.namespace}:/none", 2)):
        assert command.once("--path", glob).code == code, glob
    assert own.counters().parked == 1


def test_names_in_the_table_are_whole(lxc: Containers, command: Command) -> None:
    """They are there to be copied, as the host's are."""
    ct = lxc.start(name="plex")
    names = ["@everyone", "x" * 150]
    for name in names:
        ct.fuse.mount(f"/mnt/{name}")
    command.look_into(lxc)
    table = command.run("--once")
    assert [row[4] for row in rows(table, ct.ctid)] == [f"/mnt/{name}" for name in names]
    assert table.stdout.replace("\n", "").isprintable()


# ---- capacity


@pytest.mark.usefixtures("loop_devices")
def test_capacity(fuse: FuseServer, lxc: Containers, mount_dir: MakeDir, command: Command) -> None:
    """The root and all real file systems of a container, with the numbers that it sees itself."""
    shared = fuse.mount(mount_dir("nas"), source="nas01:/media", statfs=Statfs(1000, 600, 500, FRSIZE))
    ct = lxc.start(name="plex", user_namespace=True, rootfs="image", binds={shared.mount_point: "/media"})
    ct.write("/log", 2 << 20)
    ct.fuse.mount("/mnt/own", source="own", statfs=Statfs(1000, 400, 300, FRSIZE))
    ct.fuse.mount("/snap", source="core.snap", fstype="fuse.snapfuse", statfs=Statfs(1000, 0, 0, FRSIZE))
    command.look_into(lxc)
    outcome = command.once()
    assert (outcome.code, outcome.notes_on(ct.namespace)) == (0, [])
    listed = [entry for entry in outcome.document["capacity"] if entry["lxc_id"] == ct.ctid]
    assert [entry["target"] for entry in listed] == ["/", "/media", "/mnt/own", "/snap"]
    assert {frozenset(entry) for entry in listed} == {frozenset(CAPACITY_KEYS)}
    assert {(e["lxc_name"], e["lxc_pid"], e["error"], e["full"]) for e in listed} == {
        ("plex", ct.init.pid, None, False)
    }
    seen = os.statvfs(f"/proc/{ct.init.pid}/root")
    root, media, own, snap = (
        [entry[key] for key in ("total_bytes", "used_bytes", "available_bytes", "usage_percent")] for entry in listed
    )
    used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
    total = seen.f_blocks * seen.f_frsize
    assert root == [total, used, seen.f_bavail * seen.f_frsize, round(100 * used / total, 1)]
    assert used >= 2 << 20
    assert (listed[0]["fstype"], listed[0]["source"]) == ("ext4", ct.settings.device)
    assert media == [1000 * FRSIZE, 400 * FRSIZE, 500 * FRSIZE, 40.0]
    assert own == [1000 * FRSIZE, 600 * FRSIZE, 300 * FRSIZE, 60.0]
    assert snap[3] == 100.0
    assert outcome.mount(shared.path, key="capacity")["lxc_id"] is None

    table = command.run("--once", "--capacity")
    found = [row for row in rows(table, ct.ctid) if row[0] == "CT"]
    assert [row[3] for row in found] == ["/snap", "/mnt/own", "/media", "/"] or used > 0.4 * total
    by_place = {row[3]: " ".join(row[4:]) for row in found}
    assert by_place["/mnt/own"] == "own fuse.test 3.91 MiB 2.34 MiB 1.17 MiB 60 %"
    assert by_place["/media"] == "nas01:/media fuse.test 3.91 MiB 1.56 MiB 1.95 MiB 40 %"
    assert by_place["/snap"].endswith("0 B 100 %")
    assert by_place["/"].startswith(f"{ct.settings.device} ext4 ")
    assert [row for row in rows(command.run("--once"), ct.ctid) if row[0] == "CT"] == []  # it was not asked for


def test_full_is_a_warning_to_who_asks(lxc: Containers, command: Command) -> None:
    ct = lxc.start(name="arr")
    ct.fuse.mount("/mnt/nas", statfs=Statfs(1000, 80, 80, FRSIZE))
    command.look_into(lxc)
    glob = f"{ct.namespace}:*"
    outcome = command.once("--path", glob)
    assert (outcome.code, outcome.mount("/mnt/nas", ct.namespace, key="capacity")["full"]) == (0, True)
    assert command.run("--once", "--path", glob).code == 0
    table = command.run("--once", "--capacity", "--path", glob)
    assert table.code == 1
    assert re.search(r"^\d file systems, 1 full$", table.stdout, re.MULTILINE)
    command.extra = '[capacity]\nwarn = "95%"\n'
    command.write()
    assert command.run("--once", "--capacity", "--path", glob).code == 0


def test_what_hangs_holds_up_nothing_else(lxc: Containers, command: Command) -> None:
    """Four mounts of one container wait beside each other, and all else is known by then."""
    ct, other = lxc.start(name="arr", user_namespace=True), lxc.start(name="plex")
    hung = [ct.fuse.mount(f"/mnt/{n}", mode=HANG) for n in range(4)]
    fine = other.fuse.mount("/mnt/fine", statfs=Statfs(1000, 400, 300, FRSIZE))
    # Of a type that is not watched: only its capacity is asked for.
    command.look_into(lxc, fstypes=["nfs"])
    with command.start("--once", "--json", "--timeout", "5m") as process:
        fine.wait_seen("STATFS")
        for mounted in hung:
            mounted.wait_parked()
        for mounted in hung:
            mounted.set(OK)
        stdout, _ = process.communicate(timeout=LIMIT)
    outcome = Outcome(process.returncode, stdout.decode(), "")
    assert (outcome.code, outcome.document["mounts"]) == (0, [])
    for mounted in hung:
        assert outcome.mount(mounted.path, ct.namespace, key="capacity")["usage_percent"] is not None
        mounted.set(HANG)
    for types, errors in (
        (["nfs"], {"no answer within 0.5 s"}),
        (["fuse.*"], {"an earlier probe still hangs in it"}),
    ):
        command.look_into(lxc, fstypes=types)
        outcome = command.once("--timeout", "500ms")
        assert [mounted.counters().parked for mounted in hung] == [1] * 4
        capacity = [outcome.mount(mounted.path, ct.namespace, key="capacity") for mounted in hung]
        assert {entry["total_bytes"] for entry in capacity} == {None}
        assert {entry["error"] for entry in capacity} == errors
        for namespace, path in ((ct.namespace, "/"), (other.namespace, "/"), (other.namespace, "/mnt/fine")):
            assert outcome.mount(path, namespace, key="capacity")["total_bytes"] > 0
    assert (outcome.code, outcome.document["summary"]["stale"], outcome.document["summary"]["ok"]) == (2, 4, 1)


# ---- who is no container, or none that may be seen


def test_who_is_not_believed(lxc: Containers, command: Command) -> None:
    """Two claimants of one id; an lxc-start of an ordinary user; one in another pid namespace."""
    honest, contested = lxc.start(), lxc.start()
    mounted = honest.fuse.mount("/mnt/nas")
    contested.fuse.mount("/mnt/nas")
    rival = lxc.start(contested.ctid, cgroup=False)
    rival.fuse.mount("/mnt/other")
    title = ["/usr/bin/lxc-start", "-F", "-n"]
    users, inner = f"{honest.ctid}81", f"{honest.ctid}82"
    lxc.pretend([*title, users], uid=65534)
    honest.pretend([*title, inner])
    command.look_into(lxc, include=["ct:*"])
    outcome = command.once("--timeout", "5s")
    namespaces = {m["namespace"] for key in ("mounts", "capacity") for m in outcome.document[key]}
    assert honest.namespace in namespaces
    assert not namespaces & {contested.namespace, f"ct:{users}", f"ct:{inner}"}
    assert mounted.counters().requests["STATFS"] == 1
    (note,) = outcome.notes_on(contested.namespace)
    pids = ", ".join(map(str, sorted((contested.monitor.pid, rival.monitor.pid))))
    assert note == f"CT {contested.ctid}: claimed by 2 monitors, none is believed: processes {pids}"
    assert f"watcher: {note}" in outcome.stderr.splitlines()
    assert not [n for n in outcome.document["notes"] if users in n or inner in n]


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A directory that all users reach."""
    path = Path(tempfile.mkdtemp(prefix="w"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def test_an_ordinary_user(anybodys: Path, fuse: FuseServer, lxc: Containers) -> None:
    """It works, and says that containers cannot be seen. (The capability is for an interpreter below /root.)"""
    (anybodys / "nas").mkdir()
    mounted = fuse.mount(anybodys / "nas", options="allow_other")
    ct = lxc.start()
    ct.fuse.mount("/mnt/nas", options="allow_other")
    command = Command(anybodys)
    command.look_into(lxc)
    command.config.chmod(0o644)
    reads = ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "+dac_read_search"]
    nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *reads]
    nobody += ["--bounding-set", "-all,+dac_read_search", "--"]
    command_line = [*nobody, *command.argv("--once", "--json")]
    done = subprocess.run(command_line, env=command.environment(), capture_output=True, timeout=LIMIT, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr.decode()
    document = json.loads(done.stdout)
    assert [(m["target"], m["status"]) for m in document["mounts"]] == [(mounted.mount_point, "ok")]
    said = "lxc-start is running, but without more privilege its containers cannot be seen"
    assert [note for note in document["notes"] if said in note]
    assert said in done.stderr.decode()
