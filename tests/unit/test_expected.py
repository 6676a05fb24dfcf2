from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import mount
from watcher.core import expected as texts
from watcher.core.bound import Bound, binds_on_host, bound_by_fstab, bound_by_lxc, bound_by_pve
from watcher.core.expected import Unit, from_fstab, from_storages, from_units
from watcher.core.units import unit_name
from watcher.model import HOST, Expected, Place

FSTAB = rb"""# /etc/fstab
UUID=1-2 / ext4 errors=remount-ro 0 1
/swap none swap sw 0 0
nas01:/data	/mnt/nas	nfs4	defaults,_netdev	0 0
nas01:/iso /mnt/iso/ nfs ro
//nas02/films /mnt/My\040films cifs credentials=/etc/c,nofail 0 0
nas01:/old /mnt/old nfs noauto 0 0
nas01:/lazy /mnt/lazy nfs x-systemd.automount,_netdev 0 0
nas01:/older /mnt/older nfs comment=systemd.automount 0 0
nas01:/idle /mnt/the-idle\040one nfs noauto,x-systemd.automount,x-systemd.idle-timeout=1min 0 0
/mnt/nas/www /srv/www none bind 0 0
/mnt/nas/www /srv/www2 nfs rbind 0 0
sshfs#root@box:/srv /mnt/box fuse allow_other 0 0
root@box:/two /mnt/two sshfs defaults
vol:/gv /mnt/gv glusterfs
nas01:/guess /mnt/guess auto
buckets /mnt/gcs gcsfuse _netdev
redis://kv/1 /mnt/jfs juicefs _netdev
sshfs#me@box:/x /mnt/three fuse3 _netdev
only two
nas01:/up /mnt/../etc nfs
nas01:/rel mnt/rel nfs
"""


def test_fstab_gives_what_is_mounted_at_boot_as_the_mount_table_will_have_it() -> None:
    found = {e.place.mount_point: (e.source, e.fstype) for e in from_fstab(FSTAB)}
    assert found == {
        "/": ("UUID=1-2", "ext4"),
        "/mnt/nas": ("nas01:/data", "nfs4"),
        "/mnt/iso": ("nas01:/iso", "nfs"),
        "/mnt/My films": ("//nas02/films", "cifs"),
        "/mnt/lazy": ("nas01:/lazy", "nfs"),
        "/mnt/older": ("nas01:/older", "nfs"),
        "/mnt/the-idle one": ("nas01:/idle", "nfs"),
        "/mnt/box": ("root@box:/srv", "fuse.sshfs"),
        "/mnt/two": ("root@box:/two", "fuse.sshfs"),
        "/mnt/gv": ("vol:/gv", "fuse.glusterfs"),
        "/mnt/guess": ("nas01:/guess", "nfs4"),
        "/mnt/gcs": ("buckets", "fuse.gcsfuse"),
        "/mnt/jfs": ("redis://kv/1", "fuse.juicefs"),
        "/mnt/three": ("me@box:/x", "fuse.sshfs"),
    }


def test_fields_of_fstab_end_at_blanks_and_tabs_alone() -> None:
    [found] = from_fstab(" nas01:/a\u00a0b \t /mnt/a\u00a0b\x0c  nfs\tro\r\n".encode())
    assert (found.source, found.place.mount_point, found.readonly) == ("nas01:/a\u00a0b", "/mnt/a\u00a0b\x0c", True)


def test_fstab_says_who_wants_it_and_how_it_is_mounted() -> None:
    [found] = from_fstab(rb"//nas02/films /mnt/My\040films cifs")
    place = Place(HOST, "/mnt/My films")
    assert found == Expected(
        place, "//nas02/films", "cifs", "/etc/fstab", "mount '/mnt/My films'", readonly=False, by_hand=True
    )
    [lazy] = from_fstab(rb"nas01:/x /mnt/.the-idle\040one/ nfs ro,noauto,x-systemd.automount")
    assert (lazy.origin, lazy.readonly) == ("/etc/fstab (x-systemd.automount)", True)
    assert lazy.mend == r"systemctl start 'mnt-.the\x2didle\x20one.automount'"
    assert from_fstab(b"a:/b /data nfs noauto,x-systemd.automount", namespace="ct:101") == []
    [inside] = from_fstab(b"a:/b /data nfs", namespace="ct:101", run="pct exec 101 -- ", where="its /etc/fstab")
    assert (inside.place, inside.mend) == (Place("ct:101", "/data"), "pct exec 101 -- mount /data")


MOUNT = b"""[Unit]
Description=Where=/not/this
[Mount]
# Where=/nor/this
What=nas01:/data
Where=/mnt/nas
Type=nfs
Options=rw,\\
; a comment amid
  hard
[Install]
WantedBy=multi-user.target
"""


@pytest.mark.parametrize(
    ("units", "enabled", "expected"),
    [
        ([Unit("mnt-nas.mount", MOUNT)], ["mnt-nas.mount"], ["/mnt/nas"]),
        ([Unit("mnt-nas.mount", MOUNT)], [], []),
        ([Unit("mnt-nas.mount", MOUNT), Unit("mnt-nas.automount", b"[Automount]")], [], []),
        ([Unit("mnt-nas.mount", MOUNT), Unit("mnt-nas.automount", b"[Automount]")], ["mnt-nas.mount"], ["/mnt/nas"]),
        ([Unit("mnt-nas.service", MOUNT)], ["mnt-nas.service"], []),
        ([Unit("x.mount", MOUNT.replace(b"hard", b"noauto"))], ["x.mount"], []),
        ([Unit("x.mount", MOUNT.replace(b"/mnt/nas", b"%h/nas"))], ["x.mount"], []),
        ([Unit("x.mount", MOUNT.replace(b"/mnt/nas", b'"/mnt/the nas"'))], ["x.mount"], ["/mnt/the nas"]),
    ],
)
def test_units_count_if_something_wants_them_and_nothing_mounts_them_on_demand(
    units: list[Unit], enabled: list[str], expected: list[str]
) -> None:
    found = from_units(units, frozenset(enabled))
    assert [e.place.mount_point for e in found] == expected
    assert all((e.source, e.fstype, e.origin) == ("nas01:/data", "nfs", units[0].name) for e in found)
    assert all(e.mend == f"systemctl start {units[0].name}" for e in found)


@pytest.mark.parametrize("both", [False, True])
def test_a_unit_whose_trigger_is_wanted_is_mended_by_the_trigger(both: bool) -> None:
    units = [Unit("mnt-nas.mount", MOUNT), Unit("mnt-nas.automount", b"[Automount]")]
    [found] = from_units(units, frozenset(u.name for u in units if both or u.name.endswith(".automount")))
    assert (found.place.mount_point, found.origin) == ("/mnt/nas", "mnt-nas.automount")
    assert found.mend == "systemctl start mnt-nas.automount"


@pytest.mark.parametrize(
    ("masked", "left"),
    [
        ("mount", []),
        ("automount", ["/etc/fstab", "mnt-nas.mount"]),  # systemd mounts these at boot all the same
        ("service", ["/etc/fstab", "/etc/fstab (x-systemd.automount)", "mnt-nas.mount", "mnt-nas.automount"]),
    ],
)
def test_a_mask_takes_what_is_mounted_by_that_unit(masked: str, left: list[str]) -> None:
    fstab = from_fstab(b"a:/b /mnt/nas nfs\na:/b /mnt/nas nfs x-systemd.automount\n")
    units = {"mnt-nas.mount": MOUNT, "mnt-nas.automount": b"[Automount]"}
    by_unit = [each for unit in units for each in from_units([*map(Unit, units, units.values())], frozenset({unit}))]
    found = texts.without_masked([*fstab, *by_unit], {f"mnt-nas.{masked}": b" \n"})
    assert [each.origin for each in found] == left
    # Of two that are wanted the trigger counts, unless it is masked.
    units |= {"mnt-nas.automount": b""}
    [both] = from_units([*map(Unit, units, units.values())], frozenset(units))
    assert both.origin == "mnt-nas.mount"


@pytest.mark.parametrize(
    ("path", "named"),
    [  # what systemd-escape --path of systemd 252 makes of them
        ("/", r"-"),
        ("/mnt/nas", r"mnt-nas"),
        ("/.hidden/x", r"\x2ehidden-x"),
        ("/a-b/c_d:e.f", r"a\x2db-c_d:e.f"),
        ("/spa ce/\xe4/\udcff", r"spa\x20ce-\xc3\xa4-\xff"),
        ("/back\\x2fslash", r"back\x5cx2fslash"),
        ("/x/.y", r"x-.y"),
    ],
)
def test_a_path_is_named_as_systemd_names_it(path: str, named: str) -> None:
    assert unit_name(path) == f"{named}.mount"


STORAGE = b"""dir: local
	path /var/lib/vz
	content iso,vztmpl,backup

nfs: nas01
	export /data
	path /mnt/pve/nas01
	server 10.0.0.10
	options vers=4.2,ro
	content images

cifs: films
	server nas02
	share films
	content iso

cifs: off
	disable
	path /mnt/pve/off
	server nas02
	share off

nfs: on-after-all
	disable 0
	server fd00::1
	export /x

nfs: elsewhere
	nodes pve1,pve2
	server nas01
	export /e

nfs: here
	nodes pve1,pve3
	server nas01
	export /h

cephfs: cephfs
	monhost 10.0.0.1, 10.0.0.2
	path /mnt/pve/cephfs

cephfs: by-fuse
	fuse 1

glusterfs: gv
	server vol
	volume gv0

dir: usb
	path /mnt/usb
	is_mountpoint yes

dir: deep
	path /mnt/disk/pve/
	is_mountpoint /mnt/disk

btrfs: pool
	path /mnt/pool/images
	is_mountpoint /mnt/pool

btrfs: rootfs
	path /var/lib/pve/local-btrfs

dir: plain
	path /srv/plain
	is_mountpoint 0

zfspool: tank
	pool tank
	mountpoint /tank
"""


def test_storages_are_those_that_pve_keeps_mounted_on_this_node() -> None:
    found = {e.place.mount_point: (e.source, e.fstype) for e in from_storages(STORAGE, "pve3")}
    assert found == {
        "/mnt/pve/nas01": ("10.0.0.10:/data", "nfs4"),
        "/mnt/pve/films": ("//nas02/films", "cifs"),
        "/mnt/pve/on-after-all": ("[fd00::1]:/x", "nfs4"),
        "/mnt/pve/here": ("nas01:/h", "nfs4"),
        "/mnt/pve/cephfs": ("10.0.0.1,10.0.0.2:/", "ceph"),
        "/mnt/pve/by-fuse": (":/", "fuse.ceph-fuse"),
        "/mnt/pve/gv": ("vol:/gv0", "fuse.glusterfs"),
        "/mnt/usb": ("", ""),
        "/mnt/disk": ("", ""),
        "/mnt/pool": ("", ""),
    }


def test_a_storage_is_mended_by_pve_itself() -> None:
    [nfs] = from_storages(b"nfs: nas01\n\tserver nas01\n\texport /x\n", "pve3")
    assert nfs.mend == "pvesm status --storage nas01 # to do without it: pvesm set nas01 --disable 1"
    assert nfs.origin == "PVE storage nas01"
    [disk] = from_storages(b"dir: usb\n\tpath /mnt/usb\n\tis_mountpoint 1\n", "pve3")
    assert disk.mend == "mount /mnt/usb"


def test_binds_of_a_container_by_pve_and_by_lxc() -> None:
    pve = b"""arch: amd64
mp0: /mnt/pve/nas01/media,mp=/media,ro=1
mp1: local-lvm:vm-101-disk-1,mp=/var/data,size=8G
mp2: volume=/mnt/x,mp=/x/
mp3: /dev/sdb1,mp=/disk
mpx: /mnt/y,mp=/y
lxc.mount.entry: /mnt/pve/nas01/iso iso none bind,optional 0 0
[before-upgrade]
mp4: /mnt/pve/nas01/old,mp=/old
"""
    assert bound_by_pve(pve) == [Bound("/mnt/pve/nas01/media", "/media"), Bound("/mnt/x", "/x")]
    assert bound_by_lxc(pve) == [Bound("/mnt/pve/nas01/iso", "/iso")]
    lxc = rb"""lxc.uts.name = arr
lxc.mount.entry = /mnt/nas/a\040b /var/lib/lxc/101/rootfs/data none rbind,create=dir 0 0
lxc.mount.entry = proc proc proc nodev 0 0
#lxc.mount.entry = /mnt/nas/c c none bind 0 0
"""
    assert bound_by_lxc(lxc) == [Bound("/mnt/nas/a b", "/data")]


def test_binds_of_the_hosts_own_are_of_what_they_should_show() -> None:
    content = b"""nas01:/data /mnt/nas nfs defaults
/mnt/nas/www /srv/www none bind,ro 0 0
/mnt/nas/disk/x /srv/x none rbind
/mnt/nas/y /srv/y none bind,noauto
/mnt/cold/z /srv/z none bind
/home/a /srv/a none bind
"""
    bound = bound_by_fstab(content)
    assert [b.target for b in bound] == ["/srv/www", "/srv/x", "/srv/z", "/srv/a"]
    cold = Expected(Place(HOST, "/mnt/cold"), "COLD:/z/", "nfs4", "PVE storage cold")
    standing = [mount("/", device="8:1", fstype="ext4", source="/dev/sda1"), mount(source="nas01.lan:/data")]
    standing.append(mount("/mnt/nas/disk", device="8:2", fstype="xfs", source="/dev/sdb1"))
    found = {e.place.mount_point: (e.source, e.fstype) for e in binds_on_host(bound, [cold], standing)}
    assert found == {
        "/srv/www": ("nas01.lan:/data", "nfs4"),
        "/srv/x": ("/dev/sdb1", "xfs"),
        "/srv/z": ("", "nfs4"),
        "/srv/a": ("/dev/sda1", "ext4"),
    }


LINES = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.sampled_from([*FSTAB.split(b"\n"), *STORAGE.split(b"\n"), *MOUNT.split(b"\n")]),
        st.sampled_from([b"mp0: /a,mp=/b", b"lxc.mount.entry = /a b none bind", b"nfs: \xff", b"\tpath /\xff", b"\\"]),
    ),
    max_size=20,
).map(b"\n".join)


@given(LINES)
def test_any_bytes_are_survived_and_give_absolute_paths(content: bytes) -> None:
    found = [
        *from_fstab(content),
        *from_storages(content, "pve3"),
        *from_units([Unit("x.mount", content)], frozenset({"x.mount"})),
    ]
    paths = [e.place.mount_point for e in found]
    bound = (*bound_by_pve(content), *bound_by_lxc(content), *bound_by_fstab(content))
    paths += [path for each in bound for path in each]
    assert all(texts.path_of(path) == path for path in paths)


@pytest.mark.parametrize(
    ("options", "readonly"),
    [("defaults", False), ("ro", True), ("rw,ro", True), ("ro,rw", False), ("errors=remount-ro", False)],
)
def test_how_it_is_meant(options: str, readonly: bool) -> None:
    [found] = from_fstab(f"nas01:/data /mnt/nas nfs {options}".encode())
    assert found.readonly is readonly
    [unit] = from_units([Unit("a.mount", MOUNT.replace(b"hard", options.encode()))], frozenset({"a.mount"}))
    assert unit.readonly is readonly
    [storage] = from_storages(f"nfs: a\n options {options}".encode(), "pve3")
    assert storage.readonly is readonly
