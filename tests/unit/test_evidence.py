from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.mounts import subject
from watcher.core import advice, causes
from watcher.core.evidence import (
    Daemon,
    Endpoint,
    Evidence,
    Findings,
    Origin,
    Port,
    Question,
    assemble,
    endpoints_of,
    fstab_sources,
    never_started,
    question_of,
    question_of_absent,
    unanswered,
    unit_of,
)
from watcher.core.incident import Condition, Member
from watcher.core.mountinfo import Tree, parse
from watcher.core.places import superblock_of
from watcher.core.radius import Guest, Process, Radius, Using
from watcher.core.roster import ALONE
from watcher.core.served import Served
from watcher.core.units import unit_name
from watcher.core.wording import printable
from watcher.model import Cause, Container, Kind, Mount, MountState, Place, Reach, Subject, Superblock

A = "10.0.0.5"


@pytest.mark.parametrize(
    ("fstype", "source", "options", "found"),
    [
        ("nfs4", "nas01:/x", "rw,vers=4.2,hard,proto=tcp,clientaddr=10.0.0.9,addr=10.0.0.5", [(A, 2049)]),
        ("nfs", "nas01:/x", "rw,vers=3,port=2050,mountport=20048,proto=tcp,addr=10.0.0.5", [(A, 2050)]),
        ("nfs4", "[fe80::1]:/x", "rw,proto=tcp6,addr=fe80::1%eth0", [("fe80::1%eth0", 2049)]),
        ("nfs", "nas01:/x", "rw,proto=udp,addr=10.0.0.5", []),
        ("nfs4", "nas01:/x", "rw,proto=rdma,port=20049,addr=10.0.0.5", []),
        ("nfs4", "nas01:/x", "rw,addr=nas01", []),
        ("nfs4", "nas01:/x", "rw", []),
        ("nfs4", "nas01:/x", "rw,addr=10.0.0.5,port=99999", [(A, 2049)]),
        ("cifs", "//nas01/x", "rw,vers=3.1.1,addr=10.0.0.5", [(A, 445)]),
        ("smb3", "//nas01/x", "rw,addr=10.0.0.5,port=1445", [(A, 1445)]),
        ("ceph", "a@f.fs=/", "rw,ms_mode=crc,mon_addr=10.0.0.5:3300/10.0.0.6:3301", [(A, 3300), ("10.0.0.6", 3301)]),
        ("ceph", "10.0.0.5:6789,10.0.0.6:/", "rw,name=admin", [(A, 6789), ("10.0.0.6", 6789)]),
        ("ceph", "[fd00::5]:6789,[fd00::6]:/", "rw", [("fd00::5", 6789), ("fd00::6", 6789)]),
        ("ceph", ",".join(f"10.0.0.{n}" for n in range(9)) + ":/", "rw", [(f"10.0.0.{n}", 6789) for n in range(5)]),
        ("fuse.sshfs", "me@10.0.0.5:/x", "rw", []),
    ],
)
def test_where_a_server_listens(fstype: str, source: str, options: str, found: list[tuple[str, int]]) -> None:
    assert endpoints_of(fstype, source, options) == tuple(Endpoint(*e) for e in found)


@given(st.sampled_from(["nfs", "nfs4", "cifs", "ceph", "fuse"]), st.text(), st.text())
def test_no_options_break_it(fstype: str, source: str, options: str) -> None:
    for text in (options, f"addr={options}", f"addr=::1,port={options}", f"mon_addr={options}"):
        for endpoint in endpoints_of(fstype, source, text):
            assert 0 < endpoint.port < 65536


STATS = """device proc mounted on /proc with fstype proc
device nas01:/a mounted on /mnt/a\\040b with fstype nfs4 statvers=1.1
\txprt:\ttcp 896 1 1 0 25 1234 1230 0 9 9 2 9 9
\txprt:\ttcp 897 1 1 0 25 10 10 0 9 9 2 9 9
device nas01:/u mounted on /mnt/u with fstype nfs statvers=1.1
\txprt:\tudp 896 1 7 4 0 9 9 2 9 9
device nas01:/r mounted on /mnt/r with fstype nfs statvers=1.1
\txprt:\trdma 0 0 1 0 25 10 10
"""


@pytest.mark.parametrize(("point", "count"), [("/mnt/a b", 4), ("/mnt/u", 3), ("/mnt/r", None), ("/mnt/x", None)])
def test_calls_without_a_reply(point: str, count: int | None) -> None:
    assert unanswered(STATS, point) == count


@given(st.text() | st.text().map(lambda t: STATS.replace("12", t)), st.text())
def test_parsers_survive_any_text(text: str, point: str) -> None:
    for where in (point, "/mnt/a b"):
        assert unanswered(text, where) is None or unanswered(text, where) >= 0  # type: ignore[operator]
    fstab_sources(text)
    unit_of(text)
    unit_of(f"0::{text}")
    assert "/" not in unit_name(point)


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/rclone.service\n", ("rclone.service", True, False)),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gvfs.service\n",
            ("gvfs.service", False, False),
        ),
        ("0::/user.slice/user-0.slice/session-3.scope\n", ("session-3.scope", True, False)),
        ("5:memory:/x.service\n1:name=systemd:/system.slice/a.service\n0::/\n", ("a.service", True, False)),
        ("0::/lxc/101/ns/system.slice/x.service\n", ("x.service", True, True)),
        ("0::/lxc.payload.web/system.slice/x.service\n", ("x.service", True, True)),
        (
            "0::/system.slice/pve-container@101.service/lxc.payload.101/system.slice/x.service\n",
            ("x.service", True, True),
        ),
        # What manages itself within a container of another kind, whoever that runs in, is not the system's to restart.
        (f"0::/system.slice/docker-{'ab' * 32}.scope/system.slice/ssh.service\n", ("ssh.service", False, False)),
        (f"0::/docker/{'ab' * 32}/system.slice/ssh.service\n", ("ssh.service", False, False)),
        ("0::/libpod_parent/libpod-ab/pve-cluster.service\n", ("pve-cluster.service", False, False)),
        ("0::/system.slice/docker.service\n", ("docker.service", True, False)),
        ("0::/machine.slice/x.service/payload/system.slice/ssh.service\n", ("ssh.service", False, False)),
        (f"0::/lxc/101/ns/docker/{'ab' * 32}/system.slice/ssh.service\n", ("ssh.service", False, True)),
        ("0::/lxc/101/ns/lxc/7/ns/system.slice/ssh.service\n", ("ssh.service", False, True)),
        ("0::/\n", ("", True, False)),
        ("", ("", True, False)),
    ],
)
def test_unit_of_a_process(cgroup: str, unit: tuple[str, bool, bool]) -> None:
    assert unit_of(cgroup) == unit


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", "-.mount"),
        ("/mnt/nas", "mnt-nas.mount"),
        ("/mnt/a b-c", "mnt-a\\x20b\\x2dc.mount"),
        ("/.hidden", "\\x2ehidden.mount"),
        ("/ü", "\\xc3\\xbc.mount"),
    ],
)
def test_the_name_of_a_mount_unit(path: str, unit: str) -> None:
    assert unit_name(path) == unit


def test_fstab() -> None:
    text = "# /dev/x /no\nnas:/a /mnt/a\\040b nfs noauto,x 0 0\n/dev/sda1 none swap sw\nnas:/c /mnt/c/ nfs\nbroken\n"
    assert fstab_sources(text) == {"/mnt/a b": "nas:/a", "/mnt/c": "nas:/c"}


@pytest.mark.parametrize(
    ("stack", "never"),
    [
        (("fuse_get_req", "__fuse_simple_request", "fuse_statfs"), True),
        (("fuse_get_req.isra.0", "fuse_simple_request"), True),
        (("request_wait_answer", "__fuse_simple_request", "fuse_statfs"), False),
        ((), False),
    ],
)
def test_whether_it_ever_started(stack: tuple[str, ...], never: bool) -> None:
    assert never_started(stack) is never


# ---- what the tables tell

TABLE = b"""20 1 8:1 / / rw - ext4 /dev/sda1 rw
30 20 0:40 / /mnt/auto rw - autofs systemd-1 rw,direct
31 30 0:41 / /mnt/auto rw - nfs4 nas01:/auto rw,hard,addr=10.0.0.5
32 20 0:42 / /mnt/two rw - nfs4 nas01:/old rw,hard,addr=10.0.0.5
33 32 0:43 / /mnt/two rw - nfs4 nas01:/two rw,hard,addr=10.0.0.5
34 20 0:44 / /mnt/pve/nas01 rw - nfs4 nas01:/pve rw,hard,addr=10.0.0.5
35 20 0:45 / /mnt/other rw - nfs4 nas02:/x rw,hard,addr=10.0.0.6
"""
MOUNTS = parse(TABLE)


def states(**status: str) -> dict[str, MountState]:
    tree = Tree(MOUNTS)
    return {
        m.mount_point: MountState(
            Place("host", m.mount_point),
            m,
            Reach.OK,
            status.get(m.mount_point.rpartition("/")[2], "ok"),
            stacked=tree.stacked(m),
        )
        for m in MOUNTS
        if m.fstype == "nfs4"
    }


def test_what_stands_below_and_beside() -> None:
    seen = states(auto="stale", two="stale")
    two = question_of(seen["/mnt/two"], seen.values(), MOUNTS)
    assert (two.stacked, two.below, two.origin) == (2, "nas01:/old (nfs4)", Origin.UNKNOWN)
    assert (two.others_ok, two.others_failing) == (1, 1)
    auto = question_of(seen["/mnt/auto"], seen.values(), MOUNTS)
    assert (auto.below, auto.origin, auto.endpoints) == ("", Origin.AUTOMOUNT, (Endpoint(A, 2049),))
    assert question_of(seen["/mnt/pve/nas01"], seen.values(), MOUNTS).origin is Origin.PVE


def test_what_goes_with_it_when_it_is_taken_away() -> None:
    """umount(8) with -l detaches all that is mounted in it; what is the NFS server's comes back by itself."""
    nas = b"40 20 0:46 / /mnt/nas rw - nfs4 nas03:/x rw,hard,addr=10.0.0.7\n"
    within = (
        b"41 40 0:47 / /mnt/nas/deep rw - nfs4 nas03:/x/deep rw\n"
        b"42 40 0:48 / /mnt/nas/own rw - nfs4 nas04:/y rw\n"
        b"43 41 8:2 / /mnt/nas/deep/disk rw - ext4 /dev/sdb rw\n"
        b"44 42 0:49 / /mnt/nas/own rw - tmpfs none rw\n"
        b"45 20 0:50 / /mnt/nasx rw - tmpfs none rw\n"
    )
    hidden = b"39 20 0:51 / /mnt/nas/hidden rw - tmpfs none rw\n"  # below it: it stays
    mounts = parse(TABLE + hidden + nas + within)
    about = MountState(Place("host", "/mnt/nas"), mounts[-6], Reach.STALE, "stale", cause=Cause.STALE_HANDLE)
    question = question_of(about, [about], mounts)
    assert question.within == ("/mnt/nas/own (tmpfs)", "/mnt/nas/deep/disk (ext4)")
    member = failing(Subject(question.superblock, (about.place,), "rw,vers=4.2"), Cause.STALE_HANDLE)
    assert "Mounted in it: /mnt/nas/own (tmpfs), /mnt/nas/deep/disk (ext4)" in causes.cause_lines(
        member, Evidence(question)
    )
    goes = "what is mounted in it goes, too – mount that again"
    do = advice.advice(member, "nas03", Evidence(question, origin=Origin.FSTAB))[-1]
    assert do == f"Do: umount -l /mnt/nas && mount /mnt/nas # {goes}"
    silent = advice.advice(replace(member, cause=Cause.TIMEOUT), "nas03", Evidence(question))[-1]
    assert silent.startswith(f"To give it up: umount -fl /mnt/nas # {goes} – unwritten data is lost")
    # What is not there takes nothing along.
    assert question_of_absent(question.superblock, about.place, "", mounts).within == ()
    assert question_of(about._replace(place=Place("ct:1", "/mnt/nas")), [], ()).within == ()


def test_what_is_not_known_of_the_neighbours_is_not_said() -> None:
    seen = states(auto="slow", two="stale", nas01="denied")
    question = question_of(seen["/mnt/two"], seen.values(), MOUNTS)
    assert (question.others_ok, question.others_failing) == (0, 0)


def test_a_containers_fuse_mount_has_no_neighbours_on_the_host() -> None:
    mount = Mount(1, 0, "0:99", "/", "/x", "rw", "fuse.sshfs", "me@nas01:/x", "rw")
    state = MountState(
        Place("ct:101", "/x"), mount, Reach.STALE, "stale", container=Container("101", 4711, 1, user_namespace=9)
    )
    question = question_of(state, [state, *states().values()], MOUNTS)
    assert (question.others_ok, question.init_pid, question.below) == (0, 4711, "")
    assert question.connection == 99


@pytest.mark.parametrize(
    ("host", "sub", "anew"),
    [
        ({}, {}, "mount -t nfs -o vers=4.2 nas01:/x /mnt/x #"),
        ({}, {"root": "/sub"}, "mount -t nfs -o vers=4.2 nas01:/x /mnt/x #"),
        ({}, {"source": "nas01:/x/sub"}, "mount -t nfs -o vers=4.2 nas01:/x /mnt/x #"),  # as nfs_show_path has it
        ({"root": "/sub"}, {"root": "/sub"}, "mount /mnt/x # where fstab has it –"),
    ],
)
def test_what_is_bound_into_a_container_is_the_hosts_to_mend(
    host: dict[str, str], sub: dict[str, str], anew: str
) -> None:
    """Also where the host's own place is not watched: its client asks, in its network."""
    mount = Mount(1, 0, "0:99", "/", "/mnt/x", "rw", "nfs4", "nas01:/x", "rw,vers=4.2,addr=10.0.0.5")
    bound = mount._replace(mount_point="/data")._replace(**sub)  # type: ignore[arg-type]
    state = MountState(
        Place("ct:105", "/data"), bound, Reach.STALE, "stale", container=Container("105", 4711, 1, user_namespace=9)
    )
    hosts = mount._replace(**host)  # type: ignore[arg-type]
    other = mount._replace(device="0:98", mount_point="/mnt/other")
    alike = mount._replace(source="nas01:/xy", mount_point="/mnt/xy")
    question = question_of(state, [state], [other, alike, hosts])
    assert (question.place, question.stands, question.init_pid) == (Place("host", "/mnt/x"), superblock_of(hosts), 0)
    about = Subject(superblock_of(bound), (state.place,), f"{bound.options},{bound.super_options}")
    do = advice.advice(failing(about, Cause.STALE_HANDLE), "nas01", Evidence(question))[-1]
    assert do == f"Do: umount -l /mnt/x && {anew} then restart what still has the old one: pct reboot 105"
    assert question_of(state, [state], [other, alike]).place == state.place


def test_lxcfs_is_one_wherever_it_is_bound() -> None:
    """As for everybody else (`places`): what is found out of it by any of its roots is found again."""
    mount = Mount(1, 0, "0:99", "/proc/uptime", "/proc/uptime", "rw", "fuse.lxcfs", "lxcfs", "rw")
    state = MountState(Place("ct:101", "/proc/uptime"), mount, Reach.STALE, "stale")
    assert question_of(state, [state]).superblock == superblock_of(mount)


@pytest.mark.parametrize(
    ("device", "fstype", "number"), [("0:5", "fuse", 5), ("8:5", "fuseblk", None), ("0:5", "nfs4", None)]
)
def test_the_number_of_a_connection(device: str, fstype: str, number: int | None) -> None:
    assert Question(Superblock(device, "/", fstype, "x"), Place("host", "/x")).connection == number


@pytest.mark.parametrize(
    ("fstab", "has_unit", "origin"),
    [
        ("nas:/x/ /mnt/x nfs", True, Origin.FSTAB),
        ("old:/a /mnt/x nfs", False, Origin.UNKNOWN),
        ("", True, Origin.UNIT),
        ("", False, Origin.UNKNOWN),
    ],
)
def test_who_mounts_it(fstab: str, has_unit: bool, origin: Origin) -> None:
    question = Question(Superblock("0:5", "/", "nfs4", "nas:/x"), Place("host", "/mnt/x"))
    assert assemble(question, Findings(has_unit=has_unit), fstab).origin is origin
    inside = question._replace(place=Place("ct:1", "/mnt/x"))
    assert assemble(inside, Findings(has_unit=has_unit), fstab).origin is Origin.UNKNOWN


def test_what_stands_in_the_directory_of_pves_storages_may_be_anothers() -> None:
    """A line in fstab(5), or a unit, wants it there; and PVE mounts a storage elsewhere, too, if that has a path."""
    question = Question(PVE.superblock, PVE.places[0], origin=Origin.PVE)
    fstab = "nas01:/data /mnt/pve/nas01 nfs defaults"
    assert assemble(question, Findings(), fstab).origin is Origin.FSTAB
    assert assemble(question, Findings(has_unit=True)).origin is Origin.UNIT
    assert assemble(question, Findings(), "nas02:/data /mnt/pve/nas01 nfs").origin is Origin.PVE
    stale = failing(PVE, Cause.STALE_HANDLE)
    found = evidence(PVE, origin=Origin.FSTAB, radius=Radius(storages=("nas01",)))
    assert advice.advice(stale, "nas01", found)[-1] == "Do: umount -l /mnt/pve/nas01 && mount /mnt/pve/nas01"
    assert "pvesm" not in advice.advice(failing(PVE), "nas01", found)[-1]
    own = evidence(NAS, radius=Radius(storages=("films",), mounted=(("/mnt/nas", "films"),)))
    assert advice.advice(failing(NAS, Cause.STALE_HANDLE), "nas01", own)[-1] == (
        "Do: umount -l /mnt/nas # PVE mounts it again"
    )
    assert advice.advice(failing(NAS), "nas01", own)[-1].startswith(
        "To give it up: pvesm set films --disable 1; umount -fl /mnt/nas # "
    )
    [do] = advice.advice(gone(NAS), "nas01", own)
    assert do == "Do: pvesm status --storage films # says why PVE does not mount it"
    # The same export stands where PVE mounts it, and where fstab does.
    both = evidence(
        NAS, origin=Origin.FSTAB, radius=Radius(storages=("films",), mounted=(("/mnt/pve/films", "films"),))
    )
    assert (
        advice.advice(failing(NAS, Cause.STALE_HANDLE), "nas01", both)[-1] == "Do: umount -l /mnt/nas && mount /mnt/nas"
    )
    # For CephFS PVE writes a unit itself.
    ceph = Question(PVE.superblock._replace(fstype="ceph"), PVE.places[0], origin=Origin.PVE)
    assert assemble(ceph, Findings(has_unit=True)).origin is Origin.PVE
    assert (
        assemble(ceph._replace(place=Place("host", "/mnt/x"), origin=Origin.UNKNOWN), Findings(has_unit=True)).origin
        is Origin.UNIT
    )


@pytest.mark.parametrize(
    ("source", "options", "found"),
    [
        ("nas01:/x", "rw,vers=4.2,addr=10.0.0.5,port=20049", [(A, 20049)]),  # as it was mounted
        ("10.0.0.5:/x", "", [(A, 2049)]),  # it has not been, as far as anybody knows
        ("nas01:/x", "", []),  # a name is not looked up
        ("", "", []),
    ],
)
def test_what_is_asked_of_what_is_not_mounted(source: str, options: str, found: list[tuple[str, int]]) -> None:
    place = Place("host", "/mnt/x")
    question = question_of_absent(Superblock("0:60", "/", "nfs4", source), place, options, MOUNTS)
    assert (list(question.endpoints), question.origin, question.gone) == (found, Origin.UNKNOWN, True)
    trigger = parse(b"30 1 0:9 / /mnt/x rw - autofs systemd-1 rw")
    assert question_of_absent(question.superblock, place, options, trigger).origin is Origin.AUTOMOUNT


ALIKE = [["holder", 7, "a", "", []], ["holder", 8, "b", "", []], ["lives", 7, [60]], ["lives", 8, [60, 61]]]


@pytest.mark.parametrize(
    ("said", "pids"),
    [
        ([["holder", 7, "a", "", [60]], ["holder", 8, "b", "", [61]], ["looked", False]], [7]),
        ([["holder", 7, "a", "", []], ["names", 7, 60]], [7]),  # an older kernel, which does not tell
        ([["holder", 7, "a", "", []], ["looked", True]], None),  # may be the one
        ([["holder", 8, "b", "", [61]], ["looked", True]], []),  # the kernel tells, and not of this
        ([["looked", True]], []),
        ([["looked", False]], None),
        ([["holder", "7", "a", "", [60]], ["names", 7], [], ["looked", True]], []),
        ([], None),
        # Nothing says which of those it is that live where it stands, but only one may be.
        ([["holder", 7, "a", "", []], ["lives", 7, [60]], ["looked", True]], [7]),
        ([["holder", 7, "a", "", []], ["lives", 7, [61]], ["looked", True]], None),
        ([["holder", 7, "a", "", []], ["lives", 7, [60]], ["looked", False]], None),  # another may be hidden
        ([["holder", 7, "a", "", []], ["lives", 7, [60]]], None),
        ([*ALIKE, ["looked", True]], None),
        ([*ALIKE, ["elsewhere", 8], ["looked", True]], [7]),
        ([*ALIKE, ["names", 8, 61], ["looked", True]], [7]),
        ([*ALIKE, ["holder", 9, "lxcfs", "", []], ["lives", 9, [60]], ["elsewhere", 8], ["looked", True]], [7]),
        ([*ALIKE, ["holder", 9, "rclone", "", []], ["lives", 9, [60]], ["looked", True]], [9]),  # as its type says
        ([*ALIKE, ["elsewhere", 7], ["elsewhere", 8], ["looked", True]], None),
        ([*ALIKE, ["holder", 9, "b", "", [61]], ["elsewhere", 8], ["looked", True]], []),  # the kernel tells
    ],
)
def test_who_serves_it(said: list[list[object]], pids: list[int] | None) -> None:
    served = Served()
    for words in said:
        served.take(words)
    question = Question(Superblock("0:60", "/", "fuse.rclone", "x:"), Place("host", "/mnt/x"))
    found = served.by(question)
    assert (None if found is None else [daemon.pid for daemon in found]) == pids
    by_elimination = any(words[0] == "lives" for words in said if words)
    assert [daemon.likely for daemon in found or ()] == [by_elimination for _ in found or ()]
    assert served.by(question._replace(gone=True)) == ()


# ---- the words

NAS = subject("/mnt/nas", source="nas01:/data")
SMB = subject("/mnt/smb", source="//nas01/x", fstype="cifs", options="rw,username=me,uid=0,addr=10.0.0.5")
PVE = subject("/mnt/pve/nas01", source="nas01:/data")
SSHFS = subject("/mnt/films", source="nas02:/films", fstype="fuse.sshfs", options="rw,user_id=0,allow_other")
CLOUD = subject("/mnt/cloud", source="remote:", fstype="fuse.rclone", device="0:60", options="rw")
IN_CT = subject(Place("ct:105", "/data"), source="nas01:/data")
FUSE_IN_CT = subject(Place("ct:105", "/c"), source="x:", fstype="fuse.rclone", device="0:61", options="rw")
RCLONE = Daemon(812, "rclone", "rclone.service")
INIT = ("fuse_get_req", "__fuse_simple_request", "fuse_statfs")


def test_an_address_is_one_word() -> None:
    """A container writes it, and ipaddress takes whatever stands behind a "%"."""
    found = evidence(NAS, port=Port.NO_ANSWER)
    for zone in ("x; reboot", "x\n", "", "é"):
        [first, _] = advice.advice(failing(NAS), "nas01", found._replace(endpoint=Endpoint(f"fe80::1%{zone}", 2049)))
        assert first == "Do: see whether nas01 is off, or the network to it, the mount resumes by itself"
        assert endpoints_of("nfs4", "nas01:/x", f"rw,addr=fe80::1%{zone}") == ()
    [scoped] = endpoints_of("nfs4", "nas01:/x", "rw,addr=fe80::1%eth0.5")
    [first, _] = advice.advice(failing(NAS), "nas01", found._replace(endpoint=scoped))
    assert first.startswith("Do: ping -c 3 fe80::1%eth0.5; ip neigh show fe80::1 # ")


@pytest.mark.parametrize("path", ["/mnt/new\nline", "/mnt/\udcff", "/mnt/@everyone", f"/mnt/{'x' * 300}"])
def test_a_path_that_no_message_can_show_is_in_no_command(path: str) -> None:
    """That there are none is said; in a message about what is well, nothing."""
    about = subject(path, source="nas01:/data")
    [do] = advice.advice(failing(about, Cause.STALE_HANDLE), "nas01", evidence(about))
    assert do == "Do: by hand, the path is too long for a command in a message, or has characters that none can show"
    full = replace(failing(about), kind=Kind.FULL)
    assert advice.advice(full, "nas01", evidence(about)) == []


def test_of_several_monitors_the_host_speaks_of_the_same() -> None:
    """A container reaches neither; the host has asked one, or both."""
    one, two = Endpoint("10.0.0.1", 6789), Endpoint("10.0.0.2", 6789)
    question = Question(Superblock("0:5", "/", "ceph", "x"), Place("ct:1", "/x"), (one, two), init_pid=7)
    silent = ((one, Port.NO_ANSWER), (two, Port.NO_ANSWER))
    for ports, from_host, said in (
        (silent, ((two, Port.REACHABLE),), (two, Port.NO_ANSWER, Port.REACHABLE)),
        (silent, ((one, Port.NO_ANSWER), (two, Port.REACHABLE)), (two, Port.NO_ANSWER, Port.REACHABLE)),
        (((one, Port.REACHABLE), silent[1]), ((two, Port.REACHABLE),), (one, Port.REACHABLE, Port.NOT_ASKED)),
        (((one, Port.REFUSED), silent[1]), ((two, Port.REACHABLE),), (one, Port.REFUSED, Port.NOT_ASKED)),
        ((), (), (None, Port.NOT_ASKED, Port.NOT_ASKED)),
    ):
        found = assemble(question, Findings(ports=ports, from_host=from_host))
        assert (found.endpoint, found.port, found.port_from_host) == said


def evidence(about: Subject, **found: object) -> Evidence:
    place = about.places[0]
    own = {key: found.pop(key) for key in ("stacked", "below", "others_ok", "others_failing") if key in found}
    pid = 0 if place.namespace == "host" else 4711
    question = Question(about.superblock, place, init_pid=pid, **own)  # type: ignore[arg-type]
    if "port" in found:
        found["endpoint"] = Endpoint(A, 2049)
    return Evidence(question, **found)  # type: ignore[arg-type]


def failing(about: Subject, cause: Cause = Cause.TIMEOUT, stack: tuple[str, ...] = ()) -> Member:
    return Member(Kind.STALE, about, Condition.DOWN, 0.0, 0.0, cause, "no answer within 5 s", stack)


def gone(about: Subject) -> Member:
    return Member(Kind.VANISHED, about, Condition.DOWN, 0.0, 0.0, Cause.VANISHED, "no longer mounted")


@pytest.mark.parametrize(
    ("member", "found", "lines"),
    [
        (
            failing(NAS),
            {"port": Port.NO_ANSWER},
            ["10.0.0.5:2049 does not answer: it is down, or a network or firewall between drops the packets"],
        ),
        (
            gone(NAS),
            {"port": Port.UNREACHABLE},
            [
                "It has been unmounted; what is written there meanwhile lands on the disk underneath",
                "10.0.0.5:2049 is unreachable: it is off, or the network to it is down",
            ],
        ),
        (
            gone(CLOUD),
            {"daemons": ()},
            [
                "Its process has ended, or it has been unmounted; what is"
                " written there meanwhile lands on the disk underneath"
            ],
        ),
        (
            failing(NAS),
            {"port": Port.UNREACHABLE},
            ["10.0.0.5:2049 is unreachable: it is off, or the network to it is down"],
        ),
        (
            failing(NAS),
            {"port": Port.REFUSED, "others_failing": 2},
            ["10.0.0.5:2049 refuses connections: its service is down, or a firewall rejects them"],
        ),
        (
            failing(NAS),
            {"port": Port.REACHABLE, "unanswered": 3, "others_ok": 2, "others_failing": 1},
            [
                "10.0.0.5:2049 accepts connections, but this mount gets no answer; 3 calls without a reply",
                "Of the same server, 2 other mounts are ok, 1 is not",
            ],
        ),
        (
            failing(NAS, Cause.STALE_HANDLE),
            {"port": Port.REACHABLE},
            [
                "The server no longer knows that directory: deleted, restored, its disk not mounted, another fsid",
                "10.0.0.5:2049 accepts connections",
            ],
        ),
        (
            failing(IN_CT),
            {"port": Port.NO_ANSWER},
            [
                "10.0.0.5:2049 does not answer: it is down, or a network or firewall between drops"
                " the packets (asked from CT 105)"
            ],
        ),
        (
            failing(IN_CT),
            {"port": Port.UNREACHABLE, "port_from_host": Port.REACHABLE},
            [
                "10.0.0.5:2049 is unreachable: it is off, or the network to it is down "
                "(asked from CT 105; the host is answered)"
            ],
        ),
        (failing(NAS), {}, []),
        (
            failing(CLOUD),
            {"daemons": (RCLONE._replace(likely=True),)},
            ["Served by rclone (pid 812, rclone.service), as it seems"],
        ),
        (
            failing(CLOUD),
            {"daemons": (RCLONE,), "waiting": 1},
            ["Served by rclone (pid 812, rclone.service); 1 request waiting"],
        ),
        (failing(CLOUD), {"daemons": (), "waiting": 2}, ["No process serves it; 2 requests waiting"]),
        (failing(CLOUD, Cause.DISCONNECTED), {"daemons": ()}, []),
        (failing(CLOUD, Cause.DISCONNECTED), {"daemons": (RCLONE,)}, []),  # it was there a moment ago
        (
            failing(CLOUD, stack=INIT),
            {
                "daemons": (Daemon(4711, "gvfsd-fuse"),),
                "waiting": 2,
                "stacked": 2,
                "below": "gvfsd-fuse (fuse.gvfsd-fuse)",
            },
            [
                "The FUSE process never finished its start: gvfsd-fuse (pid 4711)",
                "2 mounts stand on this directory, one on the other; below it gvfsd-fuse (fuse.gvfsd-fuse)",
            ],
        ),
        (
            failing(CLOUD, stack=INIT),
            {"daemons": ()},
            ["The FUSE process never finished its start, and no process serves it"],
        ),
        (failing(CLOUD, stack=INIT), {}, ["The FUSE process never finished its start"]),
        (
            failing(replace(NAS, options="rw,vers=4.2,soft")),
            {},
            ["Mounted soft: programs get errors meanwhile, and what they have written may be lost"],
        ),
        (
            failing(replace(NAS, options="rw,vers=4.2,hard,clientaddr=10.0.0.9"), Cause.REFUSED),
            {},
            ["The server refuses this client (10.0.0.9), or the directory's permissions do"],
        ),
        # Where the host's own mount of it is well, the server knows the directory.
        (replace(failing(NAS, Cause.STALE_HANDLE), context=ALONE), {}, []),
        (replace(gone(NAS), error="its disk is gone: /dev/sdb1"), {}, []),
    ],
)
def test_why(member: Member, found: dict[str, object], lines: list[str]) -> None:
    assert causes.cause_lines(member, evidence(member.subject, **found)) == lines


MEND = "Mend that – no such directory? It lies below the export with fsid=0, see exportfs -v"
LOST = "unwritten data is lost – who still waits: kill -9 – "
ABORT = (
    "if grep -qF ' 0:60 / /mnt/cloud ' /proc/self/mountinfo; then "
    "echo 1 > /sys/fs/fuse/connections/60/abort; umount -l /mnt/cloud; fi # unwritten data is lost"
)


@pytest.mark.parametrize(
    ("member", "found", "lines"),
    [
        (
            failing(NAS),
            {"port": Port.NO_ANSWER},
            [
                "Do: ping -c 3 10.0.0.5; ip route get 10.0.0.5 # "
                "is nas01 off, or the network to it? The mount resumes by itself",
                f"To give it up: umount -fl /mnt/nas # {LOST}later: mount -t nfs -o vers=4.2 nas01:/data /mnt/nas",
            ],
        ),
        (
            failing(NAS),
            {"port": Port.REFUSED},
            [
                "Do on nas01: systemctl restart nfs-server # if it is a Linux – the mount resumes by itself",
                f"To give it up: umount -fl /mnt/nas # {LOST}later: mount -t nfs -o vers=4.2 nas01:/data /mnt/nas",
            ],
        ),
        (
            failing(SMB),
            {"port": Port.REFUSED},
            [
                "Do on nas01: systemctl restart smbd # if it is a Linux – the mount resumes by itself, within minutes",
                f"To give it up: umount -l /mnt/smb # {LOST}"
                "later: mount -t cifs -o username=me //nas01/x /mnt/smb, asks for the password",
            ],
        ),
        (
            failing(NAS),
            {"port": Port.REACHABLE, "origin": Origin.FSTAB},
            [
                "Do on nas01: dmesg | tail -n 20; systemctl restart nfs-server # "
                "if it is a Linux, and its disks answer – the mount resumes by itself",
                f"To give it up: umount -fl /mnt/nas # {LOST}later: mount /mnt/nas",
            ],
        ),
        (
            failing(NAS, Cause.STALE_HANDLE),
            {"origin": Origin.AUTOMOUNT},
            [
                f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
                "Do: umount -l /mnt/nas # the next access mounts it again",
            ],
        ),
        (
            failing(NAS, Cause.STALE_HANDLE),
            {"origin": Origin.UNIT},
            [
                f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
                "Do: umount -l /mnt/nas && systemctl start mnt-nas.mount",
            ],
        ),
        (
            failing(IN_CT),
            {"port": Port.REACHABLE},
            [
                "Do on nas01: dmesg | tail -n 20; systemctl restart nfs-server # "
                "if it is a Linux, and its disks answer – the mount resumes by itself",
                f"To give it up: pct exec 105 -- umount -fl /data # {LOST}"
                "later: pct exec 105 -- mount -t nfs -o vers=4.2 nas01:/data /data",
            ],
        ),
        (
            failing(CLOUD),
            {"daemons": (RCLONE,), "waiting": 1},
            [
                "Do: systemctl restart rclone.service",
                f"To give it up: {ABORT} – then start what mounts it again",
            ],
        ),
        (
            failing(CLOUD),
            {"daemons": (RCLONE._replace(unit="gvfs.service", system=False),), "waiting": 1},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if rclone hangs, start it anew",
                f"To give it up: {ABORT} – then start what mounts it again",
            ],
        ),
        (
            failing(CLOUD),
            {"daemons": (Daemon(812, "glusterfs", "pvestatd.service"),), "waiting": 1},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if glusterfs hangs, start it anew",
                f"To give it up: {ABORT} – then start what mounts it again",
            ],
        ),
        (
            failing(CLOUD),
            {"daemons": (Daemon(812, "pmxcfs", "pve-cluster.service"),), "waiting": 1},
            [
                "Do: systemctl restart pve-cluster.service",
                f"To give it up: {ABORT} – then start what mounts it again",
            ],
        ),
        (
            failing(FUSE_IN_CT),
            {"daemons": (Daemon(812, "x", "-Hroot@x.service", inside=True),)},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if x in CT 105 hangs, start it anew",
                "To give it up: pct exec 105 -- umount -l /c # then start what mounts it again",
            ],
        ),
        (  # what a container says of itself is no command for the host
            failing(CLOUD),
            {"daemons": (RCLONE._replace(inside=True),)},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if rclone hangs, start it anew",
                "To give it up: umount -l /mnt/cloud # then start what mounts it again",
            ],
        ),
        (
            failing(FUSE_IN_CT),
            {"daemons": (RCLONE._replace(inside=True),), "waiting": 1},
            [
                "Do: pct exec 105 -- systemctl restart rclone.service",
                "To give it up: if grep -qF ' 0:61 / /c ' \"/proc/$(lxc-info -pHn 105)/mountinfo\"; then "
                "echo 1 > /sys/fs/fuse/connections/61/abort; pct exec 105 -- umount -l /c; fi # "
                "unwritten data is lost – then start what mounts it again",
            ],
        ),
        (
            failing(NAS, Cause.STALE_HANDLE),
            {},
            [
                f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
                "Do: umount -l /mnt/nas && mount -t nfs -o vers=4.2 nas01:/data /mnt/nas",
            ],
        ),
        (
            failing(IN_CT, Cause.STALE_HANDLE),
            {},
            [
                f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
                "Do: pct exec 105 -- umount -l /data && pct exec 105 -- mount -t nfs -o vers=4.2 nas01:/data /data",
            ],
        ),
        (
            failing(SMB, Cause.STALE_HANDLE),
            {},
            ["Do: umount -l /mnt/smb && mount -t cifs -o username=me //nas01/x /mnt/smb # asks for the password"],
        ),
        (
            replace(failing(SMB, Cause.ERROR), error="No such file or directory"),
            {},
            [
                "Do on nas01: testparm -s; smbcontrol all reload-config # "
                "is [x] listed? If not, add it to smb.conf first – the mount resumes by itself"
            ],
        ),
        (failing(CLOUD), {"daemons": (), "waiting": 1}, [f"Do: {ABORT} – then start what mounts it again"]),
        (
            failing(SSHFS, Cause.DISCONNECTED),
            {},
            [
                "Do: umount -l /mnt/films && sshfs -o allow_other nas02:/films /mnt/films # "
                "add the other options that it had"
            ],
        ),
        (
            failing(SSHFS, Cause.DISCONNECTED),
            {"origin": Origin.FSTAB},
            ["Do: umount -l /mnt/films && mount /mnt/films"],
        ),
        (
            failing(FUSE_IN_CT, Cause.DISCONNECTED),
            {},
            ["Do: pct exec 105 -- umount -l /c # then start what mounts it again"],
        ),
        (
            failing(CLOUD, Cause.IO_ERROR),
            {"daemons": (RCLONE,), "waiting": 0},
            [
                "Do: systemctl restart rclone.service",
                f"To mount it anew: {ABORT} – then start what mounts it again",
            ],
        ),
        (
            failing(SSHFS),
            {"daemons": (Daemon(9, "sshfs", "sshfs-films.service"),)},
            [
                "Do: systemctl restart sshfs-films.service # once nas02 answers",
                "To mount it anew: umount -l /mnt/films && sshfs -o allow_other nas02:/films /mnt/films # "
                "add the other options that it had",
            ],
        ),
        (
            failing(SSHFS),
            {"daemons": (Daemon(9, "sshfs"),)},
            [
                "Do: ssh -o ConnectTimeout=5 nas02 true; ps -ww -o args= -p 9 # "
                "does nas02 answer? If not, mend that first – ps shows the options that it has",
                "To mount it anew: umount -l /mnt/films && sshfs -o allow_other nas02:/films /mnt/films # "
                "add the other options that it had",
            ],
        ),
        (
            failing(NAS, Cause.REFUSED),
            {},
            [
                "Do on nas01: exportfs -v; exportfs -a # "
                "is this client listed? If not, add it to /etc/exports first – the mount resumes by itself"
            ],
        ),
        (
            failing(replace(NAS, options="rw,vers=4.2,hard,clientaddr=10.0.0.9"), Cause.REFUSED),
            {},
            [
                "Do on nas01: exportfs -v; exportfs -a # "
                "is 10.0.0.9 listed? If not, add it to /etc/exports first – the mount resumes by itself"
            ],
        ),
        (failing(SMB, Cause.REFUSED), {}, ["Do: see on nas01 whether this host may still use it"]),
        (
            failing(PVE),
            {"port": Port.UNREACHABLE},
            [
                "Do: ping -c 3 10.0.0.5; ip route get 10.0.0.5 # "
                "is nas01 off, or the network to it? The mount resumes by itself",
                f"To give it up: pvesm set nas01 --disable 1; umount -fl /mnt/pve/nas01 # on all nodes – {LOST}"
                "later: pvesm set nas01 --disable 0",
            ],
        ),
        (  # bound into a container, which goes on having the dead one
            failing(replace(NAS, places=(*NAS.places, *IN_CT.places))),
            {"port": Port.NO_ANSWER, "origin": Origin.FSTAB},
            [
                "Do: ping -c 3 10.0.0.5; ip route get 10.0.0.5 # "
                "is nas01 off, or the network to it? The mount resumes by itself",
                f"To give it up: umount -fl /mnt/nas # {LOST}"
                "later: mount /mnt/nas – then restart what still has the old one: pct reboot 105",
            ],
        ),
        (
            failing(IN_CT),
            {"port": Port.NO_ANSWER},
            [
                "Do: nsenter -t \"$(lxc-info -pHn 105)\" -n sh -c 'ping -c 3 10.0.0.5; ip route get 10.0.0.5' # "
                "is nas01 off, or the network to it? The mount resumes by itself",
                f"To give it up: pct exec 105 -- umount -fl /data # {LOST}"
                "later: pct exec 105 -- mount -t nfs -o vers=4.2 nas01:/data /data",
            ],
        ),
        (
            failing(IN_CT),
            {"port": Port.NO_ANSWER, "port_from_host": Port.REACHABLE, "origin": Origin.FSTAB},
            [
                "Do: nsenter -t \"$(lxc-info -pHn 105)\" -n sh -c 'ip addr; ip route get 10.0.0.5' # "
                "nas01 answers the host: it is the network of the container – the mount resumes by itself",
                f"To give it up: pct exec 105 -- umount -fl /data # {LOST}later: pct exec 105 -- mount /data",
            ],
        ),
        (  # whatever the container hears
            failing(IN_CT),
            {"port": Port.REFUSED, "port_from_host": Port.REACHABLE, "origin": Origin.FSTAB},
            [
                "Do: nsenter -t \"$(lxc-info -pHn 105)\" -n sh -c 'ip addr; ip route get 10.0.0.5' # "
                "nas01 answers the host: it is the network of the container – the mount resumes by itself",
                f"To give it up: pct exec 105 -- umount -fl /data # {LOST}later: pct exec 105 -- mount /data",
            ],
        ),
        (  # who only seems to serve it is not restarted
            failing(CLOUD),
            {"daemons": (RCLONE._replace(likely=True),)},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if rclone hangs, start it anew",
                "To give it up: umount -l /mnt/cloud # then start what mounts it again",
            ],
        ),
        (  # NFS 3 has the server's own paths
            failing(replace(NAS, options="rw,vers=3"), Cause.STALE_HANDLE),
            {"origin": Origin.FSTAB},
            [
                "First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? Mend that",
                "Do: umount -l /mnt/nas && mount /mnt/nas",
            ],
        ),
        (  # what a server was mounted by is its own matter, and a path is one word
            failing(replace(NAS, superblock=NAS.superblock._replace(source="nas01:/a b")), Cause.STALE_HANDLE),
            {"origin": Origin.FSTAB},
            [
                f"First, on nas01: ls -la '/a b'; findmnt -T '/a b' # empty, or its disk not mounted? {MEND}",
                "Do: umount -l /mnt/nas && mount /mnt/nas",
            ],
        ),
        # A user's server: root does not ask it.
        (
            failing(replace(SSHFS, options="rw,user_id=1000,group_id=1000")),
            {"daemons": (Daemon(9, "sshfs"),)},
            [
                "Do: ps -o pid,stat,wchan:30,args 9 # if sshfs hangs, start it anew",
                "To give it up: umount -l /mnt/films # then start what mounts it again",
            ],
        ),
        (
            failing(SSHFS, Cause.IO_ERROR),
            {"daemons": (Daemon(9, "sshfs"),)},
            [
                "Do: ssh -o ConnectTimeout=5 nas02 true; ps -ww -o args= -p 9 # "
                "does nas02 answer? If not, mend that first – ps shows the options that it has – "
                "with -o reconnect the mount resumes by itself",
                "To mount it anew: umount -l /mnt/films && sshfs -o allow_other nas02:/films /mnt/films # "
                "add the other options that it had",
            ],
        ),
        (
            replace(failing(FUSE_IN_CT), subject=replace(FUSE_IN_CT, options="rw")),
            {},
            [
                "Do: see to the process that serves it in CT 105",
                "To give it up: pct exec 105 -- umount -l /c # then start what mounts it again",
            ],
        ),
        (
            gone(NAS),
            {},
            ["Do: mount -t nfs -o vers=4.2 nas01:/data /mnt/nas # what lies underneath: watcher hidden /mnt/nas"],
        ),
        (gone(NAS), {"origin": Origin.FSTAB}, ["Do: mount /mnt/nas # what lies underneath: watcher hidden /mnt/nas"]),
        (
            gone(NAS),
            {"origin": Origin.UNIT},
            ["Do: systemctl start mnt-nas.mount # what lies underneath: watcher hidden /mnt/nas"],
        ),
        (
            gone(IN_CT),
            {},
            [
                "Do: pct exec 105 -- mount -t nfs -o vers=4.2 nas01:/data /data # "
                "if it was bound from the host: pct reboot 105"
            ],
        ),
        (
            gone(SMB),
            {},
            [
                "Do: mount -t cifs -o username=me //nas01/x /mnt/smb # "
                "asks for the password – what lies underneath: watcher hidden /mnt/smb"
            ],
        ),
        (
            gone(SSHFS),
            {},
            [
                "Do: sshfs -o allow_other nas02:/films /mnt/films # "
                "add the other options that it had – what lies underneath: watcher hidden /mnt/films"
            ],
        ),
        (gone(CLOUD), {}, ["Do: start again what mounted it"]),
        (
            gone(CLOUD),
            {"origin": Origin.FSTAB},
            ["Do: mount /mnt/cloud # what lies underneath: watcher hidden /mnt/cloud"],
        ),
        (gone(PVE), {}, ["Do: pvesm status --storage nas01 # says why PVE does not mount it"]),
        (replace(gone(NAS), context="Do: mount /mnt/nas"), {}, []),  # said already, by whoever wants it
        (replace(gone(NAS), error="its disk is gone: /dev/sdb1"), {}, []),
        (gone(NAS), {"origin": Origin.AUTOMOUNT}, ["Do: ls /mnt/nas # the next access mounts it again"]),
        (gone(subject("/mnt/x", source="-osetup=x", fstype="fuse.sshfs")), {}, ["Do: start again what mounted it"]),
        (gone(subject("/mnt/x", source="[-oX=y]:/", fstype="fuse.sshfs")), {}, ["Do: start again what mounted it"]),
        # A user's: root would ask another's server with his own keys.
        (
            failing(replace(SSHFS, options="rw,user_id=1000,group_id=1000"), Cause.DISCONNECTED),
            {},
            ["Do: umount -l /mnt/films # then start what mounts it again"],
        ),
        (  # nor what nobody knows of whom
            failing(replace(SSHFS, options=""), Cause.DISCONNECTED),
            {},
            ["Do: umount -l /mnt/films # then start what mounts it again"],
        ),
        (  # who has two mounts there would be left with one
            failing(NAS, Cause.STALE_HANDLE),
            {"stacked": 2, "origin": Origin.FSTAB},
            [
                f"First, on nas01: ls -la /data; findmnt -T /data # empty, or its disk not mounted? {MEND}",
                "Do: umount -l /mnt/nas # 2 mounts stand there, this takes the upper one away",
            ],
        ),
        (
            failing(CLOUD),
            {"daemons": (Daemon(812, "c", "cron.service"),)},
            [
                "Do: ps -o pid,stat,wchan:30,args 812 # if c hangs, start it anew",
                "To give it up: umount -l /mnt/cloud # then start what mounts it again",
            ],
        ),
        # A directory of it, bound there.
        (
            failing(replace(SSHFS, superblock=SSHFS.superblock._replace(root="/a")), Cause.DISCONNECTED),
            {},
            ["Do: umount -l /mnt/films # then start what mounts it again"],
        ),
        (
            gone(replace(NAS, options="rw,vers=4.2,hard,proto=rdma,port=20049,sec=krb5p,local_lock=none")),
            {},
            [
                "Do: mount -t nfs -o vers=4.2,proto=rdma,port=20049,sec=krb5p nas01:/data /mnt/nas # "
                "what lies underneath: watcher hidden /mnt/nas"
            ],
        ),
        (
            gone(replace(NAS, options="ro,vers=3,nolock,proto=tcp,sec=sys")),
            {},
            [
                "Do: mount -t nfs -o vers=3,ro,nolock nas01:/data /mnt/nas # "
                "what lies underneath: watcher hidden /mnt/nas"
            ],
        ),
        (failing(CLOUD, stack=INIT), {"waiting": 1}, [f"Do: {ABORT} – then start what mounts it again"]),
        (failing(CLOUD, stack=INIT), {}, ["Do: fusermount3 -uz /mnt/cloud # then start what mounts it again"]),
    ],
)
def test_what_to_do(member: Member, found: dict[str, object], lines: list[str]) -> None:
    server = "nas02" if member.subject == SSHFS else None if member.subject.fstype.startswith("fuse") else "nas01"
    assert advice.advice(member, server, evidence(member.subject, **found)) == lines


VM = Guest("200", True, "win", (), ())
CT = Guest("105", False, "arr", (), ())
SLEEP = Process(7, "sleep", "host", blocked=False)
BOTH = "pct reboot 105, VM 200"


@pytest.mark.parametrize(
    ("radius", "restart"),
    [
        (None, ""),
        (Radius(), ""),
        (Radius(unknown=("cut short",)), ""),
        (Radius(processes=(SLEEP,), users=1), "then restart what still has the old one"),
        (
            Radius(guests=(Using(CT, "bind", "mp0"), Using(VM, "disk"))),
            f"then restart what still has the old one: {BOTH}",
        ),
        (Radius(guests=(Using(VM._replace(is_template=True), "disk"),)), ""),
        (Radius(guests=(Using(VM, "ISO"),)), ""),  # else its process is one of the users
        (Radius(processes=(SLEEP._replace(uses=False),), maybe=1), ""),  # an error frees it
        (
            Radius(guests=tuple(Using(CT._replace(id=str(n)), "bind") for n in range(101, 106))),
            "then restart the 5 guests that still have the old one",
        ),
    ],
)
def test_who_goes_on_with_the_old_mount(radius: Radius | None, restart: str) -> None:
    stale = evidence(NAS, origin=Origin.FSTAB, radius=radius)
    do = advice.advice(failing(NAS, Cause.STALE_HANDLE), "nas01", stale)[-1]
    assert do == f"Do: umount -l /mnt/nas && mount /mnt/nas{f' # {restart}' if restart else ''}"
    silent = advice.advice(failing(NAS), "nas01", stale)[-1]
    stop = (
        "stop its VMs first – "
        if radius is not None and VM in [u.guest for u in radius.guests if u.how == "disk"]
        else ""
    )
    after = f" – {restart}" if restart else ""
    assert silent == f"To give it up: umount -fl /mnt/nas # {stop}{LOST}later: mount /mnt/nas{after}"


@pytest.mark.parametrize(
    ("table", "aborts"),
    [
        ("60 1 0:60 / /mnt/a\\040b's rw - fuse.rclone remote: rw", True),
        (
            "60 1 0:60 / /etc/pve rw - fuse.pmxcfs pmxcfs rw\n61 1 0:61 / /mnt/a\\040b's rw - fuse.rclone remote: rw",
            False,
        ),
    ],
)
def test_what_has_got_its_number_since_is_not_aborted(tmp_path: Path, table: str, aborts: bool) -> None:
    """The command as it stands there, with other files in the place of the kernel's."""
    about = subject("/mnt/a b's", source="remote:", fstype="fuse.rclone", device="0:60", options="rw")
    [line] = advice.advice(failing(about), None, evidence(about, daemons=(), waiting=1))
    (tmp_path / "mountinfo").write_text(f"{table}\n")
    command = line.removeprefix("Do: ").replace("/proc/self", str(tmp_path)).replace("umount", "true")
    command = command.replace("/sys/fs/fuse/connections/60", str(tmp_path))
    subprocess.run(["sh", "-ec", command], check=True)
    assert (tmp_path / "abort").exists() is aborts


hostile = st.text(st.characters(codec=None), max_size=40)
# What a shell makes commands of, one of which would leave a file.
WORDS = [
    "a",
    "nas01",
    "; touch pwned;",
    "&& touch pwned #",
    "$(touch pwned)",
    "`touch pwned`",
    "|touch pwned",
    "'",
    '"',
    "#",
]
words = st.lists(st.sampled_from([*WORDS, " ", "\n", "\\", "-", ":", "/", "%", "*"]), max_size=6).map("".join)


@settings(max_examples=60, deadline=None)
@given(
    words, words, words, words,
    st.sampled_from(["nfs4", "cifs", "ceph", "9p", "fuse.sshfs", "fuse.x"]), st.sampled_from(list(Cause)),
    st.sampled_from(list(Port)), st.sampled_from(["host", "ct:105", "ct:web"]), st.booleans(),
)  # fmt: skip
def test_nothing_that_others_have_named_is_a_command(
    source: str, path: str, comm: str, value: str, fstype: str, cause: Cause, port: Port, namespace: str, told: bool
) -> None:
    """All lines, put before a shell as they stand, with and without their leads and comments."""
    about = subject(
        Place(namespace, f"/{path}"), source=f"{source}:/{path}", fstype=fstype,
        options=f"rw,user_id=0,username={value},clientaddr={value},vers=4.2",
    )  # fmt: skip
    question = Question(about.superblock, about.places[0], init_pid=0 if namespace == "host" else 7)
    radius = Radius(users=1, guests=(Using(CT, "bind"), Using(VM, "disk")))
    found = Evidence(
        question, port=port, endpoint=Endpoint(f"fe80::1%{value}", 2049), waiting=None, radius=radius,
        daemons=(Daemon(7, comm, f"{comm}.service", inside=namespace != "host"),),
    )  # fmt: skip
    members = (failing(about, cause), gone(about), replace(failing(about), kind=Kind.READONLY))
    lines = [line for member in members for line in advice.advice(member, source or None, found if told else None)]
    for line in lines:
        assert "\n" not in line
    # A line without comments is what an interactive zsh makes of it.
    scripts = [line.partition(": ")[2] for line in lines] + [line.replace(" # ", " ") for line in lines]
    with tempfile.TemporaryDirectory() as empty:
        text = "\n".join(f"( eval {shlex.quote(script)} )" for script in scripts)
        # There is no other command for it.
        script = f"touch() {{ : > pwned; }}\n{text}"
        subprocess.run(["/bin/bash", "-c", script], cwd=empty, env={"PATH": ""}, capture_output=True, timeout=60)
        assert os.listdir(empty) == [], lines


@given(hostile, hostile, hostile, st.sampled_from(["nfs4", "fuse.x"]), st.sampled_from(list(Port)), st.booleans())
def test_no_evidence_breaks_a_message(comm: str, unit: str, below: str, fstype: str, port: Port, inside: bool) -> None:
    place = Place("ct:1" if inside else "host", "/mnt/x")
    member = failing(subject(place, source="nas01:/x", fstype=fstype), stack=INIT if inside else ())
    found = evidence(
        member.subject,
        port=port,
        daemons=(Daemon(1, comm, f"{unit}.service", True, inside),) * 3,
        waiting=7,
        stacked=2,
        below=below,
        others_ok=1,
    )
    for line in [*causes.cause_lines(member, found), *advice.advice(member, "nas01", found)]:
        assert printable(line) == line
        assert "@everyone" not in line
        assert len(line) < 300


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20))
def test_a_unit_in_a_command_is_one_word(unit: str) -> None:
    member = failing(CLOUD)
    found = evidence(CLOUD, daemons=(Daemon(1, "x", f"x{unit}.service"),))
    [first, *_] = advice.advice(member, None, found)
    if first.startswith("Do: systemctl restart "):
        done = subprocess.run(
            ["sh", "-c", f"printf '%s|' {first.removeprefix('Do: systemctl restart ')}"], capture_output=True, text=True
        )
        assert done.stdout == f"x{unit}.service|"
