"""`watcher explain`, run as a person runs it: with a service and without, on the host and in a container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import session_cgroup
from tests.fakes.cgroups import join, prune
from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, OK, FuseServer
from tests.fakes.fuse_server import mount, unmount
from tests.integration.looking import Command, notes_of_ours, of_ours, source_of_ours
from tests.integration.service import Outcome, Site
from watcher.control import ask
from watcher.probing import child as probe_child

pytestmark = pytest.mark.kernel

MakeDir = Callable[..., bytes]


def document(outcome: Outcome) -> dict[str, Any]:
    assert "Traceback" not in outcome.err, outcome.err
    read: dict[str, Any] = json.loads(outcome.out)
    return read


# ---- with a service


async def test_a_stale_mount_with_its_history_asked_of_the_service(site: Site) -> None:
    nas = site.mount("nas", source="nas01:/export", fstype="fuse.sshfs")
    site.write_config()
    async with site.service() as service:
        await service.wait_for_line("watching")
        nas.set(HANG)
        await service.wait_for_line("stale: ")
        asked = nas.counters().requests
        path = f"{site.place('nas')}/films/../films/1.mkv"
        outcome = await site.run("explain", "--json", path)
        told = document(outcome)
        assert (outcome.code, told["answered_by"]) == (2, "service")
        assert told["asked"] == {"namespace": "host", "path": f"{site.place('nas')}/films/1.mkv", "text": path}
        entry = told["mount"]
        assert (entry["status"], entry["cause"], entry["server"]) == ("stale", "timeout", "nas01")
        assert entry["target"] == site.place("nas")
        # Why, and what to do, as an alarm says it.
        place = site.place("nas")
        # Older kernels do not tell which process serves it.
        ps = r"(; ps -ww -o args= -p \d+)?"
        assert re.match(rf"Do: ssh -o ConnectTimeout=5 nas01 true{ps} # does nas01 answer\?", told["advice"][0])
        assert f"/abort; umount -l {place}; sshfs nas01:/export {place}; fi # " in told["advice"][1]
        # Nothing but the service's own probes has come to the mount.
        assert {k: v for k, v in nas.counters().requests.items() if k != "STATFS"} == {
            k: v for k, v in asked.items() if k != "STATFS"
        }
        nas.set(OK)
        await service.wait_for_line("stale no more: ")
        assert await service.end() == 0

    outcome = await site.run("explain", site.place("nas"))
    assert outcome.code == 0, outcome
    assert outcome.out.startswith(f"ok: host {site.place('nas')}\n  nas01:/export; fuse.sshfs\n")
    assert "Judged by one probe" in outcome.out
    history = outcome.out.partition("History, the latest first\n")[2].splitlines()
    assert [line.split("  ")[2].partition(":")[0] for line in history] == ["ok again", "stale"]


async def test_the_service_asked_badly(site: Site) -> None:
    site.write_config()
    async with site.service() as service:
        await service.wait_until(lambda: site.socket.exists(), "it listens")
        for query, status in (("?on=", 422), ("?id=x", 404), ("?on=ct:1", 422), ("?x=1", 400), ("?on=/a&on=/b", 400)):
            answer = await asyncio.to_thread(ask, str(site.socket), "GET", f"mounts{query}")
            assert answer.status == status, (query, answer)
        answer = await asyncio.to_thread(ask, str(site.socket), "GET", "mounts?on=/%ff%0a")
        assert (answer.status, answer.body["mounts"]) == (200, [])
        assert await service.end() == 0


# ---- without one


def test_by_a_probe_that_hangs(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    nas = fuse.mount(mount_dir("mnt/nas"), source="nas01:/export", fstype="fuse.sshfs", mode=HANG)
    other = fuse.mount(mount_dir("mnt/other"))
    outcome = command.run("explain", f"{nas.path.decode()}/a/b")
    assert (outcome.code, of_ours(outcome.stderr)) == (2, "")
    first, second, *rest = outcome.stdout.splitlines()
    assert (first, second) == (f"STALE: host {nas.path.decode()}", "  nas01:/export; fuse.sshfs")
    assert "  NO ANSWER: no answer within 1 s" in rest
    assert "  Judged by one probe: no service was asked" in rest
    assert other.counters().requests.get("STATFS", 0) == 0  # only what was asked for


def test_wrong_and_partial_paths_list_what_is_there(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    nas, iso = (fuse.mount(mount_dir(f"mnt/{n}"), mode=HANG).path.decode() for n in ("nas", "iso"))
    parent = nas.rpartition("/")[0]
    for path, first in ((parent, iso), (f"{nas}x", nas), (f"{parent}/na", nas), ("/", iso)):
        outcome = command.run("explain", path)
        assert (outcome.code, of_ours(outcome.stderr)) == (2, "")
        lines = outcome.stdout.splitlines()
        assert lines[0] == f"No watched mount holds {path}"
        listed = lines[lines.index("Watched are") + 1 :]
        assert listed[0].strip() == first
        assert {line.strip() for line in listed} == {nas, iso}
    told = json.loads(command.run("explain", "--json", parent).stdout)
    assert (told["mount"], told["answered_by"]) == (None, None)
    assert [place["target"] for place in told["nearby"]] == [iso, nas]


def test_by_a_symlink_and_by_what_is_mounted(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, tmp_path: Path
) -> None:
    nas = fuse.mount(mount_dir("mnt/nas"), source="nas01:/ex port", fstype="fuse.sshfs", mode=HANG)
    two = [fuse.mount(mount_dir(f"mnt/{n}"), source="nas02:/x", fstype="fuse.sshfs", mode=HANG) for n in ("a", "b")]
    (tmp_path / "srv").symlink_to("mnt")
    (tmp_path / "films").symlink_to(f"{tmp_path}/srv/nas/films/../new")
    for text, leads_to in (
        (f"{tmp_path}/srv/nas/", nas.mount_point),
        (f"{tmp_path}/films/1.mkv", f"{nas.mount_point}/new/1.mkv"),
        ("nas01:/ex port/", nas.mount_point),
        ("nas01:", nas.mount_point),
    ):
        told = json.loads(command.run("explain", "--json", text).stdout)
        assert (told["mount"]["target"], told["leads_to"]["target"]) == (nas.mount_point, leads_to)
    # Where one stands is no matter then, and what is called like a path is none.
    here = fuse.mount(mount_dir("mnt/here"), source="/srv", fstype="fuse.bindfs")
    inside = ["env", "--chdir", here.mount_point, *command.argv("explain", "--json", "nas01:")]
    done = subprocess.run(inside, env=command.environment(), capture_output=True, timeout=60)
    told = json.loads(done.stdout)
    assert told["mount"]["target"] == nas.mount_point
    told = json.loads(command.run("explain", "--json", "/srv").stdout)
    assert (told["mount"], told["leads_to"]) == (None, None)
    shown = command.run("explain", "nas01:/ex port").stdout
    assert shown.startswith(f"STALE: host {nas.mount_point}\n  nas01:/ex port leads to {nas.mount_point}\n")
    told = json.loads(command.run("explain", "--json", "nas02:/x").stdout)
    assert (told["mount"], told["leads_to"]) == (None, None)
    assert [place["target"] for place in told["nearby"]][:2] == [mount.mount_point for mount in two]
    assert [mount.counters().requests.get("STATFS", 0) for mount in two] == [0, 0]


def test_what_is_mounted_over_it_is_another_matter(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    nas = fuse.mount(mount_dir("mnt/nas"))
    command.sections["watch"] += '\nfstypes = ["fuse.*"]'
    command.write()
    mount(b"none", nas.path, b"tmpfs")
    try:
        outcome = command.run("explain", f"{nas.path.decode()}/x")
        assert outcome.code == 2
        assert f"It lies on {nas.path.decode()} (none, tmpfs), which is not watched" in outcome.stdout
    finally:
        unmount(nas.path)


@pytest.mark.parametrize(
    ("path", "word"),
    [("ct:101", "names no path"), ("ct:../x:/y", "names no container"), ("ct:101:x", "names no path"), ("", "no path")],
)
def test_what_is_no_path(command: Command, path: str, word: str) -> None:
    outcome = command.run("explain", path)
    assert outcome.code == 3
    assert word in outcome.stderr
    assert outcome.stdout == ""


# ---- containers


def test_in_a_container_and_where_else_it_stands(
    fuse: FuseServer, lxc: Containers, mount_dir: MakeDir, command: Command
) -> None:
    shared = fuse.mount(mount_dir("nas"), source="nas01:/media", fstype="fuse.sshfs")
    ct = lxc.start(name="plex", user_namespace=True, binds={shared.mount_point: "/media"})
    own = ct.fuse.mount("/mnt/own", mode=HANG, source="nas02:/own")
    command.look_into(lxc)

    outcome = command.run("explain", f"{ct.namespace}:/media/films")
    assert (outcome.code, of_ours(outcome.stderr)) == (0, "")
    assert outcome.stdout.startswith(f"ok: CT {ct.ctid} plex /media\n")
    assert f"  The same file system stands at\n    host {shared.mount_point}\n" in outcome.stdout
    told = json.loads(command.run("explain", "--json", shared.mount_point).stdout)
    assert [(p["namespace"], p["target"], p["lxc_name"]) for p in told["places"]] == [(ct.namespace, "/media", "plex")]

    # It is the host's to mend.
    shared.set(HANG)
    outcome = command.run("explain", f"{ct.namespace}:/media")
    assert outcome.code == 2
    assert f"/abort; umount -l {shared.mount_point}; sshfs nas01:/media {shared.mount_point}; fi # " in outcome.stdout
    shared.set(OK)

    outcome = command.run("explain", f"{ct.namespace}:/mnt/own/deep")
    assert outcome.code == 2
    assert f"lxc-attach -n {ct.ctid} -- umount -l /mnt/own" in outcome.stdout or f"pct exec {ct.ctid}" in outcome.stdout
    assert own.counters().parked == 1

    outcome = command.run("explain", "ct:999999999:/media")
    assert outcome.code == 2
    assert "no such container runs" in outcome.stderr


def test_a_container_that_sees_the_disk(
    fuse: FuseServer, lxc: Containers, mount_dir: MakeDir, command: Command
) -> None:
    directory = mount_dir("nas")
    ct = lxc.start("", name="arr", binds={directory.decode(): "/data"})
    nas = fuse.mount(directory, source="nas01:/export")
    command.look_into(lxc)
    outcome = command.run("explain", f"{ct.namespace}:/data/x")
    assert (outcome.code, of_ours(outcome.stderr)) == (2, "")
    first, second, *rest = outcome.stdout.splitlines()
    assert (first, second) == (f"NOT MOUNTED: CT {ct.ctid} arr /data", "  nas01:/export; fuse.test")
    assert [line for line in rest if "sees the disk under nas01:/export" in line]
    assert rest[-1].startswith("Do: ")
    assert "what it wrote there meanwhile" in rest[-1]
    assert nas.counters().requests.get("STATFS", 0) == 0


async def test_the_service_is_asked_of_containers_too(site: Site, lxc: Containers) -> None:
    nas = site.mount("nas")
    ct = lxc.start(name="plex", binds={nas.mount_point: "/media"})
    own = ct.fuse.mount("/mnt/own", mode=HANG)
    site.write_config(lxc=lxc)
    async with site.service() as service:
        await service.wait_for_line(f"stale: {ct.namespace}:/mnt/own")
        told = document(await site.run("explain", "--json", f"{ct.namespace}:/mnt/own/x"))
        assert (told["answered_by"], told["mount"]["status"], told["mount"]["lxc_name"]) == ("service", "stale", "plex")
        told = document(await site.run("explain", "--json", f"{ct.namespace}:/media"))
        assert (told["answered_by"], told["mount"]["status"]) == ("service", "ok")
        assert [place["target"] for place in told["places"]] == [nas.mount_point]
        assert await service.end() == 0
    assert own.counters().parked <= 1


# ---- what hangs on it


def test_what_hangs_on_it(
    fuse: FuseServer, lxc: Containers, mount_dir: MakeDir, command: Command, tmp_path: Path
) -> None:
    """Storages, guests and processes: one that has a directory of it, one that waits in open(2), one of a container."""
    nas = fuse.mount(mount_dir("nas"), source=source_of_ours("media"), fstype="fuse.sshfs")
    ct = lxc.start(name="plex", binds={nas.mount_point: "/media"})
    pve, export = tmp_path / "pve", nas.source.partition(":")[2]
    (tmp_path / "films").symlink_to(nas.mount_point)
    linked = f"dir: films\n\tpath {tmp_path}/films/a\n"
    for name, text in (
        ("storage.cfg", f"nfs: nas01\n\tpath {nas.mount_point}\n\tserver nas01\n\texport {export}\n\n{linked}"),
        ("lxc/105.conf", f"hostname: arr\nmp0: {nas.mount_point}/films,mp=/films\n"),
        ("qemu-server/200.conf", "name: win\nscsi0: nas01:200/vm-200-disk-0.qcow2,size=32G\n"),
    ):
        (pve / name).parent.mkdir(parents=True, exist_ok=True)
        (pve / name).write_text(text)
    command.look_into(lxc)
    paths = command.sections["paths"].replace("lxc_config = [", f'lxc_config = ["{pve}/lxc", ')
    command.sections["paths"] = f'{paths}\nstorage = "{pve}/storage.cfg"'
    command.write()
    with contextlib.ExitStack() as processes:
        here = processes.enter_context(subprocess.Popen(["sleep", "1000"], cwd=nas.mount_point))
        processes.callback(here.kill)
        nas.set(HANG)
        waiting = processes.enter_context(
            subprocess.Popen(["stat", "-f", f"{nas.mount_point}/."], stdout=subprocess.DEVNULL)
        )
        processes.callback(nas.abort)
        nas.wait_parked(1)
        outcome = command.run("explain", "--json", nas.mount_point)
        assert outcome.code == 2, outcome
        told = outcome.document
        found = told["radius"]
        assert found["storages"] == ["nas01", "films"]  # the latter by a symlink
        assert [(g["type"], g["id"], g["name"], g["how"], g["key"]) for g in found["guests"]] == [
            ("ct", "105", "arr", "bind", "mp0"),
            ("vm", "200", "win", "disk", None),
        ]
        processes_found = {p["pid"]: p for p in found["processes"]}
        assert processes_found[here.pid] == {
            "pid": here.pid, "name": "sleep", "namespace": "host", "unit": processes_found[here.pid]["unit"],
            "blocked": False, "uses": True,
        }  # fmt: skip
        assert processes_found[waiting.pid]["blocked"]
        assert not [p for p in found["processes"] if p["name"].startswith("python")]
        shown = command.run("explain", f"{ct.namespace}:/media").stdout
        assert "  Hangs on it: PVE storage nas01, films; CT 105 arr (mp0), VM 200 win (disk); " in shown
        assert notes_of_ours(told["notes"]) == []


@pytest.mark.cgroups
def test_who_still_holds_an_older_mount(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, request: pytest.FixtureRequest
) -> None:
    """In a mount namespace of its own, as Docker's containers have: the host has mounted the same source anew since."""
    directory = mount_dir("mnt/nas")
    old = fuse.mount(directory, source=source_of_ours("media"), fstype="fuse.sshfs")
    other = fuse.mount(mount_dir("mnt/other"), source=source_of_ours("films"), fstype="fuse.sshfs")
    cgroup = f"{request.config.stash[session_cgroup].path}/docker-{'ab' * 32}.scope"
    os.mkdir(cgroup)
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", 'cd "$0"; echo there; exec sleep 1000']
    with contextlib.ExitStack() as processes:
        processes.callback(prune, cgroup)
        users = {}
        for mounted in (old, other):
            process = processes.enter_context(
                subprocess.Popen([*inside, mounted.mount_point], stdout=subprocess.PIPE, text=True)
            )
            processes.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            users[mounted] = process.pid
        join(cgroup, users[old])
        unmount(directory)
        anew = fuse.mount(directory, source=old.source, fstype="fuse.sshfs")
        assert anew.device != old.device
        found = command.run("explain", "--json", anew.mount_point).document["radius"]
        assert found["docker"] == [{"id": "ab" * 6, "namespace": "host", "old": True}]
        assert [(p["pid"], p["namespace"], p["uses"]) for p in found["processes"]] == [(users[old], "other", True)]
        shown = command.run("explain", anew.mount_point).stdout
        assert f"Docker container {'ab' * 6} (holds an older mount, or one of its own)" in shown
        # What stands there as it does here is no older one.
        found = command.run("explain", "--json", other.mount_point).document["radius"]
        assert found["docker"] == [{"id": "ab" * 6, "namespace": "host", "old": False}]
        assert [p["pid"] for p in found["processes"]] == [users[other]]


_AMONG_MANY = """import os, signal, subprocess, sys
count, path, *command = sys.argv[1:]
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(5)]
for number in range(int(count)):
    if os.fork() == 0:
        if number == int(count) - 1:
            os.chdir("/")
            held.append(os.open(path, os.O_RDONLY))
        signal.pause()
sys.exit(subprocess.run(command).returncode)
"""


@pytest.mark.parametrize("count", [0, 2000])
def test_who_asks_is_told_of_all_or_that_there_is_nothing(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, count: int
) -> None:
    """In a pid namespace of its own, where nothing is kept from us: of very many the last has it open."""
    nas = fuse.mount(mount_dir("mnt/nas"), source=source_of_ours("export"))
    alone = [
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-I",
        "-S",
        "-c",
        _AMONG_MANY,
    ]
    argv = [*alone, str(count), nas.mount_point, *command.argv("explain", *(["--json"] if count else []))]
    done = subprocess.run(
        [*argv, nas.mount_point], cwd="/", env=command.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    if not count:
        assert "  On it: nothing found\n" in done.stdout
        return
    told = json.loads(done.stdout)
    assert (told["radius"]["users"], told["radius"]["complete"]) == (1, True), told["notes"]


def test_an_ordinary_user_is_told_that_he_does_not_see_all(
    fuse: FuseServer, mount_dir: MakeDir, command: Command
) -> None:
    """One who may read all files, so that he can start Python wherever that lies."""
    nas = fuse.mount(mount_dir("mnt/nas"), source=source_of_ours("export"))
    may_read = [f"{flag}+dac_read_search" for flag in ("--inh-caps=", "--ambient-caps=")]
    somebody = ["setpriv", "--reuid=65534", "--clear-groups", *may_read, "--"]
    argv = [*somebody, *command.argv("explain", nas.mount_point)]
    done = subprocess.run(argv, cwd="/", env=command.environment(), capture_output=True, text=True, timeout=60)
    assert "  Hangs on it: nothing found, but not all could be looked at\n" in done.stdout, done
    assert "what hangs on it may be more: only root sees all\n" in done.stderr


_SLEEP = "import time; print('there', flush=True); time.sleep(1000)"
_DEEP = """import os, resource, sys, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
there = os.getcwd()
os.chdir(sys.argv[1])
while len(os.getcwd()) < 4000:
    os.mkdir("a")
    os.chdir("a")
held = [os.open(".", os.O_PATH) for _ in range(min(limit, 4200) - 100)]
while os.getcwd() != sys.argv[1]:  # its name stays what it was
    os.chdir("..")
    os.rmdir("a")
os.chdir(there)
print("there", flush=True)
time.sleep(1000)
"""


def test_who_wants_to_hold_up_the_search_or_be_taken_for_ours(
    fuse: FuseServer, mount_dir: MakeDir, command: Command, tmp_path: Path
) -> None:
    """Thousands of descriptors of paths of thousands of parts; our child's own command line, as a container has it."""
    nas = fuse.mount(mount_dir("mnt/nas"), source=source_of_ours("export"))
    sleep = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", _SLEEP, probe_child.__file__]
    with contextlib.ExitStack() as processes:
        for argv in ([sys.executable, "-c", _DEEP, str(tmp_path)], sleep):
            process = subprocess.Popen(argv, cwd=nas.mount_point, stdout=subprocess.PIPE)
            processes.enter_context(process)
            processes.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
        told = command.run("explain", "--json", nas.mount_point).document
    found = told["radius"]
    assert sorted(p["name"].rstrip("0123456789.") for p in found["processes"]) == ["python", "python", "unshare"]
    assert found["users"] == 3
    assert [note for note in notes_of_ours(told["notes"]) if "in time" in note] == []


def test_a_configuration_that_hangs_costs_its_time_only(fuse: FuseServer, mount_dir: MakeDir, command: Command) -> None:
    """As /etc/pve does when the cluster's file system is stuck: the processes are told all the same."""
    nas, pve = fuse.mount(mount_dir("mnt/nas"), source=source_of_ours("export")), fuse.mount(mount_dir("pve"))
    command.sections["paths"] += f'\nlxc_config = ["{pve.mount_point}/lxc"]'
    command.write()
    with subprocess.Popen(["sleep", "1000"], cwd=nas.mount_point) as here:
        pve.set(HANG)
        outcome = command.run("explain", "--json", nas.mount_point)
        here.kill()
    assert outcome.code == 0
    assert [p["pid"] for p in outcome.document["radius"]["processes"]] == [here.pid]
    assert notes_of_ours(outcome.document["notes"]) == ["what is configured on it could not all be read in time"]
    pve.set(OK)
