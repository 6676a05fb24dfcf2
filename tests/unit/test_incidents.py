from __future__ import annotations

import pytest

from tests.unit.mounts import place, subject, transition
from watcher.core.grouping import group_of
from watcher.core.incident import Condition, Incident
from watcher.core.incidents import Incidents
from watcher.model import Change, Kind, Place, Subject, Superblock, Transition

DOWN, OK, GONE, REMOUNTED = Condition.DOWN, Condition.OK, Condition.GONE, Condition.REMOUNTED
WALL = 1_000_000.0  # the epoch's seconds at the monotonic clock's 0

A, B = subject("/mnt/a", source="nas01:/a", device="0:51"), subject("/mnt/b", source="nas01:/b", device="0:52")
A2 = subject("/mnt/a", source="nas01:/a", device="0:61")  # mounted anew in the place of A
C = subject("/mnt/c", source="nas02:/c", device="0:53")


def apply(incidents: Incidents, *transitions: Transition) -> Incident | None:
    last = None
    for t in transitions:
        last = incidents.apply(t, now=t.at, wall=WALL + t.at)
    return last


def conditions(incident: Incident | None) -> list[Condition]:
    assert incident is not None
    return [m.condition for m in incident.members]


@pytest.mark.parametrize(
    ("about", "kind", "group"),
    [
        (subject(source="nas01:/a"), Kind.STALE, ("server nas01", "nas01")),
        (subject(source="//nas01/a", fstype="cifs"), Kind.STALE, ("server nas01", "nas01")),
        (subject(source="u@nas01:/a", fstype="fuse.sshfs"), Kind.STALE, ("server nas01", "nas01")),
        (subject(source="nas01:/a"), Kind.READONLY, ("server nas01", "nas01")),
        (subject(source="x", fstype="fuse.rclone"), Kind.STALE, ("superblock 0:50 / fuse.rclone x", None)),
        (
            subject(Place("ct:101", "/a"), source="nas01:/a", fstype="fuse.sshfs"),
            Kind.STALE,
            ("fuse in ct:101", None),
        ),
        (
            Subject(
                Superblock("0:50", "/", "fuse.lxcfs", "lxcfs"), (Place("ct:1", "/proc/stat"), Place("ct:2", "/x")), ""
            ),
            Kind.STALE,
            ("superblock 0:50 / fuse.lxcfs lxcfs", None),
        ),
        (subject(Place("ct:101", "/a"), source="nas01:/a"), Kind.STALE, ("server nas01", "nas01")),
        (Subject(Superblock("", "", "", "configuration"), (), ""), Kind.WATCHER, ("watcher configuration", None)),
    ],
)
def test_group_of(about: Subject, kind: Kind, group: tuple[str, str | None]) -> None:
    assert group_of(about, kind) == group


def test_one_server_is_one_incident() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10, since=-10), transition(Change.BEGAN, B, at=12))
    apply(incidents, transition(Change.BEGAN, C, at=13))
    assert [(i.number, i.server, len(i.members)) for i in incidents] == [(1, "nas01", 2), (2, "nas02", 1)]
    [first, _] = incidents
    assert (first.opened, first.since, first.closed) == (WALL + 10, WALL - 10, None)
    assert [m.slot for m in first.members] == [0, 1]


def test_times_are_of_the_epoch() -> None:
    """Taken in 3 s after it happened."""
    incidents = Incidents()
    incident = incidents.apply(transition(Change.BEGAN, A, at=10, since=4), now=13, wall=WALL)
    assert incident is not None
    assert (incident.opened, incident.since, incident.members[0].changed) == (WALL - 3, WALL - 9, WALL - 3)


def test_it_is_closed_when_nothing_is_down() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10), transition(Change.BEGAN, B, at=12))
    first = apply(incidents, transition(Change.ENDED, A, at=50))
    assert conditions(first) == [OK, DOWN]
    assert len(incidents.open) == 1
    second = apply(incidents, transition(Change.GONE, B, at=60, reason="unmounted"))
    assert conditions(second) == [OK, GONE]
    assert second is not None
    assert (second.closed, second.members[1].reason, incidents.open) == (WALL + 60, "unmounted", [])


def test_what_it_was_stays_known() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10, since=2, stack=["x"]))
    incident = apply(incidents, transition(Change.ENDED, A, at=50))
    assert incident is not None
    [member] = incident.members
    assert (member.since, member.error, member.stack) == (WALL + 2, "no answer within 5 s", ("x",))


@pytest.mark.parametrize("change", [Change.ENDED, Change.GONE, Change.REMOUNTED])
def test_what_never_began_does_not_end(change: Change) -> None:
    incidents = Incidents()
    assert apply(incidents, transition(change, A)) is None
    apply(incidents, transition(Change.BEGAN, B, at=1))
    assert apply(incidents, transition(change, A, at=2)) is None
    assert len(incidents) == 1


def test_what_has_ended_does_not_end_again() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1), transition(Change.ENDED, A, at=9))
    assert apply(incidents, transition(Change.ENDED, A, at=10)) is None
    assert apply(incidents, transition(Change.GONE, A, at=11)) is None


def test_new_trouble_after_the_end_is_a_new_incident() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1), transition(Change.ENDED, A, at=9))
    again = apply(incidents, transition(Change.BEGAN, A, at=20))
    assert again is not None
    assert again.number == 2


def test_down_again_in_an_incident_that_goes_on() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1), transition(Change.BEGAN, B, at=2))
    again = apply(incidents, transition(Change.ENDED, A, at=9), transition(Change.BEGAN, A, at=20))
    assert conditions(again) == [DOWN, DOWN]
    assert again is not None
    assert (again.number, [m.slot for m in again.members]) == (1, [0, 1])


def test_kinds_of_one_mount_are_members_of_their_own() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1))
    both = apply(incidents, transition(Change.BEGAN, A, at=2, kind=Kind.READONLY))
    assert conditions(both) == [DOWN, DOWN]
    one = apply(incidents, transition(Change.ENDED, A, at=3))
    assert conditions(one) == [OK, DOWN]


def test_remounted_ends_what_was_gone() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1), transition(Change.GONE, A, at=9, reason="unmounted"))
    incident = apply(incidents, transition(Change.REMOUNTED, A2, at=12))
    assert conditions(incident) == [REMOUNTED]
    assert incident is not None
    assert incident.number == 1


def test_mounted_anew_and_dead_again_goes_on() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10, since=1), transition(Change.GONE, A, at=19))
    incident = apply(incidents, transition(Change.BEGAN, A2, at=40, since=20))
    assert conditions(incident) == [DOWN]
    assert incident is not None
    assert (incident.number, incident.closed, incident.since) == (1, None, WALL + 1)
    assert incident.members[0].subject == A2
    ended = apply(incidents, transition(Change.ENDED, A2, at=60))
    assert conditions(ended) == [OK]


def test_mounted_anew_and_dead_again_while_another_is_down() -> None:
    """The new mount takes the old one's part: one directory is not both unmounted and down."""
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10), transition(Change.BEGAN, B, at=11))
    apply(incidents, transition(Change.GONE, A, at=19))
    incident = apply(incidents, transition(Change.BEGAN, A2, at=40, since=20))
    assert conditions(incident) == [DOWN, DOWN]


def test_remounted_and_dead_again_while_another_is_down() -> None:
    """One directory is not both remounted and down; and between the two it was good."""
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10), transition(Change.BEGAN, B, at=11))
    apply(incidents, transition(Change.GONE, A, at=19), transition(Change.REMOUNTED, A2, at=20))
    incident = apply(incidents, transition(Change.BEGAN, A2, at=60, since=40))
    assert conditions(incident) == [DOWN, DOWN]
    assert incident is not None
    assert incident.members[0].since == WALL + 40


def test_by_another_server_in_its_place_it_goes_on_too() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10), transition(Change.GONE, A, at=19))
    moved = subject("/mnt/a", source="nas09:/a", device="0:70")
    incident = apply(incidents, transition(Change.BEGAN, moved, at=40))
    assert incident is not None
    assert incident.number == 1


def test_elsewhere_it_does_not_go_on() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=10), transition(Change.GONE, A, at=19))
    incident = apply(incidents, transition(Change.BEGAN, B, at=40))
    assert incident is not None
    assert incident.number == 2


def test_the_watchers_own_trouble() -> None:
    own = Subject(Superblock("", "", "", "configuration"), (), "")
    incidents = Incidents()
    incident = apply(incidents, transition(Change.BEGAN, own, kind=Kind.WATCHER, cause=None, error="line 3"))
    assert incident is not None
    assert (incident.group, incident.members[0].error) == ("watcher configuration", "line 3")
    again = apply(incidents, transition(Change.BEGAN, own, kind=Kind.WATCHER, cause=None, error="line 4"))
    assert again is not None
    assert [m.error for m in again.members] == ["line 4"]
    closed = apply(incidents, transition(Change.ENDED, own, kind=Kind.WATCHER))
    assert conditions(closed) == [OK]


def test_numbers_go_on_from_what_was_kept() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1), transition(Change.BEGAN, C, at=2))
    later = Incidents(list(incidents))
    assert [i.number for i in later] == [1, 2]
    incident = apply(later, transition(Change.BEGAN, subject(source="nas07:/"), at=3))
    assert incident is not None
    assert incident.number == 3


def test_drop() -> None:
    incidents = Incidents()
    apply(incidents, transition(Change.BEGAN, A, at=1))
    incidents.drop(1)
    incidents.drop(1)
    assert (len(incidents), list(incidents)) == (0, [])


def test_places() -> None:
    incidents = Incidents()
    incident = apply(incidents, transition(Change.BEGAN, subject("/mnt/a", "/mnt/b"), at=1))
    assert incident is not None
    assert incident.members[0].stands_at([place("/mnt/b"), place("/x")])
    assert not incident.members[0].stands_at([place("/x")])


# ---- without a server


def test_mounts_without_a_server_that_die_together_are_one_incident() -> None:
    """Sixty rclone mounts whose network is gone are one message, not sixty."""
    incidents = Incidents(join_within=3.0)
    for number in range(60):
        about = subject(f"/mnt/{number}", source=f"remote{number}:", fstype="fuse.rclone", device=f"0:{number}")
        incidents.apply(transition(Change.BEGAN, about, at=number / 60), now=number / 60, wall=number / 60)
    [incident] = incidents.open
    assert len(incident.down) == 60
    late = subject("/mnt/late", source="other:", fstype="fuse.rclone", device="0:99")
    incidents.apply(transition(Change.BEGAN, late, at=10.0), now=10.0, wall=10.0)
    inside = subject(place("/mnt/x", "ct:101"), source="other:", fstype="fuse.rclone", device="0:100")
    incidents.apply(transition(Change.BEGAN, inside, at=10.0), now=10.0, wall=10.0)
    assert [len(i.down) for i in incidents.open] == [60, 1, 1]


@pytest.mark.parametrize("first", [Kind.VANISHED, Kind.MISSING])
def test_vanished_and_missing_are_one_matter(first: Kind) -> None:
    second = Kind.MISSING if first is Kind.VANISHED else Kind.VANISHED
    incidents, wanted = Incidents(), subject("/mnt/a", source="nas01:/a", device="")
    about = {Kind.VANISHED: A, Kind.MISSING: wanted}
    assert apply(incidents, transition(Change.BEGAN, about[first], at=1.0, kind=first)) is not None
    assert apply(incidents, transition(Change.BEGAN, about[second], at=31.0, kind=second)) is None
    assert apply(incidents, transition(Change.ENDED, about[second], at=60.0, kind=second)) is None
    assert conditions(apply(incidents, transition(Change.ENDED, about[first], at=61.0, kind=first))) == [OK]
    # Elsewhere it is another matter.
    apply(incidents, transition(Change.BEGAN, A, at=70.0, kind=Kind.VANISHED))
    other = subject("/mnt/b", source="nas01:/a", device="")
    assert apply(incidents, transition(Change.BEGAN, other, at=71.0, kind=Kind.MISSING)) is not None


def test_what_a_container_lacks_is_grouped_by_the_container() -> None:
    inside = subject(Place("ct:101", "/a"), source="nas01:/a")
    assert group_of(inside, Kind.MISSING) == ("missing in ct:101", None)
    assert group_of(A, Kind.MISSING) == ("server nas01", "nas01")
