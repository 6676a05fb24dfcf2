from __future__ import annotations

import math
from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mounts import mount
from watcher.core.figures import LATENCIES, Distribution, Figures, Reading
from watcher.core.places import superblock_of
from watcher.model import (
    HOST,
    Change,
    Kind,
    Mount,
    NamespaceGone,
    Place,
    Probe,
    ProbeReport,
    Subject,
    TableRead,
    TableUnreadable,
    Transition,
    Verdict,
)

NAS = Place(HOST, "/mnt/nas")
OTHER = Place("ct:101", "/data")


def report(place: Place, on: Mount, verdict: Verdict = Verdict.ANSWERED, latency: float | None = 0.02) -> ProbeReport:
    probe = Probe(superblock_of(on), place, on.mount_id, 5.0)
    return ProbeReport(probe, verdict, 1.0, latency=latency)


def nothing(number: int = 0) -> Reading:
    return Reading((0,) * (len(LATENCIES) + 1), 0.0)


@given(st.lists(st.floats(0, 10)), st.lists(st.floats(0.001, 9), min_size=1, unique=True).map(sorted))
def test_a_distribution_counts_what_is_at_most_each_bound(values: list[float], bounds: list[float]) -> None:
    distribution = Distribution(tuple(bounds))
    for value in values:
        distribution.add(value)
    counts, total = distribution.reading()
    assert counts == (*(bisect_right(sorted(values), bound) for bound in bounds), len(values))
    assert math.isclose(total, math.fsum(values), abs_tol=1e-9)


def test_answers_count_for_the_place_that_was_asked_and_no_other_result_does() -> None:
    figures, nas = Figures(), mount("/mnt/nas")
    figures.watched(HOST, {NAS: nas})
    for verdict in Verdict:
        figures.event(report(NAS, nas, verdict))
    figures.event(report(OTHER, nas))  # not watched: asked for its capacity alone
    assert figures.latency(NAS) == Reading((0, 0, 1, 1, 1, 1), 0.02)
    assert figures.latency(OTHER) is None
    assert figures.counts([]).probes == {
        "answered": 2, "failed": 1, "timed out": 1, "not this mount": 1, "void": 1,
    }  # fmt: skip


def test_what_is_gone_or_another_mount_is_forgotten() -> None:
    figures, nas = Figures(), mount("/mnt/nas")
    both = {NAS: nas, Place(HOST, "/mnt/b"): mount("/mnt/b")}
    figures.watched(HOST, both)
    figures.watched("ct:101", {OTHER: nas})
    figures.event(report(NAS, nas))
    figures.event(report(OTHER, nas))

    figures.watched(HOST, {NAS: nas._replace(mount_id=99, device="0:99")})  # mounted again
    assert figures.latency(NAS) == Reading((0, 0, 1, 1, 1, 1), 0.02)
    assert figures.latency(Place(HOST, "/mnt/b")) is None
    figures.watched(HOST, {NAS: nas._replace(source="nas02:/data")})
    assert figures.latency(NAS) == nothing()
    assert figures.latency(OTHER) != nothing()
    figures.watched("ct:101", {})
    figures.event(report(OTHER, nas))
    assert figures.latency(OTHER) is None


def test_tables() -> None:
    figures = Figures()
    assert figures.counts([]).read_at is None
    figures.table_read(7.0)
    figures.event(TableRead(HOST, ()))  # the same reading, seen from where it arrives
    figures.table_read(9.0)
    figures.event(TableRead("ct:101", ()))
    for namespace in (HOST, "ct:101", "ct:102"):
        figures.event(TableUnreadable(namespace, "no"))
    counts = figures.counts([])
    assert (counts.reads, counts.read_at, counts.unreadable) == ({"host": 2, "containers": 1}, 9.0, 3)
    figures.event(TableRead("ct:101", ()))
    figures.event(NamespaceGone("ct:102", "container stopped"))
    assert figures.counts([]).unreadable == 1
    figures.table_read(10.0)  # unchanged, so that nothing arrives
    assert figures.counts([]).unreadable == 0


def test_transitions_sweeps_and_deliveries() -> None:
    figures = Figures()
    about = Subject(superblock_of(mount()), (NAS,), "rw")
    for change in (Change.BEGAN, Change.ENDED, Change.BEGAN):
        figures.transition(Transition(Kind.STALE, change, about, 1.0, 1.0))
    figures.sweep(0.2)
    figures.sweep(20.0)
    for channel, delivered in (("ops", True), ("ops", False), ("ops", False), ("old", True)):
        figures.delivery(channel, delivered)
    counts = figures.counts(["ops", "new"])
    assert counts.transitions == {("stale", "began"): 2, ("stale", "ended"): 1}
    assert counts.sweeps == Reading((0, 0, 1, 1, 1, 1, 2), 20.2)
    assert counts.deliveries == {("ops", True): 1, ("ops", False): 2, ("new", True): 0, ("new", False): 0}
    assert figures.counts(["old"]).deliveries == {("old", True): 0, ("old", False): 0}
