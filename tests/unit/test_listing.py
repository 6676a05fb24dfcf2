from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import mount
from watcher.core.listing import (
    FREE_AFTER,
    LONG,
    MAX_INSIDE,
    MAX_INSIDES,
    MAX_ON_HOST,
    SHORT,
    STATES,
    Labels,
    Listing,
    bounded,
    labels_of,
)
from watcher.core.showing import STATUS
from watcher.core.wording import printable
from watcher.model import HOST, MountState, Place, Reach


def state(
    point: str = "/mnt/nas",
    status: str = "ok",
    *,
    inside: str = HOST,
    device: str = "0:50",
    fstype: str = "nfs4",
    source: str = "nas01:/data",
    show_only: bool = False,
) -> MountState:
    on = mount(point, device=device, fstype=fstype, source=source)
    return MountState(Place(inside, point), on, Reach.OK, status, show_only=show_only)


def many(number: int, status: str = "ok", *, inside: str = "ct:101", prefix: str = "/m") -> list[MountState]:
    return [state(f"{prefix}/{n}", status, inside=inside) for n in range(number)]


def test_all_states_are_known() -> None:
    assert set(STATES) == {*STATUS.values(), "missing", "readonly"}


def test_each_is_counted_and_what_may_be_alarmed_is_listed() -> None:
    states = [state("/a"), state("/b", "stale"), state("/c", "stale", show_only=True), state("/a", inside="ct:1")]
    listed = Listing().choose(states, 0.0)
    assert [labels.mountpoint for labels, _ in listed.mounts] == ["/b", "/a", "/a"]
    assert listed.tally == {("host", "ok"): 1, ("host", "stale"): 2, ("ct:1", "ok"): 1}
    assert listed.unlisted == {}


def test_a_container_has_so_many_slots_and_harms_no_other() -> None:
    states = [*many(MAX_INSIDE + 40), *many(3, "stale", prefix="/late"), *many(2, inside="ct:102"), state("/mnt/nas")]
    listing = Listing()
    first = listing.choose(states, 0.0)
    namespaces = [labels.namespace for labels, _ in first.mounts]
    assert {n: namespaces.count(n) for n in namespaces} == {"ct:101": MAX_INSIDE, "ct:102": 2, HOST: 1}
    assert first.unlisted == {("ct:101", "ok"): 43}
    assert [labels.mountpoint for labels, _ in first.mounts[:3]] == ["/late/0", "/late/1", "/late/2"]  # worst first
    assert sum(first.tally.values()) == len(states)
    again = listing.choose(reversed(states), 15.0)
    assert {labels for labels, _ in again.mounts} == {labels for labels, _ in first.mounts}  # whatever the order


def test_a_slot_is_free_some_time_after_its_mount_is_gone() -> None:
    listing = Listing()
    listing.choose(many(MAX_INSIDE), 0.0)
    new = many(MAX_INSIDE, prefix="/new")
    assert listing.choose(new, FREE_AFTER - 1).mounts == []
    assert len(listing.choose(new, FREE_AFTER).mounts) == MAX_INSIDE
    assert len(listing.choose(new, 3 * FREE_AFTER).mounts) == MAX_INSIDE


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(1, 900)), max_size=60))
def test_new_names_all_the_time_are_few_series_in_any_hour(steps: list[tuple[int, float]]) -> None:
    """Whatever a container mounts, and when it is looked."""
    listing, now, seen = Listing(), 0.0, list[tuple[float, Labels]]()
    for start, pause in steps:
        now += pause
        states = [state(f"/m/{start + n}", inside="ct:101") for n in range(20)]
        seen += [(now, labels) for labels, _ in listing.choose(states, now).mounts]
    for at in {at for at, _ in seen}:
        assert len({labels for then, labels in seen if at <= then < at + FREE_AFTER}) <= MAX_INSIDE


def test_all_containers_and_the_host_have_a_limit() -> None:
    states = [s for n in range(MAX_INSIDES // MAX_INSIDE + 5) for s in many(MAX_INSIDE, inside=f"ct:{n}")]
    states += many(MAX_ON_HOST + 7, inside=HOST)
    listed = Listing().choose(states, 0.0)
    on_host = sum(1 for labels, _ in listed.mounts if labels.namespace == HOST)
    assert on_host == MAX_ON_HOST
    assert len(listed.mounts) == MAX_ON_HOST + MAX_INSIDES
    assert listed.unlisted["host", "ok"] == 7
    assert len(listed.mounts) + sum(listed.unlisted.values()) == len(states)


def test_who_may_name_a_server() -> None:
    sshfs, named = "fuse.sshfs", "root@nas01:/x"
    assert labels_of(state(), ()).server == "nas01"
    assert labels_of(state(fstype=sshfs, source=named), ()).server == "nas01"
    assert labels_of(state(inside="ct:101"), ()).server == "nas01"  # the kernel's own word
    assert labels_of(state(inside="ct:101", fstype=sshfs, source=named), ()).server == ""
    assert labels_of(state(inside="ct:101", fstype=sshfs, source=named), {"0:50"}).server == "nas01"  # the host's
    assert labels_of(state(inside="ct:101", status="missing", device=""), ()).server == ""  # its own fstab
    both = [state("/x", fstype=sshfs, source=named), state("/y", inside="ct:1", fstype=sshfs, source=named)]
    assert {labels.server for labels, _ in Listing().choose(both, 0.0).mounts} == {"nas01"}


def test_mounts_that_look_the_same_are_listed_once_the_worse_of_them() -> None:
    twins = [state("/a\udcff", "ok"), state("/a\\xff", "stale")]
    listed = Listing().choose(twins, 0.0)
    assert [s.status for _, s in listed.mounts] == ["stale"]
    assert listed.unlisted == {("host", "ok"): 1}


@given(
    st.text(st.characters(), max_size=2 * LONG)
    | st.binary(max_size=300).map(lambda b: b.decode("utf-8", "surrogateescape"))
)
def test_labels_are_short_and_valid(text: str) -> None:
    for width in (SHORT, LONG):
        label = bounded(text, width)
        label.encode()  # valid UTF-8
        plain = label.replace("@\u2060", "@")
        assert printable(plain) == plain
        assert len(plain) <= width


def test_abridged_names_stay_apart() -> None:
    alike = ["/" + 300 * "x" + str(n) + 300 * "y" for n in range(50)]
    assert len({bounded(text, LONG) for text in alike}) == 50
