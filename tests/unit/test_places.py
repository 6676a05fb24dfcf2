from __future__ import annotations

import pytest

from tests.unit.mounts import ROOT, mount, watching
from watcher.core.places import Standing, arrange, superblock_of
from watcher.model import HOST, Container, Mount, Pace, Place, Superblock


def standings(*mounts: Mount, **rules: list[str]) -> list[Standing]:
    return list(arrange(HOST, [ROOT, *mounts], watching(**rules)).standings)  # type: ignore[arg-type]


def points(*mounts: Mount) -> list[str]:
    return [s.place.mount_point for s in standings(*mounts)]


def test_what_a_standing_says() -> None:
    nas = mount()
    [standing] = standings(nas)
    assert standing == Standing(Place(HOST, "/mnt/nas"), nas, superblock_of(nas), Pace(), False, 1, (), False)
    assert superblock_of(nas) == Superblock("0:50", "/", "nfs4", "nas01:/data")


def test_nothing_watched_is_nothing() -> None:
    assert standings() == []
    assert standings(mount(fstype="ext4")) == []


def test_the_order_is_the_tables() -> None:
    assert points(mount("/mnt/b", mount_id=3), mount("/mnt/a", mount_id=2)) == ["/mnt/b", "/mnt/a"]


def test_hidden_mounts_do_not_stand() -> None:
    lower, upper = mount("/mnt/nas", mount_id=2), mount("/mnt/nas", mount_id=3, parent=2, device="0:51")
    [standing] = standings(lower, upper)
    assert standing.mount is upper
    assert standing.stacked == 2
    local = mount("/mnt", mount_id=4, fstype="tmpfs", source="tmpfs", device="0:60")
    assert standings(lower, local) == []  # what hides it need not be watched itself


def test_below_names_watched_superblocks_nearest_first() -> None:
    outer = mount("/mnt/a", mount_id=2, device="0:51", source="nas01:/a")
    local = mount("/mnt/a/b", mount_id=3, parent=2, fstype="ext4", device="8:2", source="/dev/sdb")
    middle = mount("/mnt/a/b/c", mount_id=4, parent=3, device="0:52", source="nas02:/c")
    inner = mount("/mnt/a/b/c/d", mount_id=5, parent=4, device="0:53", source="nas03:/d")
    assert [s.below for s in standings(outer, local, middle, inner)] == [
        (),
        (superblock_of(outer),),
        (superblock_of(middle), superblock_of(outer)),
    ]


def test_what_lies_under_it_on_the_same_directory_is_not_crossed() -> None:
    lower = mount("/mnt/nas", mount_id=2, device="0:51")
    upper = mount("/mnt/nas", mount_id=3, parent=2, device="0:52")
    [standing] = standings(lower, upper)
    assert standing.below == ()


def test_unwatched_ancestors_are_not_named() -> None:
    outer = mount("/mnt/a", mount_id=2, device="0:51", source="nas01:/a")
    inner = mount("/mnt/a/b", mount_id=3, parent=2, device="0:52", source="nas02:/b")
    [standing] = standings(outer, inner, exclude=["/mnt/a"])
    assert standing.below == ()


@pytest.mark.parametrize(
    ("super_options", "idles"),
    [
        ("rw,fd=7,timeout=300,minproto=5", True),
        ("rw,fd=7,timeout=0,minproto=5", False),  # systemd's default: never
        ("rw,fd=7,timeout=-1", False),
        ("rw,fd=7", False),
    ],
)
def test_mounted_on_an_autofs_trigger(super_options: str, idles: bool) -> None:
    trigger = mount(
        "/mnt/nas", mount_id=2, fstype="autofs", source="systemd-1", device="0:40", super_options=super_options
    )
    direct = mount("/mnt/nas", mount_id=3, parent=2)
    [standing] = standings(trigger, direct)
    assert standing.idles_out is idles
    map_root = trigger._replace(mount_point="/net")
    indirect = mount("/net/nas01", mount_id=3, parent=2)
    [standing] = standings(map_root, indirect)
    assert standing.idles_out is idles


def test_below_a_file_system_of_a_trigger_idles_out_with_it() -> None:
    """As NFS mounts by itself what its server has mounted there."""
    trigger = mount("/net", mount_id=2, fstype="autofs", source="auto", device="0:40", super_options="timeout=300")
    outer = mount("/net/nas", mount_id=3, parent=2)
    inner = mount("/net/nas/sub", mount_id=4, parent=3, device="0:51", root="/sub")
    assert [s.idles_out for s in standings(trigger, outer, inner)] == [True, True]
    assert [s.idles_out for s in standings(trigger._replace(super_options="timeout=0"), outer, inner)] == [False, False]


def test_what_lies_too_deep_in_a_container_is_left_out() -> None:
    stack = [mount("/x", mount_id=100 + n, parent=99 + n if n else 1, fstype="tmpfs") for n in range(70)]
    deep = mount("/x/y", mount_id=200, parent=169, fstype="fuse.x")
    inside = Container("101", 5, 5)
    arrangement = arrange("ct:101", [ROOT, *stack, deep], watching(), inside)
    assert (arrangement.standings, arrangement.left_out) == ((), 1)
    assert len(arrange(HOST, [ROOT, *stack, deep], watching()).standings) == 1
