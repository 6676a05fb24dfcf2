"""What is answered to who asks, as values: queries, ids, latencies, history, incidents, a probe on request."""

from __future__ import annotations

import errno
import string
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import (
    Loop,
    answered,
    error,
    failed,
    mount,
    other_mount,
    place,
    probe,
    subject,
    timed_out,
    transition,
    void,
    watch,
)
from tests.unit.test_silences import A, B, incident_of, silence
from watcher.core.accounts import MAX_MEMBERS, incident_json, order, written_at
from watcher.core.chronicle import MAX_PLACES, Entry, entry_json, entry_of, newest_first
from watcher.core.entries import place_id
from watcher.core.explain import Address
from watcher.core.growth import Growth
from watcher.core.incident import Condition
from watcher.core.latencies import LATELY, Latencies
from watcher.core.messages import Sender, compose
from watcher.core.outbox import News, Topic
from watcher.core.places import superblock_of
from watcher.core.quiet import Window
from watcher.core.saved import Passed
from watcher.core.silences import Silences
from watcher.model import HOST, Asked, Change, Kind, Place, ProbeStarted, Subject, Wedged
from watcher.status.queries import (
    HistoryAsked,
    MountAsked,
    Problem,
    history_asked,
    mount_asked,
    no_query,
    probe_asked,
    refuse_if_crowded,
)

NOW = 1_795_186_445.0  # 2026-11-20T14:54:05Z
NAS = mount("/mnt/nas")


def utc(wall: float) -> datetime:
    return datetime.fromtimestamp(wall, UTC)


# ---- queries


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", MountAsked()),
        ("on=/mnt/x", MountAsked(Address(HOST, "/mnt/x"))),
        ("on=ct:101:/a%20b", MountAsked(Address("ct:101", "/a b"))),
        ("on=/%ff", MountAsked(Address(HOST, "/\udcff"))),
        ("id=abc", MountAsked(id="abc")),
        ("id=", MountAsked(id="")),
    ],
)
def test_which_mounts_are_asked_for(query: str, asked: MountAsked) -> None:
    assert mount_asked(query) == asked


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("", HistoryAsked()),
        ("since=24h", HistoryAsked(NOW - 86400)),
        ("since=2026-11-20T14:54:05Z&limit=7", HistoryAsked(NOW, 7)),
        ("since=2026-11-20T15:54:05%2B01:00", HistoryAsked(NOW)),
        ("since=2026-11-20T15:54:05+01:00", HistoryAsked(NOW)),  # as it is written by hand
        ("limit=1000", HistoryAsked(limit=1000)),
    ],
)
def test_which_history_is_asked_for(query: str, asked: HistoryAsked) -> None:
    assert history_asked(query, NOW) == asked


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("since=yesterday", 422),
        ("since=2026-11-20", 422),
        ("since=2026-11-20T14:54:05", 422),  # in which zone?
        ("since=", 422),
        ("limit=0", 422),
        ("limit=1001", 422),
        ("limit=1e3", 422),
        ("limit=\u00b2", 422),
        ("limit=" + "9" * 5000, 422),
        ("limit=1&limit=2", 400),
        ("x=1", 400),
        ("&".join("since=1h" for _ in range(9)), 400),
    ],
)
def test_what_is_no_question_for_the_history(query: str, status: int) -> None:
    with pytest.raises(Problem) as problem:
        history_asked(query, NOW)
    assert problem.value.status == status


@given(st.text(string.printable, max_size=60))
def test_any_query_is_answered_or_refused(query: str) -> None:
    for read in (mount_asked, probe_asked, no_query, lambda q: history_asked(q, NOW)):
        try:
            read(query)
        except Problem as e:
            refused = e
        else:
            continue
        assert 400 <= refused.status < 500
        assert refused.detail.isprintable()


@pytest.mark.parametrize(("query", "name"), [("mount=/x", "/x"), ("mount=host:/x", "/x"), ("mount=ct:1:/x", "ct:1:/x")])
def test_which_mount_is_to_be_probed(query: str, name: str) -> None:
    assert probe_asked(query) == name


def test_silences_have_so_many_patterns_in_all() -> None:
    crowd = [silence(*(f"/mnt/{n}" for n in range(100)), name=f"s{n}") for n in range(9)]
    refuse_if_crowded(crowd, 100)
    with pytest.raises(
        Problem, match=r"may have 1000 patterns in all, and have 900; end some first, or use wider"
    ) as e:
        refuse_if_crowded(crowd, 101)
    assert e.value.status == 409
    with pytest.raises(Problem, match="there are 1000 silences already; end some first"):
        refuse_if_crowded([silence("*")] * 1000, 1)


# ---- ids


def test_an_id_is_of_one_place_and_stays() -> None:
    names = [place("/x"), place("/x", "ct:101"), place("/x\n"), place("/\udcff"), Place("host/", "x")]
    assert len({place_id(name) for name in names}) == len(names)
    assert place_id(place("/x")) == "PVuJ5ViV0eaBwfPX"


@given(st.text(), st.text())
def test_an_id_can_stand_in_a_url(namespace: str, point: str) -> None:
    id = place_id(Place(namespace.encode("utf-8", "replace").decode(), point.encode("utf-8", "replace").decode()))
    assert len(id) == 16
    assert set(id) <= set(string.ascii_letters + string.digits + "-_")


# ---- latencies


def test_the_last_answers_are_kept() -> None:
    latencies, asked = Latencies(), probe(NAS)
    for report in (answered(asked, 0, latency=0.0015), failed(asked, 1), timed_out(asked, 2), answered(asked, 3)):
        latencies.note(report)
    assert latencies.of(superblock_of(NAS)) == [0.0015, None, None, 0.001]
    for report in (void(asked, 4), other_mount(asked, 5)):  # say nothing of it
        latencies.note(report)
    assert len(latencies.of(superblock_of(NAS))) == 4
    assert latencies.reports(superblock_of(NAS)) == 6
    for n in range(LATELY):
        latencies.note(answered(asked, n, latency=n / 1000))
    assert latencies.of(superblock_of(NAS)) == [n / 1000 for n in range(LATELY)]
    latencies.keep({superblock_of(NAS)})
    assert latencies.reports(superblock_of(NAS)) == 6 + LATELY
    latencies.keep(set())
    assert (latencies.of(superblock_of(NAS)), latencies.reports(superblock_of(NAS))) == ([], 0)


# ---- history


def passed(at: float, change: Change = Change.BEGAN, *points: str) -> Passed:
    return Passed(at, transition(change, subject(*(points or ("/mnt/nas",)))))


def test_an_entry() -> None:
    assert entry_json(entry_of(passed(NOW, Change.BEGAN, "/mnt/b\x1b", "/mnt/a"))) == {
        "at": "2026-11-20T14:54:05Z",
        "kind": "stale",
        "change": "began",
        "place": "/mnt/a",
        "places": ["/mnt/a", "/mnt/b\\x1b"],
        "more_places": 0,
        "source": "nas01:/data",
        "error": "no answer within 5 s",
    }


def test_an_entry_is_bounded_and_may_stand_nowhere() -> None:
    many = entry_json(Entry(0, "stale", "began", tuple(f"/{n}" for n in range(MAX_PLACES + 5)), "", ""))
    assert (len(many["places"]), many["more_places"]) == (MAX_PLACES, 5)
    nowhere = entry_json(Entry(0, "watcher", "began", (), "state", "disk full"))
    assert (nowhere["place"], nowhere["places"]) == (None, [])


def test_what_is_being_written_counts_once() -> None:
    old, being_written, fresh = passed(1), passed(2), passed(3)
    stored = [entry_of(being_written), entry_of(old)]
    merged = newest_first(stored, [being_written, fresh], since=0, limit=10)
    assert merged == [entry_of(p) for p in (fresh, being_written, old)]
    assert newest_first(stored, [being_written, fresh], since=2, limit=10) == merged[:2]
    assert newest_first(stored, [being_written, fresh], since=0, limit=1) == merged[:1]


def test_at_one_moment_the_last_is_the_newest() -> None:
    first, second = passed(1, Change.ENDED), passed(1, Change.BEGAN)
    assert [e.change for e in newest_first([], [first, second], since=0, limit=10)] == ["began", "ended"]


# ---- incidents


def test_an_incident_in_the_words_of_its_message() -> None:
    incident = incident_of(A, B)
    account = incident_json(incident, "pve1", silenced=True, found=None, now=NOW, local=utc)
    message = compose(News(incident, Topic.PROBLEM, 0), 0, Sender("pve1", "x"), now=NOW, local=utc)
    assert account["title"] == message.title
    assert set(account["cause"] + account["advice"]) <= set(message.body.split("\n"))
    assert account["advice"]
    assert (account["silenced"], account["closed"], account["server"]) == (True, None, "nas01")
    assert [(m["place"], m["id"], m["condition"]) for m in account["members"]] == [
        ("/mnt/a", place_id(place("/mnt/a")), "down"),
        ("/mnt/b", place_id(place("/mnt/b")), "down"),
    ]


@pytest.mark.parametrize(
    ("down", "ended", "kind", "title"),
    [
        ((A,), (), Kind.STALE, "🔴 pve1: /mnt/a NO ANSWER"),
        ((A, B), (A,), Kind.STALE, "🔴 pve1: /mnt/b NO ANSWER"),
        ((A,), (A,), Kind.STALE, "🟢 pve1: /mnt/a ok after 1 min"),
        ((A,), (), Kind.FULL, "🟠 pve1: /mnt/a NO ANSWER WITHIN 5 S"),
        ((A,), (), Kind.WATCHER, "🟠 pve1: watcher needs attention"),
        ((A,), (A,), Kind.WATCHER, "🟢 pve1: watcher is in order again"),
    ],
)
def test_titles(down: tuple[Subject, ...], ended: tuple[Subject, ...], kind: Kind, title: str) -> None:
    incident = incident_of(*down, ended=ended, kind=kind)
    account = incident_json(incident, "pve1", silenced=False, found=None, now=NOW, local=utc)
    assert account["title"].startswith(title)


def test_what_is_written_underneath_stands_at_the_place_that_it_is_about() -> None:
    incident = incident_of(subject("/mnt/b", "/mnt/a"))
    growth = Growth(place("/mnt/a"), "/", 3 << 20, NOW - 60, NOW, full_in=2400.4)
    incident = replace(incident, members=tuple(replace(m, growth=growth) for m in incident.members))
    account = incident_json(incident, "pve1", silenced=False, found=None, now=NOW, local=utc)
    first, second = account["members"]
    assert first["written_underneath"] == {
        "namespace": "host",
        "target": "/mnt/a",
        "disk": "/",
        "bytes": 3 << 20,
        "since": "2026-11-20T14:53:05Z",
        "checked_at": "2026-11-20T14:54:05Z",
        "full_in_seconds": 2400,
        "text": "Something writes to the root disk under /mnt/a: 3.00 MiB since 14:53, full in about 40 min",
    }
    assert second["written_underneath"] is None
    assert written_at([incident], NOW, utc) == {place("/mnt/a"): first["written_underneath"]}
    over = replace(incident, members=tuple(replace(m, condition=Condition.OK) for m in incident.members))
    assert written_at([over], NOW, utc) == {}


def test_an_incident_is_bounded() -> None:
    incident = incident_of(subject(*(f"/mnt/{n}" for n in range(MAX_MEMBERS + 3))))
    account = incident_json(incident, "pve1", silenced=False, found=None, now=NOW, local=utc)
    assert (len(account["members"]), account["more_members"]) == (MAX_MEMBERS, 3)


def test_open_ones_come_first_and_the_newest_of_them() -> None:
    opened, closed = incident_of(A), incident_of(B, ended=(B,))
    assert sorted([closed, opened], key=order) == [opened, closed]


# ---- silences


def test_which_mounts_are_silenced() -> None:
    mounts = {place("/mnt/a"): "nas01", place("/mnt/b"): "nas02", place("/mnt/a", "ct:101"): None}
    silences = Silences(utc)
    assert silences.covered(mounts, NOW) == set()
    silences.add(silence("host:/mnt/a", ends=NOW + 1))
    assert silences.covered(mounts, NOW) == {place("/mnt/a")}
    assert silences.covered(mounts, NOW + 1) == set()
    silences.configure([Window(("server:nas02",), 0, 24 * 60)])
    assert silences.covered(mounts, NOW) == {place("/mnt/a"), place("/mnt/b")}


# ---- a probe on request


def test_a_probe_on_request_is_due_at_once_and_one_at_a_time() -> None:
    loop = watch(NAS)
    loop.run(1)
    tracker = loop.tracker
    assert tracker.due(1.0) == []
    assert tracker.ask_now(place("/mnt/nas"), 1.0) == Asked(True)
    [due] = tracker.due(1.0)
    assert due.place == place("/mnt/nas")
    tracker.handle(ProbeStarted(due), 1.0)
    assert tracker.ask_now(place("/mnt/nas"), 1.1) == Asked(True)
    assert tracker.due(1.1) == []  # it is under way
    assert tracker.ask_now(place("/mnt/other"), 1.1) is None


def test_what_hangs_is_not_asked_again_on_request() -> None:
    loop = watch(NAS)
    [asked] = loop.tracker.due(0)
    loop.tracker.handle(ProbeStarted(asked), 0)
    loop.tracker.handle(timed_out(asked, 0, wedged=Wedged(1, 2, 3)), 5)
    found = loop.tracker.ask_now(place("/mnt/nas"), 6)
    assert found == Asked(False, "an earlier probe still hangs in it; it is asked again once that has ended")
    assert loop.tracker.due(6) == []


def test_what_lies_behind_a_dead_mount_is_not_asked_on_request() -> None:
    below = mount("/mnt/nas/sub", mount_id=41, parent=40, device="0:51", source="nas02:/b")
    loop: Loop = watch(NAS, below)
    loop.answers[superblock_of(NAS)] = error(errno.EIO)
    loop.run(30)
    found = loop.tracker.ask_now(place("/mnt/nas/sub"), 30)
    assert found == Asked(False, "a mount in front of it fails: /mnt/nas")
