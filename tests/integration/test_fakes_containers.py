"""The fake LXC containers look and behave, to the kernel and to the host, like the real ones; nothing of them stays."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fakes.containers import ContainerError, Containers, FakeContainer
from tests.fakes.containers import Process as Known
from tests.fakes.fuse import HANG, OK, FuseServer, FuseServerError, Statfs
from tests.fakes.fuse_server import mount as mount_at

MakeDir = Callable[..., bytes]
LIMIT = 60.0  # generous: only a broken fake comes near it
HOST_MARK = b"mark-of-the-host"  # the source of a mount that only the host has
REPOSITORY = Path(__file__).parents[2]

kernel = pytest.mark.kernel
cgroups = pytest.mark.cgroups
both_kinds = pytest.mark.parametrize("user_namespace", [False, True], ids=["privileged", "unprivileged"])


def proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def children(pid: int) -> list[int]:
    return [int(child) for child in proc(pid, f"task/{pid}/children").split()]


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def uids(pid: int) -> list[int]:
    (line,) = [line for line in proc(pid, "status").splitlines() if line.startswith("Uid:")]
    return [int(uid) for uid in line.split()[1:]]


def cgroup_of(pid: int) -> str:
    (line,) = [line for line in proc(pid, "cgroup").splitlines() if line.startswith("0::")]
    return line[3:]


def table(pid: int | str) -> dict[str, list[str]]:
    """Mount point -> the fields of its (last) line."""
    return {line.split()[4]: line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}


def sources(pid: int | str) -> set[str]:
    return {fields[fields.index("-") + 2] for fields in table(pid).values()}


def inside(container: FakeContainer, path: str) -> str:
    return f"/proc/{container.init.pid}/root{path}"


def entries(path: str) -> set[str]:
    return set(os.listdir(path)) if os.path.isdir(path) else set()


@contextmanager
def asking(path: str, *, user_of: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours in `os.statvfs`; it prints the blocks. As root of a process's user namespace, if wanted."""
    code = (
        "import ctypes, os, sys\n"
        "path, pid = sys.argv[1], int(sys.argv[2])\n"
        "fd = os.open(path, os.O_PATH)\n"
        "if pid:\n"
        "    assert ctypes.CDLL(None).setns(os.open(f'/proc/{pid}/ns/user', os.O_RDONLY), 0) == 0\n"
        "    os.setresgid(0, 0, 0)\n"
        "    os.setresuid(0, 0, 0)\n"
        "try: print(os.fstatvfs(fd).f_blocks)\n"
        "except OSError as e: sys.exit(e.errno)"
    )
    command = [sys.executable, "-I", "-S", "-c", code, path, str(user_of)]
    with subprocess.Popen(command, cwd="/", stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def blocks(path: str, *, user_of: int = 0) -> int:
    with asking(path, user_of=user_of) as child:
        return int(child.communicate(timeout=LIMIT)[0])


@pytest.fixture
def host_mark(mount_dir: MakeDir) -> None:
    """A mount of the host by which its table is known; it ends with the session."""
    mount_at(HOST_MARK, mount_dir("host mark"), b"tmpfs")


# ---- what the host sees


@kernel
@pytest.mark.parametrize(
    ("foreground", "title"),
    [(True, "/usr/bin/lxc-start\0-F\0-n\0{}\0"), (False, "[lxc monitor] /var/lib/lxc {}\0")],
    ids=["foreground", "daemonised"],
)
@both_kinds
def test_the_monitor_looks_like_lxc_start(lxc: Containers, foreground: bool, title: str, user_namespace: bool) -> None:
    ct = lxc.start(foreground=foreground, user_namespace=user_namespace)
    monitor = ct.monitor.pid
    assert proc(monitor, "comm") == "lxc-start\n"
    assert proc(monitor, "cmdline") == title.format(ct.ctid)
    assert uids(monitor) == [0, 0, 0, 0]
    assert [namespace(monitor, kind) for kind in ("pid", "user")] == [namespace("self", k) for k in ("pid", "user")]
    assert children(monitor) == [ct.init.pid]
    assert ct.namespace == f"ct:{ct.ctid}"


@kernel
@both_kinds
@pytest.mark.parametrize("rootfs", ["tmpfs", "directory", "image"])
def test_init_lives_below_a_root_of_its_own(
    request: pytest.FixtureRequest, lxc: Containers, host_mark: None, rootfs: str, user_namespace: bool
) -> None:
    if rootfs == "image":
        request.getfixturevalue("loop_devices")
    ct = lxc.start(user_namespace=user_namespace, rootfs=rootfs)  # type: ignore[arg-type]
    init = ct.init.pid
    assert HOST_MARK.decode() in sources("self")
    assert set(table(init)) == {"/", "/proc", "/dev/fuse"}
    root = table(init)["/"]
    expected = {"tmpfs": ("tmpfs", "rootfs"), "image": ("ext4", ct.image.device if ct.image else "")}
    if rootfs in expected:
        assert tuple(root[root.index("-") + 1 :][:2]) == expected[rootfs]
    else:
        assert root[3].endswith(f"/{ct.ctid}/rootfs")
    assert namespace(init, "pid") != namespace("self", "pid")
    assert namespace(init, "mnt") != namespace("self", "mnt")
    assert (namespace(init, "user") != namespace("self", "user")) == user_namespace
    outer = 100000 if user_namespace else 0
    assert uids(init) == [outer] * 4
    assert os.stat(inside(ct, "/")).st_uid == outer
    if user_namespace:
        assert proc(init, "uid_map").split() == proc(init, "gid_map").split() == ["0", "100000", "65536"]
    assert re.search(rf"^NSpid:\t{init}\t1$", proc(init, "status"), re.MULTILINE)
    assert proc(init, "comm") == "systemd\n"
    assert proc(init, "cmdline") == "/sbin/init\0"
    assert str(os.listdir(inside(ct, "/proc"))).count("'1'") == 1  # its own /proc: of its pid namespace
    assert not os.path.exists(inside(ct, f"/proc/{init}"))


@kernel
@cgroups
def test_cgroups_are_those_of_proxmox(lxc: Containers) -> None:
    ct = lxc.start("101")
    assert cgroup_of(ct.monitor.pid) == "/lxc.monitor/101"
    assert cgroup_of(ct.init.pid) == "/lxc/101/ns"
    assert ct.cgroup == f"{lxc.cgroup_path}/lxc/101"
    ct.fuse.mount("/mnt")
    assert cgroup_of(ct.fuse.pid) == "/lxc/101/ns"
    without = lxc.start("102", cgroup=False)
    assert cgroup_of(without.monitor.pid) == cgroup_of(without.init.pid) == "/"
    assert entries(f"{lxc.cgroup_path}/lxc.monitor") & {"101", "102"} == {"101"}
    with pytest.raises(ContainerError, match="102 has no cgroup"):
        without.freeze()
    ct.stop()
    assert "101" not in entries(f"{lxc.cgroup_path}/lxc") | entries(f"{lxc.cgroup_path}/lxc.monitor")


@kernel
def test_containers_without_any_cgroup(tmp_path: Path) -> None:
    with Containers(tmp_path / "host") as host:
        ct = host.start()
        assert ct.fuse.mount("/mnt").counters().requests["INIT"] == 1
        assert cgroup_of(ct.init.pid) == cgroup_of(os.getpid())


@kernel
def test_names_are_where_they_are_asked_for(lxc: Containers) -> None:
    lxc.start("101", name="plex")
    lxc.start("102", name="arr", name_in="lxc")
    lxc.start("103", name="web", name_in="pve")
    lxc.start("104", name="not told", name_in="none")
    lxc_path, pve_path = map(Path, lxc.lxc_config_dirs)
    assert {p.parent.name for p in lxc_path.glob("*/config")} == {"101", "102"}
    assert "lxc.uts.name = plex\n" in (lxc_path / "101" / "config").read_text()
    assert {p.name for p in pve_path.iterdir()} == {"101.conf", "103.conf"}
    assert "hostname: web\n" in (pve_path / "103.conf").read_text()


@kernel
def test_ids_of_its_own(lxc: Containers) -> None:
    first, second = lxc.start(), lxc.start()
    assert first.ctid != second.ctid
    assert first.ctid.startswith(str(os.getpid()))
    assert first.ctid.isdecimal()


# ---- FUSE inside


@kernel
@both_kinds
def test_a_mount_inside_exists_only_there(lxc: Containers, user_namespace: bool) -> None:
    ct, other = lxc.start(user_namespace=user_namespace), lxc.start(user_namespace=user_namespace)
    nas = ct.fuse.mount("/mnt/nas/media", source="nas01:/export", fstype="fuse.sshfs")
    line = table(ct.init.pid)["/mnt/nas/media"]
    assert (int(line[0]), line[2]) == (nas.mount_id, nas.device)
    assert line[line.index("-") + 1 :][:2] == ["fuse.sshfs", "nas01:/export"]
    assert "allow_other" not in line[-1]
    for elsewhere in ("self", ct.monitor.pid, other.init.pid):
        assert nas.device not in {fields[2] for fields in table(elsewhere).values()}
    assert proc(ct.fuse.pid, "comm") == "sshfs\n"
    assert namespace(ct.fuse.pid, "pid") == namespace(ct.init.pid, "pid")


@kernel
@both_kinds
def test_it_hangs_and_answers_whoever_may_ask(lxc: Containers, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    nas = ct.fuse.mount("/mnt/nas", mode=HANG, statfs=Statfs(blocks=4711))
    path, user_of = inside(ct, "/mnt/nas"), ct.init.pid if user_namespace else 0
    with asking(path, user_of=user_of) as child:
        nas.wait_parked()
        assert child.poll() is None
        assert nas.waiting() >= 1
        nas.set(OK)
        assert child.communicate(timeout=LIMIT)[0] == b"4711\n"
    if user_namespace:
        seen = nas.counters().requests["STATFS"]
        assert blocks(path) == 0  # the outer root is a stranger here
        assert nas.counters().requests["STATFS"] == seen


@kernel
def test_a_killed_server_inside_leaves_dead_mounts_until_closed(lxc: Containers) -> None:
    ct = lxc.start()
    server = ct.fuse
    dead, again = server.mount("/mnt/dead"), server.mount("/mnt/again")
    server.kill()
    with asking(inside(ct, "/mnt/dead")) as child:
        assert child.wait(LIMIT) == errno.ENOTCONN
    with pytest.raises(FuseServerError):
        dead.set(OK)
    assert {"/mnt/dead", "/mnt/again"} <= set(table(ct.init.pid))
    server.close()
    assert not {"/mnt/dead", "/mnt/again"} & set(table(ct.init.pid))
    assert ct.fuse is not server
    assert ct.fuse.mount(again.mount_point).mount_point in table(ct.init.pid)


@kernel
def test_one_mount_inside_is_unmounted_or_aborted(lxc: Containers) -> None:
    ct = lxc.start()
    gone, aborted = ct.fuse.mount("/a"), ct.fuse.mount("/b")
    gone.unmount()
    assert "/a" not in table(ct.init.pid)
    aborted.abort()
    with asking(inside(ct, "/b")) as child:
        assert child.wait(LIMIT) == errno.ENOTCONN


@kernel
@both_kinds
def test_a_bind_shares_the_superblock_and_only_that(
    lxc: Containers, fuse: FuseServer, mount_dir: MakeDir, user_namespace: bool
) -> None:
    shared, below = fuse.mount(mount_dir("nas"), mode=HANG), fuse.mount(mount_dir("parent/below"))
    plain = mount_dir("plain")
    binds = {shared.mount_point: "/media", os.path.dirname(below.mount_point): "/parent", os.fsdecode(plain): "/plain"}
    ct = lxc.start(user_namespace=user_namespace, binds=binds)
    after = fuse.mount(plain)  # the container sees the disk under it
    inner = table(ct.init.pid)
    assert inner["/media"][2] == shared.device
    assert {"/parent", "/plain"} <= set(inner)
    assert not {below.device, after.device} & {fields[2] for fields in inner.values()}
    shared.set(OK)
    shared.unmount()
    assert blocks(inside(ct, "/media"), user_of=0) == Statfs().blocks  # the old superblock lives on inside


@kernel
def test_a_file_can_be_bound(lxc: Containers, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("lxcfs")
    ct = lxc.start(binds={str(tmp_path / "meminfo"): "/etc/meminfo"})
    assert Path(inside(ct, "/etc/meminfo")).read_text() == "lxcfs"


# ---- what is done inside


@kernel
@both_kinds
def test_doing_things_inside(lxc: Containers, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    ct.mkdir("/srv/a b")
    ct.symlink("/etc", "/srv/link")
    ct.write("/srv/full", 3 << 20)
    ct.mount("disk", "/data\n<b>", "tmpfs", data="size=1m")
    ct.bind("/srv", "/mnt")
    assert os.readlink(inside(ct, "/srv/link")) == "/etc"
    assert os.stat(inside(ct, "/mnt/full")).st_size == 3 << 20
    assert table(ct.init.pid)["/data\\012<b>"][-2] == "disk"
    ct.rename("/srv/a b", "/srv/c")
    ct.unlink("/srv/link")
    ct.umount("/mnt")
    ct.umount("/data\n<b>")
    assert entries(inside(ct, "/srv")) == {"c", "full"}
    assert set(table(ct.init.pid)) == {"/", "/proc", "/dev/fuse"}
    ct.rmdir("/srv/c")
    with pytest.raises(FileNotFoundError, match="/srv/c"):
        ct.rmdir("/srv/c")
    assert not os.path.exists("/srv/full")


@kernel
def test_more_than_one_message_holds(lxc: Containers) -> None:
    ct = lxc.start()
    names = [f"/many/{n:05}-{'x' * 60}" for n in range(2000)]
    ct.run([step for name in names for step in (("mkdir", name), ("bind", "/mnt", name, 0))])
    assert set(names) <= set(table(ct.init.pid))


# ---- ends, and new beginnings


@kernel
@both_kinds
@pytest.mark.parametrize("how", ["stop", "kill_init", "kill_monitor"])
def test_all_of_a_container_ends(lxc: Containers, how: str, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    ct.fuse.mount("/mnt", mode=HANG)
    server = ct.fuse.pid
    getattr(ct, how)()
    for pid in (ct.monitor.pid, ct.init.pid, server):
        assert not os.path.exists(f"/proc/{pid}")
    assert not ct.init.alive()
    with pytest.raises(ContainerError):
        ct.mkdir("/x")
    ct.stop()  # without effect


@kernel
@cgroups
def test_a_killed_monitor_leaves_its_cgroups(lxc: Containers) -> None:
    ct = lxc.start("101")
    ct.kill_monitor()
    assert entries(f"{lxc.cgroup_path}/lxc") >= {"101"}
    assert entries(f"{lxc.cgroup_path}/lxc.monitor") >= {"101"}
    lxc.close()
    assert not {"lxc", "lxc.monitor", "lxc.pivot"} & entries(lxc.cgroup_path)


@kernel
def test_restart_and_reboot(lxc: Containers) -> None:
    ct = lxc.start()
    ct.fuse.mount("/mnt/nas")
    monitor, init = ct.monitor, ct.init
    ct.reboot()
    assert (ct.monitor.pid, children(monitor.pid)) == (monitor.pid, [ct.init.pid])
    assert (ct.init.pid, ct.init.start_time) != (init.pid, init.start_time)
    assert not init.alive()
    assert "/mnt/nas" not in table(ct.init.pid)
    ct.fuse.mount("/mnt/nas")
    init = ct.init
    ct.restart()
    assert not monitor.alive()
    assert not init.alive()
    assert children(ct.monitor.pid) == [ct.init.pid]
    assert "/mnt/nas" not in table(ct.init.pid)


@kernel
def test_a_caller_that_hangs_inside_is_freed_when_the_container_stops(lxc: Containers) -> None:
    ct = lxc.start()
    nas = ct.fuse.mount("/mnt/nas", mode=HANG)
    with asking(inside(ct, "/mnt/nas")) as child:
        nas.wait_parked()
        ct.stop()
        assert child.wait(LIMIT) in (errno.ENOTCONN, errno.ECONNABORTED)


@kernel
def test_a_server_inside_that_waits_for_itself_does_not_keep_the_container(lxc: Containers) -> None:
    ct = lxc.start()
    outer = ct.fuse.mount("/mnt", directories=["a"])
    outer.set(HANG, ops=["LOOKUP"])
    failures: list[Exception] = []

    def mount_inner() -> None:
        try:
            ct.fuse.mount("/mnt/a")
        except (FuseServerError, OSError) as error:  # it ended, or could just say that what it waited for has
            failures.append(error)

    mounting = threading.Thread(target=mount_inner)
    mounting.start()
    outer.wait_waiting()
    ct.stop()
    mounting.join(LIMIT)
    assert len(failures) == 1


@kernel
@both_kinds
def test_the_disk_of_a_dead_container_is_free_at_once(
    lxc: Containers, loop_devices: None, user_namespace: bool
) -> None:
    ct = lxc.start(rootfs="image", user_namespace=user_namespace)
    assert ct.image is not None
    ct.write("/file", 100_000)
    assert ct.image.in_use()
    assert ct.image.device not in sources("self")
    ct.stop()
    assert not ct.image.in_use()
    assert ct.image.detach()


@kernel
def test_a_held_mount_table_keeps_the_disk(lxc: Containers, loop_devices: None) -> None:
    """What the test above would see if anything of ours pinned a dead container."""
    ct = lxc.start(rootfs="image")
    assert ct.image is not None
    with open(f"/proc/{ct.init.pid}/mountinfo"):
        ct.stop()
        assert ct.image.in_use()
    assert not ct.image.in_use()


@kernel
@cgroups
def test_freezing_stops_the_inside_and_thawing_lets_it_go_on(lxc: Containers) -> None:
    ct = lxc.start()
    nas = ct.fuse.mount("/mnt/nas")
    ct.freeze()
    assert "frozen 1" in Path(ct.cgroup, "cgroup.events").read_text()
    with asking(inside(ct, "/mnt/nas")) as child:
        nas.wait_waiting()
        assert child.poll() is None
        ct.thaw()
        assert child.communicate(timeout=LIMIT)[0] == b"%d\n" % Statfs().blocks
    ct.freeze()
    ct.stop()
    assert not ct.init.alive()


# ---- starts that take their time


@kernel
@both_kinds
def test_a_start_can_be_held(lxc: Containers, host_mark: None, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace, hold="no-child")
    assert children(ct.monitor.pid) == []
    assert proc(ct.monitor.pid, "comm") == "lxc-start\n"
    ct.release("before-pivot")
    assert children(ct.monitor.pid) == [ct.init.pid]
    assert proc(ct.init.pid, "comm") == "lxc-start\n"  # as the real one until its exec
    assert HOST_MARK.decode() in sources(ct.init.pid)
    ct.release()
    assert HOST_MARK.decode() not in sources(ct.init.pid)
    assert ct.fuse.mount("/mnt").mount_point in table(ct.init.pid)


@kernel
@pytest.mark.parametrize("hold", ["no-child", "before-pivot"])
@pytest.mark.parametrize("how", ["stop", "kill_monitor"])
def test_a_held_container_ends_too(lxc: Containers, hold: str, how: str) -> None:
    ct = lxc.start(hold=hold)  # type: ignore[arg-type]
    getattr(ct, how)()
    assert not ct.monitor.alive()
    ct.restart(hold="before-pivot")
    ct.reboot()
    assert set(table(ct.init.pid)) == {"/", "/proc", "/dev/fuse"}


@kernel
def test_a_failed_start_leaves_nothing(lxc: Containers, descriptors: Callable[[], dict[int, str]]) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError, match="/no/such/directory"):
        lxc.start("101", binds={"/no/such/directory": "/x"})
    assert descriptors() == before
    assert lxc.start("101").init.alive()


# ---- those that only look like one


@kernel
def test_pretenders_on_the_host(lxc: Containers) -> None:
    argv = ["/usr/bin/lxc-start", "-F", "-n", "101"]
    user = lxc.pretend(argv, uid=1000)
    elsewhere = lxc.pretend(argv, user_namespace=True)
    lonely = lxc.pretend([f"[lxc monitor] /var/lib/lxc {'1' * 5000}"], children=0)
    crowd = lxc.pretend(argv, comm="lxc-start\n<b>", children=3)
    assert [proc(p.pid, "comm") for p in (user, elsewhere, lonely)] == ["lxc-start\n"] * 3
    assert proc(crowd.pid, "comm") == "lxc-start\n<b>\n"
    assert proc(user.pid, "cmdline").split("\0")[:-1] == argv
    assert len(proc(lonely.pid, "cmdline")) > 5000
    assert uids(user.pid) == [1000] * 4
    assert uids(elsewhere.pid)[0] == 0
    assert namespace(elsewhere.pid, "user") != namespace("self", "user")
    assert [len(children(p.pid)) for p in (user, elsewhere, lonely, crowd)] == [1, 1, 0, 3]
    (child,) = children(user.pid)
    user.end()
    assert not os.path.exists(f"/proc/{user.pid}")
    assert not os.path.exists(f"/proc/{child}")


@kernel
@both_kinds
def test_pretenders_inside(lxc: Containers, user_namespace: bool) -> None:
    ct = lxc.start(user_namespace=user_namespace)
    nested = ct.pretend(["/usr/bin/lxc-start", "-F", "-n", "101"])
    assert proc(nested.pid, "comm") == "lxc-start\n"
    assert proc(nested.pid, "cmdline").startswith("/usr/bin/lxc-start\0")
    assert namespace(nested.pid, "pid") == namespace(ct.init.pid, "pid") != namespace("self", "pid")
    assert uids(nested.pid) == uids(ct.init.pid)
    assert len(children(nested.pid)) == 1
    ct.stop()
    assert not nested.process.alive()


@kernel
def test_two_claimants_of_one_id(lxc: Containers) -> None:
    first, second = lxc.start("101"), lxc.start("101", foreground=False)
    assert first.init.alive()
    assert second.init.alive()
    second.stop()
    assert first.fuse.mount("/mnt").mount_point in table(first.init.pid)


# ---- nothing stays


@kernel
def test_nothing_is_left(tmp_path: Path, lxc: Containers, descriptors: Callable[[], dict[int, str]]) -> None:
    before = descriptors(), table("self")
    with Containers(tmp_path / "another", cgroup_path=lxc.cgroup_path) as host:
        held, dead, alive = host.start(hold="no-child"), host.start(), host.start(user_namespace=True)
        dead.kill_init()
        alive.fuse.mount("/mnt", mode=HANG)
        pretender = host.pretend(["lxc-start"])
        known = [held.monitor, dead.monitor, alive.monitor, alive.init, pretender.process]
    assert not [process for process in known if process.alive()]
    assert (descriptors(), table("self")) == before
    if host.cgroup_path:
        assert not entries(host.cgroup_path) & {"lxc", "lxc.monitor"}


@kernel
def test_all_ends_when_the_test_is_killed(tmp_path: Path, loop_devices: None) -> None:
    code = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from tests.fakes.containers import Containers\n"
        "host = Containers(Path(sys.argv[1]))\n"
        "ct = host.start(user_namespace=True, rootfs='image')\n"
        "ct.fuse.mount('/mnt')\n"
        "held = host.start(hold='no-child')\n"
        "print(ct.image.device, held.monitor.pid, ct.monitor.pid, ct.init.pid, ct.fuse.pid, os.getpid(), flush=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "host")]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as test:
        assert test.stdout is not None
        device, *pids = test.stdout.readline().decode().split()
        (nursery,) = children(test.pid)
        processes = [Known(os.pidfd_open(int(pid))) for pid in (*pids, str(nursery))]
        backing = Path("/sys/block", os.path.basename(device), "loop/backing_file")
        assert str(tmp_path) in backing.read_text()
        test.kill()
    for process in processes:
        process.wait(LIMIT)
    assert not backing.exists() or str(tmp_path) not in backing.read_text()


@kernel
@cgroups
def test_a_session_that_was_killed_is_swept_up_by_the_next(lxc: Containers) -> None:
    code = (
        "import os, sys\n"
        "from tests.fakes.cgroups import SessionCgroup\n"
        "session = SessionCgroup.enter()\n"
        "os.mkdir(session.path + '/lxc')\n"
        "print(open('/proc/self/cgroup').read().rpartition('0::')[2].strip(), flush=True)\n"
        "sys.stdin.read()\n"
        "session.leave()"
    )

    def begin() -> subprocess.Popen[bytes]:
        command = ["unshare", "--mount", sys.executable, "-c", code]
        return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def directories() -> set[str]:
        return {name for name in os.listdir(lxc.cgroup_path) if name.startswith("mountwatch-tests-")}

    with begin() as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"/\n"
        (old,) = directories()
        killed.kill()
    assert directories() == {old}
    with begin() as following, begin() as beside:
        for session in (following, beside):
            assert session.stdout is not None
            assert session.stdout.readline() == b"/\n"
        assert old not in directories()
        assert len(directories()) == 2
    assert following.returncode == beside.returncode == 0
    assert directories() == set()


@kernel
@cgroups
def test_this_session_sits_in_a_cgroup_namespace() -> None:
    assert cgroup_of(os.getpid()) == "/"
    assert namespace("self", "cgroup") != namespace(os.getppid(), "cgroup")


# ---- async tests


@kernel
async def test_the_fake_is_fit_for_async_tests(lxc: Containers) -> None:
    ct = lxc.start()
    nas = ct.fuse.mount("/mnt/nas", mode=HANG)
    asked = asyncio.create_task(asyncio.to_thread(blocks, inside(ct, "/mnt/nas")))
    await asyncio.to_thread(nas.wait_parked)
    nas.set(OK)
    assert await asyncio.wait_for(asked, LIMIT) == Statfs().blocks
    await asyncio.to_thread(ct.stop)


@kernel
def test_a_process_is_known_by_its_start_too() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        known = Known(os.pidfd_open(child.pid))
        assert known.pid == child.pid
        assert known.alive()
        known.start_time += 1  # as if the number now belonged to a later process
        known.kill()
        assert child.poll() is None
        assert not known.alive()
        known.start_time -= 1
        known.kill(signal.SIGTERM)
        assert child.wait(LIMIT) == -signal.SIGTERM


def test_sequential_packets_keep_messages_apart() -> None:
    """The control sockets rely on it: one message, one read."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(b"one")
        ours.send(b"two")
        assert theirs.recv(100) == b"one"
