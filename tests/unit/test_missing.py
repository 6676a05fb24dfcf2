from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.unit.mounts import mount, table, watching
from watcher.core.bound import binds
from watcher.core.filters import Filter
from watcher.core.missing import Missing
from watcher.model import (
    HOST,
    Change,
    Container,
    Expected,
    ExpectedRead,
    Kind,
    Mount,
    NamespaceGone,
    Place,
    Subject,
    TableRead,
    Tick,
    Transition,
)

NAS = Expected(Place(HOST, "/mnt/nas"), "nas01:/data", "nfs4", "/etc/fstab", "mount /mnt/nas", by_hand=True)
STORAGE = Expected(Place(HOST, "/mnt/pve/nas"), "nas01:/pve", "nfs4", "PVE storage nas", "pvesm status --storage nas")
ARR = Container("105", 4711, 99, "arr")


class Site:
    """A Missing in simulated time."""

    def __init__(self, chosen: Filter | None = None, *, after: float = 30.0, grace: float = 0.0) -> None:
        self.missing = Missing(chosen or watching(), after=after, grace_until=grace)
        self.now = 100.0

    def expect(
        self, *expected: Expected, complete: bool = True, inside: Sequence[str] = (), binds: Sequence[Place] = ()
    ) -> list[Transition]:
        read = ExpectedRead(expected, complete, frozenset(inside), frozenset(binds))
        return self.missing.handle(read, self.now)

    def table(self, *mounts: Mount) -> list[Transition]:
        return self.missing.handle(table(*mounts), self.now)

    def inside(self, *mounts: Mount) -> list[Transition]:
        return self.missing.handle(TableRead(ARR.namespace, mounts, ARR), self.now)

    def later(self, seconds: float) -> list[Transition]:
        """To the next moment that it wants, again and again, and to the end of the time."""
        out, end = list[Transition](), self.now + seconds
        while (due := self.missing.next_due()) is not None and due <= end:
            self.now = max(self.now, due)
            out += self.missing.handle(Tick(), self.now)
        self.now = end
        return out

    def shown(self) -> list[str]:
        return [str(state.place) for state in self.missing.snapshot()]


def changes(transitions: list[Transition]) -> list[tuple[Change, str, str]]:
    assert all(t.kind is Kind.MISSING for t in transitions)
    return [(t.change, str(t.subject.places[0]), t.reason or t.error) for t in transitions]


NEVER = (Change.BEGAN, "/mnt/nas", "not mounted; /etc/fstab wants it")
GONE = (Change.BEGAN, "/mnt/nas", "no longer mounted; /etc/fstab wants it")


def test_missing_since_the_start_is_told_after_the_patience_and_once() -> None:
    site = Site()
    assert site.table() == site.expect(NAS) == site.later(29.9) == []
    assert site.shown() == []
    began = site.later(0.2)
    assert changes(began) == [NEVER]
    assert (began[0].since, began[0].context) == (100.0, "Do: mount /mnt/nas")
    assert site.shown() == ["/mnt/nas"]
    assert site.later(3600) == site.table() == site.expect(NAS) == []
    assert changes(site.table(mount())) == [(Change.ENDED, "/mnt/nas", "mounted")]
    assert site.shown() == []


def test_what_was_mounted_and_vanished_is_mounted_again_at_the_end() -> None:
    site = Site()
    assert site.expect(NAS) == site.table(mount()) == site.later(600) == []
    assert site.table() == []
    assert changes(site.later(31)) == [GONE]
    [ended] = site.table(mount())
    assert (ended.change, ended.reason) == (Change.ENDED, "")


def test_a_remount_within_the_patience_is_nothing() -> None:
    site = Site()
    site.expect(NAS)
    for _ in range(3):
        assert site.table(mount()) == site.table() == site.later(29) == []


def test_nothing_is_missing_before_the_boot_has_had_its_time() -> None:
    site = Site(grace=160.0)
    assert site.expect(NAS) == site.table() == site.later(59) == []
    assert changes(site.later(1.5)) == [NEVER]


def test_what_is_written_into_fstab_while_we_run_is_shown_and_told_only_once_it_has_stood() -> None:
    site = Site()
    assert site.table() == site.expect() == site.expect(NAS) == site.later(600) == []
    assert site.shown() == ["/mnt/nas"]
    assert site.table(mount()) == site.table() == []
    assert changes(site.later(31)) == [GONE]


def test_a_bind_that_was_written_down_before_its_source_was_mounted_is_told() -> None:
    """As at the boot of a host of Proxmox's: what the bind should show is known once pve-cluster runs."""
    bind = Expected(Place(HOST, "/srv/x"), "nas01:/pve", "nfs4", "/etc/fstab", exact=True, by_hand=True)
    for written, told in (([bind.place], [Change.BEGAN]), ([], [])):
        site = Site()
        site.table(mount("/srv/x", fstype="ext4", source="/dev/sda1"))
        site.expect(complete=False, binds=written), site.expect(bind, binds=[bind.place])
        assert [t.change for t in site.later(600)] == told
        assert site.shown() == ["/srv/x"]
    # Whoever writes it down while we run may take his time, also where its source comes still later.
    site = Site()
    site.table(), site.expect(), site.expect(binds=[bind.place]), site.expect(bind, binds=[bind.place])
    assert site.later(600) == []
    assert site.shown() == ["/srv/x"]


def test_what_is_written_into_a_containers_fstab_while_it_runs_is_shown_and_told_only_once_it_has_stood() -> None:
    wanted = Expected(Place(ARR.namespace, "/data"), "nas01:/data", "nfs4", "its /etc/fstab", by_hand=True)
    site = Site()
    site.table(), site.expect(), site.inside()
    assert site.expect(inside=[ARR.namespace]) == site.expect(wanted, inside=[ARR.namespace]) == site.later(600) == []
    assert site.shown() == ["ct:105:/data"]
    assert site.inside(mount("/data")) == site.inside() == []
    assert [t.change for t in site.later(31)] == [Change.BEGAN]
    # Of one whose fstab comes only now it is no news; nor of one that is started again.
    for told in (site, Site()):
        told.table(), told.missing.handle(NamespaceGone(ARR.namespace, "container stopped"), told.now)
        told.expect(), told.inside()
        told.expect(wanted, inside=[ARR.namespace])
        assert [t.change for t in told.later(31)] == [Change.BEGAN]


def test_a_storage_is_mounted_by_pve_so_that_a_new_one_counts_at_once() -> None:
    site = Site()
    assert site.table() == site.expect() == site.expect(STORAGE) == []
    assert [c[1] for c in changes(site.later(31))] == ["/mnt/pve/nas"]


def test_what_is_expected_no_more_ends_without_a_recovery() -> None:
    site = Site()
    site.table(), site.expect(NAS), site.later(31)
    assert changes(site.expect()) == [(Change.GONE, "/mnt/nas", "no longer expected")]


def test_filters_hold_for_what_is_missing_too() -> None:
    local = NAS._replace(fstype="ext4")
    for chosen, expected in (
        (watching(exclude=["/mnt/*"]), NAS),
        (watching(exclude=["server:nas01"]), NAS),
        (watching(), local),
    ):
        site = Site(chosen)
        assert site.table() == site.expect(expected) == site.later(31) == []
        assert site.shown() == []
    site = Site(watching(show_only=["/mnt/*"]))
    assert site.table() == site.expect(NAS) == site.later(31) == []
    assert [s.show_only for s in site.missing.snapshot()] == [True]


def test_who_is_asked_for_by_name_counts_whatever_its_type() -> None:
    disk = Expected(Place(HOST, "/mnt/usb"), "/dev/sdb1", "ext4", "[[expect]]", "mount /mnt/usb", exact=True)
    for chosen, shown in (
        (watching(), ["/mnt/usb"]),
        (watching(fstypes=["cifs", "fuse.*"]), ["/mnt/usb"]),
        (watching(exclude=["/mnt/*"]), []),
        (watching(include=["/srv/*"]), []),
    ):
        site = Site(chosen)
        site.table(), site.expect(disk), site.later(31)
        assert site.shown() == shown
    for source, fstype in (("//nas02/films", "cifs"), ("nas02:/films", "")):
        site = Site(watching(exclude=["server:nas02"]))
        site.table(), site.expect(disk._replace(source=source, fstype=fstype)), site.later(31)
        assert site.shown() == []


def test_a_bind_is_asked_for_by_fstab_and_counts_only_if_its_type_is_watched() -> None:
    pool = Expected(Place(HOST, "/srv/films"), "a:b", "fuse.mergerfs", "/etc/fstab", exact=True, by_hand=True)
    for fstypes, shown in ((["nfs", "nfs4"], []), (["fuse.*"], ["/srv/films"])):
        site = Site(watching(fstypes=fstypes))
        site.table(), site.expect(pool), site.later(31)
        assert site.shown() == shown


def test_a_storage_that_another_mounts_is_of_any_type() -> None:
    usb = STORAGE._replace(source="", fstype="")
    for fstypes in (["nfs4"], ["cifs"]):
        site = Site(watching(fstypes=fstypes))
        site.table(), site.expect(usb), site.later(31)
        assert site.shown() == ["/mnt/pve/nas"]


def test_rules_that_change_end_and_begin_it() -> None:
    site = Site()
    site.table(), site.expect(NAS), site.later(31)
    ended = site.missing.configure(watching(exclude=["/mnt/*"]), site.now, after=30.0)
    assert changes(ended) == [(Change.GONE, "/mnt/nas", "no longer watched")]
    assert changes(site.missing.configure(watching(), site.now, after=0.0)) == [NEVER]


def test_an_autofs_trigger_is_as_good_as_the_mount() -> None:
    site = Site()
    trigger = mount(fstype="autofs", source="systemd-1", super_options="rw,timeout=60")
    assert site.expect(NAS) == site.table(trigger) == site.later(600) == []


def test_an_exact_expectation_wants_this_very_mount() -> None:
    exact = NAS._replace(exact=True, by_hand=False)
    for there, good in (
        (mount(), True),
        (mount(fstype="nfs"), True),
        (mount(source="nas02:/data"), False),
        (mount(fstype="ext4"), False),
    ):
        site = Site()
        site.expect(exact), site.table(there)
        assert (site.later(31) == []) is good
    site = Site()
    site.expect(NAS), site.table(mount(fstype="ext4"))
    assert site.later(31) == []


def test_a_bind_may_show_a_file_system_of_the_server_that_was_mounted_below_its_source() -> None:
    """nas01:/ has /media on another file system: its mount below goes when it is idle, the bind of it stays."""
    bind = Expected(Place(HOST, "/srv/media"), "nas01:/", "nfs4", "/etc/fstab", exact=True, by_hand=True)
    for source, fstype, good in (
        ("nas01:/media", "nfs4", True),
        ("nas01:/", "nfs4", True),
        ("nas01:/media", "ext4", False),
        ("nas02:/media", "nfs4", False),
    ):
        site = Site()
        site.expect(bind), site.table(mount("/srv/media", source=source, fstype=fstype))
        assert (site.later(31) == []) is good, source
    for wanted in (bind._replace(source="nas01:/med"), bind._replace(by_hand=False)):  # [[expect]] means what it says
        site = Site()
        site.expect(wanted), site.table(mount("/srv/media", source="nas01:/media"))
        assert len(site.later(31)) == 1


def test_what_is_mounted_over_by_what_came_later_is_missing() -> None:
    """As when ZFS mounts /tank after fstab's /tank/nas: who writes there writes to the pool."""
    wanted = NAS._replace(place=Place(HOST, "/tank/nas"))
    nas, zfs = mount("/tank/nas"), mount("/tank", mount_id=41, device="0:60", fstype="zfs", source="tank")
    site = Site()
    site.expect(wanted), site.table(nas, zfs)
    [began] = site.later(31)
    assert began.error == "hidden under tank on /tank; /etc/fstab wants it"
    assert changes(site.table(nas)) == [(Change.ENDED, "/tank/nas", "mounted")]
    # On top of that again, or in the same place: it is there.
    for on_top in (mount("/tank/nas", mount_id=42, parent=41), mount("/tank/nas", mount_id=42, parent=40)):
        tables = (nas, zfs, on_top) if on_top.parent_id == 41 else (nas, on_top)
        site = Site()
        site.expect(wanted), site.table(*tables)
        assert site.later(31) == []


@pytest.mark.parametrize(
    ("mend", "told"),
    [
        ("mount /tank/nas", "Do: mount /tank/nas"),
        ("pct exec 105 -- mount /tank/nas", "Do: pct exec 105 -- mount /tank/nas"),
        *(
            (mend, "Do: unmount what hides it, or have it mounted elsewhere")
            for mend in ("pvesm status --storage nas", "systemctl start tank-nas.mount", "pct reboot 105", "")
        ),
    ],
)
def test_what_is_hidden_is_not_mended_by_who_finds_it_mounted(mend: str, told: str) -> None:
    wanted = NAS._replace(place=Place(HOST, "/tank/nas"), mend=mend)
    site = Site()
    site.expect(wanted), site.table(mount("/tank/nas"), mount("/tank", mount_id=41, device="0:60", fstype="zfs"))
    [began] = site.later(31)
    assert began.context == told


def test_a_container_that_stops_misses_nothing() -> None:
    wanted = Expected(Place(ARR.namespace, "/data"), "nas01:/data", "nfs4", "its /etc/fstab")
    site = Site()
    site.table(), site.expect(wanted), site.inside()
    [began] = site.later(31)
    assert (began.subject.places, began.subject.names) == ((wanted.place,), (("ct:105", "arr"),))
    gone = site.missing.handle(NamespaceGone(ARR.namespace, "container stopped"), site.now)
    assert changes(gone) == [(Change.GONE, "ct:105:/data", "container stopped")]
    assert site.inside(mount("/data")) == site.later(31) == []


def test_a_container_may_have_it_behind_a_link() -> None:
    wanted = Expected(Place(ARR.namespace, "/data"), "nas01:/data", "nfs", "its /etc/fstab", by_hand=True)
    site = Site()
    site.table(mount()), site.expect(wanted, NAS._replace(place=Place(HOST, "/mnt/link")))
    assert site.inside(mount("/srv/data")) == []
    assert [str(t.subject.places[0]) for t in site.later(31)] == ["/mnt/link"]


def test_a_container_can_only_have_so_many_expectations() -> None:
    many = [Expected(Place(ARR.namespace, f"/data{n}"), "a:/b", "nfs4", "its /etc/fstab") for n in range(1000)]
    site = Site()
    site.table(), site.expect(*many), site.inside()
    assert len(site.later(31)) == 64


def test_an_earlier_runs_word_goes_on_or_ends() -> None:
    began = _told()
    site = Site()
    site.missing.restore([(began, 20.0)])
    assert site.table() == []
    [resumed] = site.expect(NAS)
    assert (resumed.change, resumed.since, resumed.subject) == (Change.RESUMED, 20.0, began)
    assert site.later(600) == []
    [ended] = site.table(mount())
    assert ended.change is Change.ENDED

    for present, expected, change in (((mount(),), (NAS,), Change.ENDED), ((), (), Change.GONE)):
        site = Site()
        site.missing.restore([(began, 20.0)])
        site.table(*present)
        assert [t.change for t in site.expect(*expected)] == [change]


def test_an_earlier_runs_word_waits_for_files_that_cannot_be_read_yet() -> None:
    site = Site()
    site.missing.restore([(_told(), 20.0)])
    assert site.table() == site.expect(complete=False) == site.later(600) == []
    assert [t.change for t in site.expect(NAS)] == [Change.RESUMED]


def _told() -> Subject:
    site = Site()
    site.table(), site.expect(NAS)
    [began] = site.later(31)
    return began.subject


def test_binds_are_expected_of_what_is_remote() -> None:
    bound = {
        "105": [("/mnt/pve/nas/media", "/media", "101.conf"), ("/srv", "/srv", "x"), ("/mnt/nasty", "/no", "x")],
        "arr": [("/mnt/nas", "/nas", "config")],
    }
    found = {(str(e.place), e.source, e.fstype, e.mend) for e in binds(bound, [STORAGE], [mount()])}
    assert found == {
        ("ct:105:/media", "nas01:/pve", "nfs4", "pct reboot 105"),
        ("ct:arr:/nas", "nas01:/data", "nfs4", ""),
    }
