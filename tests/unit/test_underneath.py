"""Containers that see the disk under a mount, told from tables alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from tests.unit.mounts import ROOT, mount, watching
from watcher.core.underneath import Underneath
from watcher.model import (
    HOST,
    Cause,
    Change,
    Container,
    Kind,
    Mount,
    NamespaceGone,
    Place,
    TableRead,
    Transition,
)

CT = Container("105", 1005, 5, "arr")
PVE = mount("/mnt/pve/nas01", mount_id=50, source="nas01:/media")  # on the host's root, ROOT
INSIDE_ROOT = mount("/", mount_id=60, parent=0, device="7:1", fstype="ext4", source="/dev/loop1", super_options="rw")


def bound(root: str, point: str = "/media", *, mount_id: int = 61, device: str = "8:1") -> Mount:
    """A directory of a file system, the host's root by default, bound in the container."""
    return mount(
        point,
        mount_id=mount_id,
        parent=60,
        device=device,
        root=root,
        fstype="ext4",
        source="/dev/sda1",
        super_options="rw",
    )


@dataclass
class Tables:
    """The watcher's side: tables come in, and are read again where that is wanted."""

    under: Underneath = field(default_factory=lambda: Underneath(watching()))
    out: list[Transition] = field(default_factory=list)
    inside: tuple[Mount, ...] | None = None
    now: float = 0.0

    def host(self, *mounts: Mount) -> list[Transition]:
        return self._take(TableRead(HOST, (ROOT, *mounts)))

    def container(self, *mounts: Mount) -> list[Transition]:
        self.inside = (INSIDE_ROOT, *mounts)
        return self._take(TableRead("ct:105", self.inside, CT))

    def stops(self) -> list[Transition]:
        self.inside = None
        return self._take(NamespaceGone("ct:105", "container stopped"))

    def _take(self, event: TableRead | NamespaceGone) -> list[Transition]:
        self.now += 1
        out = self.under.handle(event, self.now)
        for namespace in self.under.take_rereads():
            assert namespace == "ct:105"
            assert self.inside is not None
            out += self.under.handle(TableRead("ct:105", self.inside, CT), self.now)
        self.out += out
        return out

    @property
    def shown(self) -> list[Place]:
        return [s.place for s in self.under.snapshot()]


def test_started_before_the_nas_was_mounted() -> None:
    tables = Tables()
    tables.host()
    assert tables.container(bound("/mnt/pve/nas01")) == []
    (began,) = tables.host(PVE)
    assert (began.kind, began.change, began.cause) == (Kind.VANISHED, Change.BEGAN, Cause.VANISHED)
    assert began.subject.places == (Place("ct:105", "/media"),)
    assert began.subject.names == (("ct:105", "arr"),)
    assert began.subject.source == "nas01:/media"
    assert "sees the disk under nas01:/media" in began.error
    (state,) = tables.under.snapshot()
    assert (state.status, state.place, state.container) == ("missing", Place("ct:105", "/media"), CT)
    assert state.since == began.at
    assert tables.container(bound("/mnt/pve/nas01")) == []  # said once


def test_it_arrives_by_propagation() -> None:
    """The container's table is read again before anything is said."""
    tables = Tables()
    tables.container(bound("/mnt/pve/nas01"))
    tables.inside = (*tables.inside, mount("/media", mount_id=62, parent=61, source="nas01:/media"))  # type: ignore[misc]
    assert tables.host(PVE) == []
    assert tables.shown == []


@pytest.mark.parametrize(
    ("root", "seen"),
    [
        ("/mnt/pve/nas01", True),
        ("/mnt/pve/nas01/films/new", True),  # a directory below it was bound
        ("/mnt/pve", False),  # its mounts do not come along with a bind of the directory above
        ("/", False),
        ("/mnt/pve/nas012", False),
        ("/var/lib/lxc/105/rootfs", False),
    ],
)
def test_which_binds_are_meant(root: str, seen: bool) -> None:
    tables = Tables()
    tables.host(PVE)
    tables.container(bound(root))
    assert bool(tables.shown) is seen


def test_another_disk_with_such_a_directory_is_not_meant() -> None:
    tables = Tables()
    tables.host(PVE)
    assert tables.container(bound("/mnt/pve/nas01", device="8:17")) == []


def test_the_directory_on_a_disk_that_is_mounted_itself() -> None:
    tables = Tables()
    data = mount("/srv", mount_id=40, device="8:33", root="/vol", fstype="xfs", source="/dev/sdc1")
    tables.host(data, mount("/srv/nas", mount_id=50, parent=40))
    tables.container(bound("/vol/nas", device="8:33"))
    assert tables.shown == [Place("ct:105", "/media")]


def test_a_bind_that_is_covered_in_the_container_does_no_harm() -> None:
    tables = Tables()
    tables.host(PVE)
    tables.container(bound("/mnt/pve/nas01"), mount("/media", mount_id=62, parent=61, device="0:77", fstype="tmpfs"))
    assert tables.shown == []


def test_two_remote_mounts_on_one_directory_are_another_matter() -> None:
    tables = Tables()
    tables.host(PVE, mount("/mnt/pve/nas01", mount_id=51, parent=50, device="0:51", source="nas02:/media"))
    tables.container(mount("/media", mount_id=61, parent=60, source="nas01:/media"))
    assert tables.shown == []


def test_what_is_not_watched_or_only_shown_is_not_said() -> None:
    for rules in ({"exclude": ["ct:105:/media"]}, {"show_only": ["ct:105:*"]}, {"exclude": ["server:nas01"]}):
        tables = Tables(Underneath(watching(**rules)))  # type: ignore[arg-type]
        tables.host(PVE)
        tables.container(bound("/mnt/pve/nas01"))
        assert tables.shown == []


def seeing() -> Tables:
    tables = Tables()
    tables.host(PVE)
    tables.container(bound("/mnt/pve/nas01"))
    assert len(tables.out) == 1
    return tables


def test_restarted_it_sees_the_mount() -> None:
    tables = seeing()
    (stopped,) = tables.stops()
    assert (stopped.change, stopped.reason) == (Change.GONE, "container stopped")
    (back,) = tables.container(mount("/media", mount_id=61, parent=60, source="nas01:/media"))
    assert (back.kind, back.change, back.subject.places) == (
        Kind.VANISHED, Change.REMOUNTED, (Place("ct:105", "/media"),),
    )  # fmt: skip
    assert tables.stops() == []


def test_restarted_it_sees_the_disk_again() -> None:
    tables = seeing()
    tables.stops()
    (again,) = tables.container(bound("/mnt/pve/nas01"))
    assert again.change is Change.BEGAN


def test_mounted_inside_it_is_well_again() -> None:
    tables = seeing()
    (ended,) = tables.container(bound("/mnt/pve/nas01"), mount("/media", mount_id=62, parent=61, source="nas01:/media"))
    assert (ended.change, ended.since) == (Change.ENDED, tables.out[0].at)


def test_taken_away_inside() -> None:
    tables = seeing()
    (gone,) = tables.container()
    assert (gone.change, gone.reason) == (Change.GONE, "no longer bound there")


def test_the_host_unmounts_it_too() -> None:
    tables = seeing()
    (gone,) = tables.host()
    assert gone.change is Change.GONE
    assert tables.shown == []


def test_a_container_with_a_thousand_binds_is_no_flood() -> None:
    tables = Tables()
    tables.host(PVE)
    began = tables.container(*[bound("/mnt/pve/nas01", f"/m/{n}", mount_id=100 + n) for n in range(1000)])
    assert len(began) == 16
