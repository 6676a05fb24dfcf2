"""Why a mount fails, and what to do: real FUSE mounts, real listening sockets, the real service and a receiver."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, NO_INIT, FuseMount
from tests.fakes.receivers import GotifyReceiver
from tests.integration.service import HOST, LIMIT, Site
from tests.integration.test_notifications import asked, until_told
from watcher import procfs, radius
from watcher.children import Children, script
from watcher.core.evidence import Endpoint, Evidence, Port, Question
from watcher.core.incident import Condition, Incident, Member
from watcher.core.mountinfo import parse
from watcher.core.served import Served
from watcher.investigating import Investigator
from watcher.model import HOST as ON_HOST
from watcher.model import Cause, Kind, MountState, Place, Reach, Subject, Superblock
from watcher.probing.evidence import gather
from watcher.reading import FileReader
from watcher.settings import Paths

pytestmark = pytest.mark.kernel


async def ask(children: Children, *questions: Question, fstab: str = "/etc/fstab") -> list[Evidence]:
    mounts, served = parse(procfs.read("/proc/self/mountinfo")), Served()
    found, _ = await asyncio.gather(
        gather(questions, children=children, reader=FileReader(children), mounts=mounts, fstab=fstab, limit=30.0),
        radius.look([], [], children, Paths(lxc_config=()), limit=30.0, questions=questions, served=served),
    )
    return [evidence._replace(daemons=served.by(evidence.question)) for evidence in found]


def fuse_question(mount: FuseMount, namespace: str = ON_HOST, **more: object) -> Question:
    superblock = Superblock(mount.device, "/", mount.fstype, mount.source)
    return Question(superblock, Place(namespace, mount.mount_point), **more)  # type: ignore[arg-type]


def nfs_question(*endpoints: Endpoint, number: int = 1, namespace: str = ON_HOST, init_pid: int = 0) -> Question:
    superblock = Superblock(f"0:{9000 + number}", "/", "nfs4", "nas01:/x")
    return Question(superblock, Place(namespace, "/mnt/nas"), endpoints, init_pid=init_pid)


# ---- the service


async def test_a_fuse_process_that_never_finished_its_start(site: Site) -> None:
    """The gvfs case: a second mount on one directory, whose INIT nobody answers; and its advice, followed, ends it."""
    first = site.mount("gvfs", source="gvfs-fuse-daemon", fstype="fuse.gvfs-fuse-daemon")
    site.mount("gvfs", mode=NO_INIT, source="gvfs-fuse-daemon", fstype="fuse.gvfs-fuse-daemon")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            told = await until_told(gotify, f"🔴 {HOST}: {first.mount_point} NO ANSWER")
            lines = told.message.splitlines()
            [advice] = [line for line in lines if line.startswith("Do: ")]
            line = advice.removeprefix("Do: ")  # as it is copied
            assert line.endswith("; fi # unwritten data is lost – 2 mounts stand there, this takes the upper one away")
            done = await asyncio.to_thread(subprocess.run, ["sh", "-ec", line], timeout=LIMIT)
            assert done.returncode == 0
            await until_told(gotify, "remounted, ok")  # the first one is seen again, and answers
            assert await service.end() == 0
    comm = Path(f"/proc/{site.fuse.pid}/comm").read_text().strip()
    started = next(line for line in lines if "finished its start" in line)
    assert re.fullmatch(
        rf"The FUSE process never finished its start: {comm} \(pid {site.fuse.pid}(, [^)]+)?\)",
        started,
    )
    assert "2 mounts stand on this directory, one on the other; below it gvfs-fuse-daemon (fuse.gvfs-fuse-daemon)" in (
        lines
    )
    assert any("the probe hangs in fuse_get_req" in line for line in lines)
    assert len(lines) <= 12


async def test_a_fuse_process_that_is_stopped_is_named(site: Site) -> None:
    cloud, last = site.mount("cloud", source="remote:", fstype="fuse.rclone"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url})
        async with site.service() as service:
            await asked(cloud, last)
            cloud.set(HANG)
            lines = (await until_told(gotify, "NO ANSWER")).message.splitlines()
            assert await service.end() == 0
    assert any(re.match(rf"Served by \S+ \(pid {site.fuse.pid}[,)].*; \d+ requests? waiting$", line) for line in lines)
    assert any(f"/abort; umount -l {cloud.mount_point}" in line for line in lines)


async def test_what_hangs_on_it_is_told_with_it(site: Site) -> None:
    """A storage, a container, a backup that Proxmox VE's worker has started, and who works in it."""
    cloud, last = site.mount("cloud", source=f"films-{os.getpid()}:", fstype="fuse.rclone"), site.mount("last")
    pve = site.path / "pve"
    (pve / "lxc").mkdir(parents=True)
    (pve / "storage.cfg").write_text(f"dir: films\n\tpath {cloud.mount_point}/films\n")
    (pve / "lxc/105.conf").write_text(f"hostname: arr\nmp3: {cloud.mount_point}/x,mp=/x\nlock: backup\n")
    title = "task UPID:pve1:0000ABCD:00112233:6761A1B2:vzdump::root@pam:"
    worker = site.path / title  # what it calls itself, and by that name it is known to the kernel
    worker.symlink_to("/bin/sh")
    backup = ["-c", f"(cd {cloud.mount_point}; echo there; exec sleep 1000); :"]
    async with GotifyReceiver() as gotify:
        site.write_config(
            {"gotify": gotify.url},
            more=f'storage = "{pve}/storage.cfg"\nlxc_config = ["{pve}/lxc"]',
        )
        process = subprocess.Popen([title, *backup], executable=worker, stdout=subprocess.PIPE, start_new_session=True)
        try:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"there\n"
            async with site.service() as service:
                await asked(cloud, last)
                cloud.set(HANG)
                lines = (await until_told(gotify, "NO ANSWER")).message.splitlines()
                assert await service.end() == 0
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    hangs = "Hangs on it: PVE storage films; CT 105 arr (mp3); backup job running: vzdump, at 105"
    # Beside very many processes of others not all are looked at, and that is said behind it.
    [at] = [n for n, line in enumerate(lines) if line.partition(", and maybe more: ")[0] == hangs]
    assert re.match(r"1 process using it: sleep \(\d+(, [^)]+\.service)?\)$", lines[at + 1]), lines
    assert len(lines) <= 12


async def test_what_a_container_serves_itself(site: Site, lxc: Containers) -> None:
    """Its process by the number that it has on the host; commands that work from there."""
    arr = lxc.start(name="arr", user_namespace=True)
    own, last = arr.fuse.mount("/mnt/own", source="me@nas02:/own", fstype="fuse.sshfs"), site.mount("last")
    async with GotifyReceiver() as gotify:
        site.write_config({"gotify": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await asked(own, last)
            own.set(HANG)
            lines = (await until_told(gotify, "NO ANSWER")).message.splitlines()
            assert await service.end() == 0
    served = next(line for line in lines if line.startswith("Served by "))
    pid = int(served.partition("(pid ")[2].partition(")")[0].partition(",")[0])
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{arr.init.pid}/ns/pid")
    abort = f"echo 1 > /sys/fs/fuse/connections/{own.device.partition(':')[2]}/abort"
    inside = f"pct exec {arr.ctid} -- " if arr.ctid.isdecimal() else f"lxc-attach -n {arr.ctid} -- "
    assert any(
        f"{abort}; {inside}umount -l /mnt/own; {inside}sshfs me@nas02:/own /mnt/own; fi #" in s for s in lines
    ), lines


# ---- what is asked


async def test_ports(children: Children) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed, socket.socket() as full:
        closed.bind(("127.0.0.1", 0))
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        busy = [socket.socket() for _ in range(3)]  # the kernel drops what comes once the queue is full
        for connection in busy:
            connection.setblocking(False)
            connection.connect_ex(full.getsockname())
        here, nobody, silent = (Endpoint(*s.getsockname()) for s in (server, closed, full))
        found = await ask(
            children,
            nfs_question(here, number=1),
            nfs_question(nobody, number=2),
            nfs_question(silent, number=3),
            nfs_question(silent, nobody, here, number=4),  # of several monitors one is enough
            nfs_question(number=5),
        )
        for connection in busy:
            connection.close()
    assert [e.port for e in found] == [Port.REACHABLE, Port.REFUSED, Port.NO_ANSWER, Port.REACHABLE, Port.NOT_ASKED]
    assert found[3].endpoint == here


async def test_who_serves_a_mount_and_what_waits(site: Site, children: Children) -> None:
    other = site.server()
    one, two = site.mount("one"), site.mount("two", server=other)
    dead = site.mount("dead", server=(doomed := site.server()))
    doomed.kill()
    await asyncio.to_thread(one.wait_waiting, 0)
    async with asyncio.timeout(LIMIT):  # beside very many that serve others' mounts it is not known that nobody does
        while (found := await ask(children, *map(fuse_question, (one, two, dead))))[2].daemons is None:
            await asyncio.sleep(0.5)
    assert [[d.pid for d in e.daemons or ()] for e in found] == [[site.fuse.pid], [other.pid], []]
    assert [e.waiting for e in found[:2]] == [0, 0]
    assert found[2].daemons == ()


async def test_where_the_kernel_does_not_tell_the_command_line_does(site: Site, children: Children) -> None:
    """Of who has /dev/fuse open, who names the mount point; not who says the same in another pid namespace."""
    place = site.place("x")
    program = "import os, sys; os.open('/dev/fuse', os.O_RDWR); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", program, place]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen(command, **pipes) as server,  # type: ignore[call-overload]
        subprocess.Popen(["unshare", "--pid", "--fork", *command], **pipes) as pretender,  # type: ignore[call-overload]
    ):
        for process in (server, pretender):
            await asyncio.to_thread(process.stdout.readline)
        fields = ["proc", "/proc", "seconds", "30", "fuse", "7", place, "0", Path(sys.executable).resolve().name, ""]
        child = await children.spawn(script(radius.USERS))
        child.write("".join(f"{field}\0" for field in fields).encode())
        child.close_stdin()
        output = b""
        while chunk := await child.read(30.0):
            output += chunk
        for process in (server, pretender):
            process.stdin.close()
    said = [words for line in output.splitlines() if isinstance(words := json.loads(line), list)]
    assert [words for words in said if words[0] == "names"] == [["names", server.pid, 7]]
    assert [server.pid, []] in [[words[1], words[4]] for words in said if words[0] == "holder"]


async def test_from_within_a_containers_network(lxc: Containers, children: Children) -> None:
    """What answers on the host's loopback is none of a container's servers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = Endpoint(*server.getsockname())
        with subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up 2>/dev/null; echo ready; exec sleep 600"],
            stdout=subprocess.PIPE,
        ) as inside:
            try:
                assert inside.stdout is not None
                await asyncio.to_thread(inside.stdout.readline)
                found = await ask(
                    children,
                    nfs_question(here, number=1),
                    nfs_question(here, number=2, namespace="ct:101", init_pid=inside.pid),
                )
                [shared, own] = await gather(
                    [
                        nfs_question(here, number=2, namespace="ct:101", init_pid=inside.pid),
                        nfs_question(
                            here._replace(address="127.0.0.2"), number=3, namespace="ct:101", init_pid=inside.pid
                        ),
                    ],
                    children=children,
                    reader=FileReader(children),
                    mounts=parse(
                        b"30 1 0:9 / /mnt/x rw - nfs4 nas:/x rw,addr=%b,port=%d" % (here[0].encode(), here[1])
                    ),
                    limit=30.0,
                )
            finally:
                inside.kill()
    assert found[0].port is Port.REACHABLE
    assert found[1].port in (Port.REFUSED, Port.UNREACHABLE)
    # Where a mount of its own has that server, the host asks, too; nowhere else does a container make it connect.
    assert [e.port_from_host for e in found] == [Port.NOT_ASKED, Port.NOT_ASKED]
    assert (shared.port, shared.port_from_host) == (found[1].port, Port.REACHABLE)
    assert own.port_from_host is Port.NOT_ASKED


async def test_what_hangs_is_left_out(site: Site, children: Children, tmp_path: Path) -> None:
    """An fstab on a dead mount costs its time, and no more."""
    dead = site.mount("dead", mode=HANG, files=("fstab",), fstype="fuse.sshfs")
    mounts = parse(procfs.read("/proc/self/mountinfo"))
    question = fuse_question(dead)
    [found] = await gather(
        [question],
        children=children,
        reader=FileReader(children),
        mounts=mounts,
        fstab=os.path.join(dead.mount_point, "fstab"),
        limit=1.0,
    )
    assert found.waiting is not None


# ---- its bounds


def incident_of(mount: FuseMount, number: int = 1) -> Incident:
    superblock = Superblock(mount.device, "/", mount.fstype, mount.source)
    about = Subject(superblock, (Place(ON_HOST, mount.mount_point),), "rw")
    member = Member(Kind.STALE, about, Condition.DOWN, 0.0, 0.0, Cause.TIMEOUT)
    return Incident(number, "x", None, 0.0, (member,))


async def test_a_message_waits_for_it_only_so_long(site: Site, children: Children) -> None:
    """It is known once it has been found out, and not when nobody gets round to that."""
    mounted = site.mount("cloud", fstype="fuse.rclone")
    other = site.mount("nas", source="x", fstype="fuse.rclone")
    mounts = parse(procfs.read("/proc/self/mountinfo"))
    ours = {mounted.mount_point, other.mount_point}
    states = [
        MountState(Place(ON_HOST, m.mount_point), m, Reach.STALE, "stale") for m in mounts if m.mount_point in ours
    ]
    investigator = Investigator(
        children,
        FileReader(children),
        states=lambda _: states,
        mounts=lambda: mounts,
        containers=tuple,
        paths=Paths(lxc_config=()),
    )
    assert await investigator.found(incident_of(mounted)) is None
    working = asyncio.create_task(investigator.run())
    async with asyncio.timeout(60):
        while (found := await investigator.found(incident_of(mounted))) is None:
            pass
    assert [d.pid for d in found.daemons or ()] == [site.fuse.pid]
    states.clear()  # it is gone by now: nothing to ask, and nothing said
    assert await investigator.found(incident_of(other)) is None
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
