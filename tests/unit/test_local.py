from __future__ import annotations

import pytest

from tests.unit.mounts import mount, table, watching
from watcher.core.incident import Condition
from watcher.core.incidents import Incidents
from watcher.core.local import Local
from watcher.core.wording import cause_words
from watcher.model import Change, DisksRead, Mount, Transition

ANY = watching(fstypes=["*"])
DISKS = DisksRead(frozenset({"8:1", "8:17"}), frozenset({"sda1", "sdb1", "sdc1"}), {"tank": "ONLINE"})
USB = mount("/mnt/usb", mount_id=50, device="8:17", fstype="ext4", source="/dev/sdb1", super_options="rw")


class Site:
    def __init__(self, *, wanted: bool = True) -> None:
        self.local = Local(watching(), ANY, wanted=wanted)
        self.now = 0.0

    def table(self, *mounts: Mount) -> list[Transition]:
        self.now += 1
        return self.local.handle(table(*mounts), self.now)

    def disks(self, read: DisksRead = DISKS) -> list[Transition]:
        self.now += 1
        return self.local.handle(read, self.now)

    def statuses(self) -> list[tuple[str, str]]:
        return [(str(s.place), s.status) for s in self.local.snapshot()]


def told(transitions: list[Transition]) -> list[tuple[str, Change, str]]:
    return [(t.kind.value, t.change, t.error or t.reason) for t in transitions]


@pytest.mark.parametrize("options", ["ro,errors=remount-ro", "rw,emergency_ro", "rw,shutdown"])
def test_a_superblock_that_stopped_writing_by_itself_is_read_only(options: str) -> None:
    site = Site()
    assert site.table(USB) == site.disks() == []
    broken = USB._replace(super_options=options)
    assert told(site.table(broken)) == [("readonly", Change.BEGAN, "became read-only, though mounted for writing")]
    assert site.table(broken) == site.disks() == []
    assert site.statuses() == [("/mnt/usb", "readonly")]
    assert [s.unexpected_readonly for s in site.local.snapshot()] == [True]
    assert told(site.table(USB)) == [("readonly", Change.ENDED, "")]
    site.table(broken)
    assert told(site.table()) == [("readonly", Change.GONE, "unmounted")]


@pytest.mark.parametrize(
    "fine",
    [
        USB._replace(options="ro,relatime", super_options="ro"),
        USB._replace(options="ro,relatime"),
        USB._replace(fstype="squashfs", super_options="ro"),
        USB._replace(fstype="nfs4", super_options="ro"),  # the tracker's own matter
        # A snapshot under .zfs, which the kernel has mount(8) mount without "ro".
        USB._replace(device="0:70", fstype="zfs", source="tank/data@daily", super_options="ro,xattr,noacl"),
    ],
)
def test_what_is_mounted_read_only_or_is_no_disk_is_no_matter(fine: Mount) -> None:
    site = Site()
    assert site.table(fine) == site.disks() == site.disks() == []


PULLED = DisksRead(frozenset({"8:1"}), frozenset({"sda1"}), {})


def test_a_device_that_is_gone_counts_by_two_readings() -> None:
    site = Site()
    site.table(USB), site.disks()
    assert site.disks(PULLED) == []
    assert site.local.in_doubt
    [began] = site.disks(PULLED)
    assert told([began]) == [("vanished", Change.BEGAN, "its disk is gone: /dev/sdb1")]
    assert cause_words(began.kind, began.cause, began.error) == "DISK GONE"
    assert began.context == "Do: umount -l /mnt/usb # then plug it in again, and: mount /mnt/usb"
    assert site.statuses() == [("/mnt/usb", "stale")]
    # The journal's end that follows is the same trouble.
    assert site.table(USB._replace(super_options="rw,emergency_ro")) == site.disks(PULLED) == []
    assert told(site.table()) == [("vanished", Change.GONE, "unmounted")]


def test_unmounted_between_two_readings_is_nothing() -> None:
    site = Site()
    site.table(USB), site.disks()
    assert site.disks(PULLED) == site.table() == site.disks(PULLED) == []
    assert site.local.in_doubt is False


def test_btrfs_is_known_by_the_name_of_its_device() -> None:
    btrfs = USB._replace(device="0:44", fstype="btrfs")
    mapped = btrfs._replace(source="/dev/mapper/vg-data", mount_point="/mnt/lv", mount_id=51, device="0:45")
    site = Site()
    assert site.table(btrfs, mapped) == site.disks() == site.disks() == []
    site.disks(PULLED)
    assert [str(t.subject.places[0]) for t in site.disks(PULLED)] == ["/mnt/usb"]


def test_nothing_is_gone_where_sysfs_is_not_to_be_seen() -> None:
    site, blind = Site(), DisksRead(frozenset(), frozenset(), {})
    btrfs = mount("/mnt/b", mount_id=52, device="0:44", fstype="btrfs", source="/dev/sdb1")
    assert site.table(USB, btrfs) == site.disks(blind) == site.disks(blind) == []


def test_a_pool_that_is_suspended_and_goes_on() -> None:
    zfs = mount("/tank/data", mount_id=53, device="0:60", fstype="zfs", source="tank/data", super_options="rw,xattr")
    suspended = DisksRead(DISKS.devices, DISKS.names, {"tank": "SUSPENDED"})
    site = Site()
    site.table(zfs), site.disks(), site.disks(suspended)
    [began] = site.disks(suspended)
    assert began.error == "its ZFS pool is suspended: tank"
    assert cause_words(began.kind, began.cause, began.error) == "POOL SUSPENDED"
    assert began.context == "Do: zpool status -x tank # when its disks are back: zpool clear tank"
    [ended] = site.disks()
    assert (ended.change, ended.reason) == (Change.ENDED, "in order again")
    incidents = Incidents()
    incidents.apply(began, now=1.0, wall=1.0)
    changed = incidents.apply(ended, now=2.0, wall=2.0)
    assert changed is not None
    assert [m.condition for m in changed.members] == [Condition.OK]


def test_several_mounts_of_one_disk_are_one_matter() -> None:
    bind = USB._replace(mount_point="/srv/films", mount_id=60, root="/films")
    site = Site()
    site.table(bind, USB)
    broken = [m._replace(super_options="ro") for m in (bind, USB)]
    [began] = site.table(*broken)
    assert [str(p) for p in began.subject.places] == ["/mnt/usb", "/srv/films"]
    assert began.subject.superblock.root == "/"


def test_it_can_be_switched_off_and_excluded() -> None:
    broken = USB._replace(super_options="ro")
    assert Site(wanted=False).table(broken) == []
    site = Site()
    site.table(broken)
    ended = site.local.configure(watching(), watching(fstypes=["*"], exclude=["/mnt/*"]), 9.0, wanted=True)
    assert told(ended) == [("readonly", Change.GONE, "no longer watched")]
