"""Configurations of Proxmox VE and LXC as they are written, and broken ones; the line for people."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watcher.core.radius import (
    Docker,
    Guest,
    Process,
    Radius,
    Storage,
    Using,
    guest,
    job_of,
    joined,
    line,
    lines,
    on_mount,
    storages,
)
from watcher.core.wording import printable

STORAGE_CFG = b"""\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup

lvmthin: local-lvm
\tthinpool data
\tvgname pve

nfs: nas01
\texport /export
\tpath /mnt/pve/nas01
\tserver 192.168.0.105
\tcontent images,iso
\tnodes pve1,pve2

cifs: nas02
\tserver nas02
\tshare data

nfs: old
\tdisable
\texport /export
\tserver nas03

dir: films
        path /mnt/pve/nas01/films/
        is_mountpoint 1
"""
CT = b"""\
#a comment: with a colon
arch: amd64
hostname: plex
mp0: /mnt/pve/nas01/media,mp=/media
mp1: nas02:101/vm-101-disk-1.raw,mp=/data,size=8G
rootfs: local-lvm:vm-101-disk-0,size=8G
lxc.mount.entry: /mnt/with\\040space data none bind,create=dir 0 0
lxc.mount.entry: proc proc proc nosuid 0 0
lxc.cgroup2.devices.allow: c 226:0 rwm

[snap]
mp2: /mnt/snapshot,mp=/x
"""
VM = b"""\
boot: order=scsi0;ide2
ide2: nas01:iso/debian.iso,media=cdrom,size=600M
ide3: none,media=cdrom
name: win
scsi0: file=nas01:100/vm-100-disk-0.qcow2,size=32G
scsi1: /dev/disk/by-id/ata-x,size=1G
scsihw: virtio-scsi-pci
sata0: local-lvm:vm-100-disk-1
"""
LXC = b"""\
lxc.uts.name = arr
lxc.mount.entry = /mnt/nas downloads none rbind,optional 0 0
"""


def test_storages() -> None:
    assert storages(STORAGE_CFG, "pve1") == [
        Storage("local", "/var/lib/vz"),
        Storage("nas01", "/mnt/pve/nas01", is_mounted=True),
        Storage("nas02", "/mnt/pve/nas02", is_mounted=True),
        Storage("films", "/mnt/pve/nas01/films"),
    ]
    # The guests of another node's storage are there.
    assert "nas01" not in [storage.id for storage in storages(STORAGE_CFG, "pve3")]


@pytest.mark.parametrize(
    ("text", "is_vm", "expected"),
    [
        (
            CT,
            False,
            Guest(
                "7",
                False,
                "plex",
                (("nas02", "disk"), ("local-lvm", "disk")),
                (("/mnt/pve/nas01/media", "mp0"), ("/mnt/with space", "")),
            ),
        ),
        (
            VM,
            True,
            Guest(
                "7",
                True,
                "win",
                (("nas01", "ISO"), ("nas01", "disk"), ("local-lvm", "disk")),
                (("/dev/disk/by-id/ata-x", ""),),
            ),
        ),
        (LXC, False, Guest("7", False, "arr", (), (("/mnt/nas", ""),))),
        (b"", False, Guest("7", False, "", (), ())),
        (b"cdrom: nas01:iso/a.iso,media=cdrom", True, Guest("7", True, "", (("nas01", "ISO"),), ())),
        (b"template: 1\n[snap]\ntemplate: 0", True, Guest("7", True, "", (), (), is_template=True)),
        (
            b"lxc.rootfs.path = overlay:/mnt/nas/base:/var/arr",
            False,
            Guest("7", False, "", (), (("/mnt/nas/base", "rootfs"), ("/var/arr", "rootfs"))),
        ),
    ],
)
def test_guests(text: bytes, is_vm: bool, expected: Guest) -> None:
    assert guest("7", is_vm, text) == expected


def test_a_guest_that_is_being_backed_up() -> None:
    assert guest("7", False, b"lock: backup\nhostname: arr\n[snap]\nlock: x\n").in_backup
    assert not guest("7", False, b"lock: migrate\n[snap]\nlock: backup\n").in_backup


def test_a_container_has_two_configurations() -> None:
    """Whichever is read first: what only Proxmox VE's tells, that it is being backed up, is not lost."""
    lxc, pve = guest("7", False, LXC), guest("7", False, b"lock: backup\ntemplate: 1\n" + CT)
    for one in (joined(lxc, pve), joined(pve, lxc)):
        assert (one.in_backup, one.is_template) == (True, True)
        assert set(one.paths) == {*lxc.paths, *pve.paths}
        assert one.volumes == pve.volumes
    assert joined(lxc, pve).name == "plex"
    assert joined(pve, guest("7", False, b"")) == pve


@pytest.mark.parametrize(
    ("upid", "words"),
    [
        ("UPID:pve1:0000ABCD:00112233:6761A1B2:vzdump:101:root@pam:", "vzdump 101"),
        ("UPID:pve1:0000ABCD:00112233:6761A1B2:vzdump::root@pam:", "vzdump, at 7, 8"),
        ("", "vzdump, at 7, 8"),
    ],
)
def test_which_guest_a_backup_is_at(upid: str, words: str) -> None:
    saved = [guest(ident, False, b"lock: backup") for ident in ("7", "8")]
    assert job_of(upid, [*saved, guest("9", True, VM)]) == words
    assert job_of(":::::", []) == "vzdump"


def test_what_lies_on_a_mount() -> None:
    guests = [guest("100", True, VM), guest("101", False, CT), guest("9", False, LXC)]
    ids, using = on_mount(["/mnt/pve/nas01"], storages(STORAGE_CFG, "pve1"), guests)
    assert ids == ["nas01", "films"]
    assert [(u.guest.id, u.how, u.key) for u in using] == [("101", "bind", "mp0"), ("100", "disk", "")]
    ids, using = on_mount(["/mnt/pve/nas02"], storages(STORAGE_CFG, "pve1"), guests)
    assert (ids, [(u.guest.id, u.how) for u in using]) == (["nas02"], [("101", "disk")])
    assert on_mount(["/mnt/pve/nas"], storages(STORAGE_CFG, "pve1"), guests) == ([], [])
    assert [u.guest.id for u in on_mount(["/mnt/nas"], [], guests)[1]] == ["9"]
    # Another mount stands in it, on which they lie.
    ids, using = on_mount(["/mnt/pve"], storages(STORAGE_CFG, "pve1"), guests, ["/mnt/pve/nas01", "/mnt/pve/nas01x"])
    assert "nas01" not in ids
    assert "nas02" in ids
    assert "100" not in [u.guest.id for u in using]
    # By a symlink, of which the text alone knows nothing.
    ids, using = on_mount(
        ["/data"], storages(STORAGE_CFG, "pve1"), guests, [], {"/mnt/pve/nas01/films": "/data/f", "/mnt/nas": "/data"}
    )
    assert (ids, [u.guest.id for u in using]) == (["films"], ["9"])


def test_the_line() -> None:
    vm, ct = guest("100", True, VM), guest("101", False, CT)
    cp, plex, df = (
        Process(4711, "cp", "host", blocked=True),
        Process(4712, "plex", "ct:101", blocked=False),
        Process(4713, "df", "other", blocked=True, uses=False),
    )
    radius = Radius(("nas01",), (Using(ct, "bind"), Using(vm, "ISO")), (cp, df, plex), users=9, blocked=1, maybe=1)
    assert line(radius) == (
        "PVE storage nas01; CT 101 plex, VM 100 win (ISO); 1 process waiting in it: cp (4711); "
        "1 process waiting in this or another such mount: df (4713); "
        "8 processes using it: plex (4712, CT 101) and 7 more"
    )
    assert line(Radius()) == ""
    assert lines(Radius(), "it", 300) == ["Hangs on it: nothing found"]
    first, second = lines(radius, "/mnt/pve/nas01", 300)
    assert first == "Hangs on /mnt/pve/nas01: PVE storage nas01; CT 101 plex, VM 100 win (ISO)"
    assert second.startswith("1 process waiting in it: cp (4711); ")
    waiting = Radius(processes=(cp,), users=1, blocked=1)
    assert lines(waiting, "it", 300) == ["Hangs on it: 1 process waiting in it: cp (4711)"]
    # Where it was not looked for to the end, an alarm says so, whatever else has to be left out.
    cut = ("there are too many processes",)
    more = ", and maybe more: the search was cut short"
    assert lines(waiting._replace(unknown=cut), "it", 300) == [f"Hangs on it: 1 process waiting in it: cp (4711){more}"]
    both = lines(radius._replace(unknown=cut), "it", 80)
    assert [len(words) for words in both] == [80, 80]
    assert both[0].startswith("Hangs on it: PVE")
    assert both[0].endswith(more)
    assert lines(Radius(unknown=cut), "it", 300) == ["Hangs on it: not known, the search was cut short"]
    hidden = "only root sees all"
    assert lines(Radius(unseen=hidden), "it", 300) == ["Hangs on it: not known, only root sees all"]
    assert lines(waiting._replace(unseen=hidden), "it", 300) == [
        "Hangs on it: 1 process waiting in it: cp (4711), and maybe more: only root sees all"
    ]
    # How to find out, where that is short enough.
    see = "watcher explain /mnt/nas"
    assert lines(Radius(unknown=cut), "it", 300, see) == [
        "Hangs on it: not known, the search was cut short; see: watcher explain /mnt/nas"
    ]
    assert lines(waiting._replace(unknown=cut), "it", 300, see)[0].endswith(f"{more}; see: {see}")
    assert lines(Radius(unknown=cut), "it", 300, see + 100 * "x") == lines(Radius(unknown=cut), "it", 300)
    assert see not in lines(Radius(), "it", 300, see)[0]
    smbd = Process(812, "smbd", "host", blocked=True, unit="smbd.service")
    assert line(Radius(processes=(smbd,), users=1, blocked=1)) == "1 process waiting in it: smbd (812, smbd.service)"
    # Its root may be on it, too, which is the worse of them.
    both_ways = (Using(ct, "disk", "mp0"), Using(vm._replace(is_template=True), "disk"))
    assert line(Radius(guests=both_ways)) == "CT 101 plex (disk, mp0), VM 100 win (disk of a template)"
    others = Radius(
        guests=(Using(ct, "bind", "mp0"),),
        docker=(Docker("0123456789ab", "host"), Docker("ab0123456789", "ct:105")),
        jobs=("vzdump 101",),
    )
    assert line(others) == (
        "CT 101 plex (mp0); Docker container 0123456789ab, Docker container ab0123456789 (CT 105); "
        "backup job running: vzdump 101"
    )


@pytest.mark.parametrize(
    "parse",
    [
        lambda data: storages(data, "pve1"),
        lambda data: guest("1", True, data),
        lambda data: guest("1", False, data),
    ],
)
@given(
    data=st.binary(max_size=300)
    | st.lists(st.sampled_from([*STORAGE_CFG.split(b"\n"), *CT.split(b"\n")])).map(b"\n".join)
)
def test_survives_any_bytes(parse: Callable[[bytes], object], data: bytes) -> None:
    parse(data)


@given(st.text(max_size=40), st.text(max_size=40))
def test_names_in_the_line_are_harmless(title: str, comm: str) -> None:
    one = Guest("1", False, title, (), ())
    text = line(Radius((title,), (Using(one, "bind"),), (Process(1, comm, "ct:1", True),), 1, 1))
    assert printable(text) == text
    assert len(text) < 200
