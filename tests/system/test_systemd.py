"""The unit of contrib/systemd under real systemds: Debian 12's 252 and Debian 13's 257.

Durations are printed, not judged: where one matters, systemd's own time limit judges it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fakes.containers import Containers
from tests.fakes.fuse import CONNECTIONS, HANG, OK, UNREAD, FuseMount, FuseServer
from tests.fakes.receivers import GotifyMessage, GotifyReceiver
from tests.system import sandbox
from tests.system import unit as units
from tests.system.net import Server, mountinfo, run
from tests.system.unit import LIMIT, NAME, RUNTIME, STATE, Unit, command
from tests.system.waiting import until

pytestmark = pytest.mark.timeout(300)

WEDGED = 50


TRIXIE = pytest.param("trixie", marks=pytest.mark.lab("systemd-257", suite="trixie"))
BOOKWORM = pytest.param("bookworm", marks=pytest.mark.lab("systemd-252", suite="bookworm"))


@pytest.fixture(autouse=True)
def debian() -> None:
    """The release in whose lab a test runs."""


on_both = pytest.mark.parametrize("debian", [TRIXIE, BOOKWORM], indirect=True)
on_trixie = pytest.mark.parametrize("debian", [TRIXIE], indirect=True)  # where nothing hangs on systemd's version


@pytest.fixture
def machine() -> None:
    """What udev and systemd do on a whole machine."""
    run("modprobe", "fuse")
    os.chmod("/dev/fuse", 0o666)
    if not mountinfo(CONNECTIONS):
        run("mount", "-t", "fusectl", "fusectl", str(CONNECTIONS))


@pytest.fixture
async def unit(machine: None) -> AsyncIterator[Unit]:
    async with Unit() as unit:
        yield unit


class Place:
    """A directory with FUSE mounts, which the service is told to watch."""

    def __init__(self, directory: Path, server: FuseServer) -> None:
        self.directory = directory
        self.server = server

    @property
    def pattern(self) -> str:
        return f"{self.directory}/*"

    def mount(self, name: str, **options: object) -> FuseMount:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return self.server.mount(path, source=f"{name}:/export", **options)  # type: ignore[arg-type]


@pytest.fixture
def place(machine: None) -> Iterator[Place]:
    directory = Path("/srv/m")
    directory.mkdir(exist_ok=True)
    with FuseServer() as server:
        yield Place(directory, server)
    shutil.rmtree(directory)


def say(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def asked(mounted: FuseMount) -> int:
    return mounted.counters().requests.get("STATFS", 0)


async def rounds(mounted: FuseMount, more: int = 3) -> None:
    """Until a mount that answers has been asked so many times more."""
    had = asked(mounted)
    await until(lambda: asked(mounted) >= had + more, f"{more} more probes")


# ---- the file


@on_both
async def test_the_unit_is_clean_and_as_closed_as_it_claims(unit: Unit, capsys: pytest.CaptureFixture[str]) -> None:
    await unit.reload()
    verified = await command("systemd-analyze", "verify", NAME)
    assert verified == (0, "", "")
    exposed = await exposure()
    say(capsys, f"exposure {exposed}")
    assert exposed <= 4.8  # what each tenth is for stands in the README


async def exposure() -> float:
    """Of ten, as `systemd-analyze security` reckons."""
    security = await command("systemd-analyze", "security", "--no-pager", NAME)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", security.out)
    assert found, security
    return float(found[1])


@on_both
async def test_what_the_sandbox_lets_pass(unit: Unit) -> None:
    """Also with Debian's own Python, whose ctypes is built otherwise."""
    said = {sys.executable: Path("/tmp/said"), "/usr/bin/python3": Path("/tmp/said-by-debian")}
    checks = [f"ExecStartPre={python} {sandbox.__file__} {file}" for python, file in said.items()]
    unit.drop_in(*checks)
    await unit.systemctl("start")
    for file in said.values():
        errors = json.loads(file.read_text())
        assert {what: errors[what] for what in sandbox.WORKS} == dict.fromkeys(sandbox.WORKS, "")
        others = {"raw sockets": "EAFNOSUPPORT", "code on a writable page": errors["code on a writable page"]}
        assert errors["code on a writable page"] in ("EPERM", "EACCES")  # by seccomp, or by the kernel itself (6.3)
        assert {what: errors[what] for what in sandbox.REFUSED} == dict.fromkeys(sandbox.REFUSED, "EPERM") | others


# ---- its start


@on_both
async def test_a_boot_does_not_wait_for_remote_file_systems(unit: Unit) -> None:
    """A server in fstab whose packets are dropped keeps the boot's transaction open; the service is there."""
    run("systemctl", "mask", "--runtime", "--quiet", "getty.target")  # would take the lab's terminal
    run("iptables-legacy", "-I", "INPUT", "-d", "127.0.0.9", "-j", "DROP")
    fstab = Path("/etc/fstab")
    before = fstab.read_text()
    fstab.write_text(f"{before}127.0.0.9:/export /mnt/nas nfs vers=4.2,_netdev 0 0\n")
    try:
        await unit.systemctl("enable", "--quiet")  # has systemd read fstab, too
        # As at a boot: one transaction with everything in it.
        done = await command("systemctl", "start", "--no-block", "multi-user.target")
        assert done.code == 0, done
        await unit.until(lambda p: p["SubState"] == "running", "SubState")
        mount = await unit.show("ActiveState", unit="mnt-nas.mount")
        target = await unit.show("ActiveState", unit="multi-user.target")
        assert (mount["ActiveState"], target["ActiveState"]) == ("activating", "inactive")
    finally:
        fstab.write_text(before)
        await command("systemctl", "stop", "--no-block", "multi-user.target", "mnt-nas.mount")
        await command("systemctl", "kill", "--signal=KILL", "mnt-nas.mount")
        run("iptables-legacy", "-D", "INPUT", "-d", "127.0.0.9", "-j", "DROP")
        await unit.until(lambda p: p["ActiveState"] in ("inactive", "failed"), "ActiveState", unit="mnt-nas.mount")
        await unit.systemctl("disable", "--quiet")  # reloads, too
    waits_for = (await command("systemctl", "list-dependencies", "--after", "--plain", NAME)).out.split()
    assert "basic.target" in waits_for
    assert not {"remote-fs.target", "network-online.target", "network.target"} & set(waits_for)


@on_trixie
async def test_it_is_ready_before_the_first_answer_and_sees_the_machines_own_mounts(unit: Unit, place: Place) -> None:
    dead = place.mount("dead", mode=HANG)
    unit.configure([place.pattern], more="[nonsense]", timeout="5m", alarm_after="10m")
    await unit.systemctl("start")
    await asyncio.to_thread(dead.wait_parked, timeout=LIMIT)
    assert await unit.status("watching 1 mount: 1 unknown")
    pid = await unit.main_pid()
    assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/1/ns/mnt")
    place.mount("late")
    watching = await unit.line("watching .*/late")
    assert watching["PRIORITY"] == "6"
    assert watching["SYSLOG_IDENTIFIER"] == "watcher"
    assert (await unit.line("nonsense"))["PRIORITY"] == "4"
    assert dead.counters().parked == 1


@on_trixie
async def test_it_starts_by_itself_once_its_configuration_can_be_used(unit: Unit, place: Place) -> None:
    unit.drop_in("RestartSec=100ms")
    await unit.reload()
    unit.write_config("broken")
    assert (await command("systemctl", "start", NAME)).code != 0
    place.mount("fine")
    unit.configure([place.pattern])
    await unit.line("watching .*/fine")


@on_trixie
async def test_a_reload_takes_the_new_configuration(unit: Unit, place: Place) -> None:
    place.mount("fine")
    place.mount("other")
    unit.configure([f"{place.directory}/fine"])
    await unit.systemctl("start")
    await unit.line("watching .*/fine")
    pid = await unit.main_pid()
    unit.configure([place.pattern])
    await unit.systemctl("reload")
    await unit.line(r"reloading the configuration \(SIGHUP\)")
    await unit.line("watching .*/other")
    assert await unit.until(lambda p: p["ActiveState"] == "active", "ActiveState")
    assert await unit.main_pid() == pid


# ---- its end, wanted or not


@on_both
async def test_a_watcher_that_stands_still_is_replaced(unit: Unit, place: Place) -> None:
    mounted = place.mount("nas")
    unit.configure([place.pattern])
    unit.drop_in("WatchdogSec=10s", "RestartSec=100ms")  # a busy machine may let it wait for seconds
    await unit.systemctl("start")
    pid = await unit.main_pid()
    os.kill(pid, signal.SIGSTOP)
    await unit.restarted(pid)
    await unit.line("Failed with result 'watchdog'")
    mounted.set(HANG)
    await unit.line("stale: .*/nas")


@on_trixie
async def test_a_watcher_that_is_killed_is_replaced_and_leaves_nothing(unit: Unit, place: Place) -> None:
    fine, dead = place.mount("fine"), place.mount("dead", mode=HANG)
    unit.configure([place.pattern], ['url = "gotify://127.0.0.1:1/token"'])  # a courier that tries again
    unit.drop_in("RestartSec=100ms")
    await unit.systemctl("start")
    await unit.line("stale: .*/dead")
    await unit.line("could not tell")
    pid = await unit.main_pid()
    ours = set(unit.processes())
    assert pid in ours
    os.kill(pid, signal.SIGKILL)
    await unit.restarted(pid)
    await unit.line("stale since before the start: .*/dead")

    def left() -> set[int]:
        return {tid for of, tids in alive(unit).items() if of in ours for tid in tids}

    await until(lambda: left() <= noted_threads(), "what it had started has ended, as far as it can")
    await rounds(fine)
    assert asked(dead) == 1


@on_both
async def test_wedged_probes_do_not_hold_it_up(unit: Unit, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    fine = place.mount("fine")
    dead = [place.mount(f"dead{number:02}", mode=HANG) for number in range(WEDGED)]
    unit.configure([place.pattern])
    # systemd is the judge: what waits for them waits for ever, and past this has failed with result "timeout".
    unit.drop_in("TimeoutStopSec=30s")
    await unit.systemctl("start")
    await until(lambda: len(noted_threads()) == WEDGED, f"{WEDGED} threads hang for good")
    stuck = noted_threads()

    began = time.monotonic()
    await unit.systemctl("stop")
    stopped = time.monotonic() - began
    ended = await unit.show("ActiveState", "Result", "ExecMainStatus")
    assert ended == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}
    assert threads(unit) == stuck  # nothing is left but what nobody can kill

    began = time.monotonic()
    await unit.systemctl("start")
    started = time.monotonic() - began
    await rounds(fine)
    pid = await unit.main_pid()
    began = time.monotonic()
    await unit.systemctl("restart")
    restarted = time.monotonic() - began
    assert (await unit.show("Result"))["Result"] == "success"
    assert await unit.main_pid() != pid
    await rounds(fine)
    assert {asked(mounted) for mounted in dead} == {1}  # three runs, one thread on each
    assert noted_threads() == stuck
    say(capsys, f"{WEDGED} wedged: stop {stopped:.2f} s, start {started:.2f} s, restart {restarted:.2f} s")

    for mounted in dead:
        mounted.set(OK)
    await until(lambda: not stuck & threads(unit), "no thread of theirs is left")
    await unit.systemctl("stop")
    assert (await unit.show("ActiveState", "Result")) == {"ActiveState": "inactive", "Result": "success"}
    await until(lambda: not unit.processes(), "no process is left")


def noted_threads() -> set[int]:
    """Those that the service has noted as hanging for good."""
    try:
        files = [json.loads(file.read_text()) for file in (RUNTIME / "wedged").iterdir()]
    except (OSError, ValueError):  # being written
        return set()
    return {thread["tid"] for record in files for thread in record["threads"]}


def alive(unit: Unit) -> dict[int, set[int]]:
    """The threads that run, by process; a process of which only the exit status is left has none."""
    found: dict[int, set[int]] = {}
    for pid in unit.processes():
        for task in Path(f"/proc/{pid}/task").glob("*/stat"):
            try:
                state = task.read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state not in ("Z", "X"):
                found.setdefault(pid, set()).add(int(task.parent.name))
    return found


def threads(unit: Unit) -> set[int]:
    return {tid for tids in alive(unit).values() for tid in tids}


# ---- what it does, with all its restrictions


@on_both
async def test_everything_works_as_without_restrictions(unit: Unit, place: Place, tmp_path: Path) -> None:
    with Server() as server, Containers(tmp_path / "host", cgroup_path="/sys/fs/cgroup") as lxc:
        server.nfs()
        private = place.directory / "private"  # as a user's home, which only that user may enter
        private.mkdir()
        os.chown(private, 1000, 1000)
        private.chmod(0o700)
        (private / "own").mkdir()
        own = place.server.mount(private / "own", source="own:/export")
        away = place.mount("away")
        ct = lxc.start(name="plex", user_namespace=True)
        inside = ct.fuse.mount("/mnt/inside", source="nas:/export", fstype="fuse.sshfs")
        with server.nfs_mount(f"{place.directory}/nfs"):
            async with GotifyReceiver() as gotify:
                secret = units.CONFIG.parent / "gotify.url"
                unit.configure(
                    [place.pattern, f"{ct.namespace}:*"],
                    ['credential = "gotify"'],
                    watch='missing_after = "1s"',
                    more=f"""[[expect]]\nmount = "{away.mount_point}"
                    [paths]\nlxc_config = {json.dumps(lxc.lxc_config_dirs)}""",
                    timeout="4s",
                    alarm_after="5s",
                )
                secret.write_text(gotify.url)
                secret.chmod(0o600)
                unit.drop_in(f"LoadCredential=gotify:{secret}")
                await unit.systemctl("start")
                await unit.status("watching 4 mounts on the host and in 1 container: 4 ok")
                await until(lambda: answered() == {"host": 3}, "what has answered is kept")
                pid = await unit.main_pid()
                assert os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/1/ns/mnt")  # credentials need none

                away.unmount()
                missing = (await gotify.wait_for(1, timeout=LIMIT))[0]
                underneath = await written_to(Path(away.mount_point), gotify)
                await asyncio.to_thread(place.mount, "away")
                await gotify.wait_for(3, timeout=LIMIT)

                # Beside the receiver, which has yet to answer for the last message.
                await asyncio.to_thread(server.cut)
                own.set(HANG)
                inside.set(UNREAD)  # can be killed, though in another user namespace
                await until(lambda: len(alarms(gotify)) == 3, "three are told")
                by_place = alarms(gotify)
                assert len(noted_threads()) == 1  # what can be killed has been
                await asyncio.to_thread(server.join)
                own.set(OK)
                inside.set(OK)
                await until(lambda: len({m.title for m in gotify.received if "🟢" in m.title}) == 4, "all are well")
    assert "away NOT MOUNTED" in missing.title
    assert underneath.title.endswith("away NOT MOUNTED, written to underneath")
    assert re.search(rf"^Something writes to .* under {away.mount_point}: [\d.]+ MiB since ", underneath.message, re.M)
    assert all("hangs in " in message for message in by_place.values()), by_place
    assert "plex" in by_place["/mnt/inside"]
    # Nothing is kept from the search for what hangs on it, whose findings most of them have.
    assert not [m.message for m in gotify.received if "cannot be seen" in m.message]


def alarms(gotify: GotifyReceiver) -> dict[str, str]:
    """What is told of each mount that hangs, by the end of its mount point."""
    told = [m.message for m in gotify.received if "NO ANSWER" in m.title and "🔴" in m.title]
    return {where: m for m in told for where in ("/nfs", "/private/own", "/mnt/inside") if where in m}


async def written_to(directory: Path, gotify: GotifyReceiver) -> GotifyMessage:
    """Fill it, a MiB at a time, until a second message is there."""
    for number in range(3 * int(LIMIT)):  # it is looked every 15 s, and on a busy machine later
        (directory / f"film{number}").write_bytes(bytes(1 << 20))
        try:
            return (await gotify.wait_for(2, timeout=1.0))[1]
        except TimeoutError:
            continue
    raise AssertionError(f"nobody says that something is written to {directory}: {gotify.received}")


@on_trixie
async def test_hosts_without_containers_can_close_it_further(unit: Unit, place: Place) -> None:
    units.DROP_INS.mkdir()
    shutil.copy(units.SOURCE.with_name("without-containers.conf"), units.DROP_INS)
    await unit.reload()
    assert (await command("systemd-analyze", "verify", NAME)) == (0, "", "")
    assert await exposure() <= 4.0
    mounted = place.mount("nas")
    unit.configure([place.pattern])
    await unit.systemctl("start")
    await rounds(mounted)
    mounted.set(HANG)
    await unit.line(r"stale: .*/nas .*\(hangs in ")
    mounted.set(OK)
    await unit.line("stale no more: .*/nas")


def answered() -> dict[str, int]:
    """How many mounts of which namespace the state has."""
    try:
        with closing(sqlite3.connect(f"file:{STATE / 'state.db'}?mode=ro", uri=True)) as db:
            return dict(
                db.execute("SELECT namespace, count(*) FROM health WHERE answered GROUP BY namespace").fetchall()
            )
    except sqlite3.Error:  # not there yet
        return {}
