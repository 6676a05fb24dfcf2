from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.mounts import mount
from watcher.core.figures import Figures
from watcher.core.listing import STATES, Listing
from watcher.core.measured import Measured, Process
from watcher.core.vitals import Delivery
from watcher.model import (
    HOST,
    Change,
    Kind,
    MountState,
    Place,
    Probe,
    ProbeReport,
    Reach,
    Subject,
    Superblock,
    Transition,
    Verdict,
)
from watcher.status.metrics import Exposition

ROOT = Path(__file__).parents[2]
HOSTILE = st.text(st.characters() | st.sampled_from('"\\\n{}# ,=\udcff'), max_size=12)


class Scene:
    """A service whose figures come from a test."""

    def __init__(self) -> None:
        self.figures, self.listing = Figures(), Listing()
        self.states: dict[Place, MountState] = {}

    def stands(self, point: str, status: str = "ok", *, source: str = "nas01:/x", since: float | None = 10.0) -> Place:
        place = Place(HOST, point)
        on = mount(point, source=source)
        self.states[place] = MountState(place, on, Reach.OK, status, since=since, readonly=status == "readonly")
        self.figures.watched(HOST, {p: s.mount for p, s in self.states.items()})
        return place

    def answers(self, place: Place, latency: float) -> None:
        probe = Probe(Superblock("0:50", "/", "nfs4", "nas01:/x"), place, 40, 5.0)
        self.figures.event(ProbeReport(probe, Verdict.ANSWERED, 1.0, latency=latency))

    def measured(self, now: float = 20.0, channels: tuple[Delivery, ...] = ()) -> Measured:
        listed = self.listing.choose(self.states.values(), now)
        latencies = {labels: r for labels, s in listed.mounts if (r := self.figures.latency(s.place)) is not None}
        return Measured(
            version="1.2",
            clock_offset=1e9,
            listed=listed,
            latencies=latencies,
            counts=self.figures.counts(c.channel for c in channels),
            channels=channels,
            healthy=True,
            hanging=3,
            incidents=2,
            silences=1,
            process=Process(1e9, 1.5, 30 << 20, 2, 20 << 20, 0.25),
        )


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key  # Prometheus refuses the whole scrape
            found[key] = sample.value
    return found


def test_one_mount_in_full() -> None:
    scene = Scene()
    place = scene.stands("/mnt/a", "readonly")
    scene.answers(place, 0.02)
    scene.answers(place, 7.0)
    found = parsed(Exposition().text(scene.measured()))
    labels = (
        ("fstype", "nfs4"),
        ("mountpoint", "/mnt/a"),
        ("namespace", "host"),
        ("server", "nas01"),
        ("source", "nas01:/x"),
    )
    of_mount = {(name, dict(got)["le"] if "le" in dict(got) else dict(got).get("state", "")): value
                for (name, got), value in found.items() if set(labels) <= set(got)}  # fmt: skip
    bucket = "mountwatch_mount_probe_duration_seconds_bucket"
    assert of_mount == {
        **{("mountwatch_mount_state", s): float(s == "readonly") for s in STATES},
        ("mountwatch_mount_state_since_timestamp_seconds", ""): 1e9 + 10,
        ("mountwatch_mount_readonly", ""): 1,
        ("mountwatch_mount_readonly_unexpected", ""): 0,
        **{(bucket, le): n for le, n in {"0.001": 0, "0.01": 0, "0.1": 1, "1.0": 1, "5.0": 1, "+Inf": 2}.items()},
        ("mountwatch_mount_probe_duration_seconds_count", ""): 2,
        ("mountwatch_mount_probe_duration_seconds_sum", ""): 7.02,
    }


STEPS = st.lists(
    st.tuples(HOSTILE, st.sampled_from(STATES), HOSTILE, st.floats(0, 9) | st.none(), st.booleans()), max_size=12
)


@settings(max_examples=30)  # each renders twice at every step
@given(STEPS)
def test_what_is_kept_of_the_last_scrape_is_never_old(steps: list[tuple[str, str, str, float | None, bool]]) -> None:
    """Whatever mounts are called, and whatever becomes of them between two scrapes."""
    scene, kept = Scene(), Exposition()
    for point, status, source, latency, gone in steps:
        place = scene.stands(f"/mnt/{point}", status, source=source, since=latency)
        if latency is not None:
            scene.answers(place, latency)
        if gone:
            del scene.states[place]
        measured = scene.measured()
        text = kept.text(measured)
        assert text == Exposition().text(measured)
        found = parsed(text)
        states = [key for key, value in found.items() if key[0] == "mountwatch_mount_state" and value]
        assert len(states) == len(measured.listed.mounts)


def test_the_readme_lists_all_metrics_and_no_other() -> None:
    scene = Scene()
    scene.figures.table_read(5.0)
    listed = re.findall(r"^\| `((?:mountwatch|process)_\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    exposed = re.findall(r"^# TYPE (\w+) ", Exposition().text(scene.measured()).decode(), re.MULTILINE)
    assert sorted(listed) == sorted(exposed)


def test_the_services_own_figures() -> None:
    scene = Scene()
    scene.stands("/mnt/a")
    about = Subject(Superblock("0:50", "/", "nfs4", "nas01:/x"), (), "rw")
    scene.figures.transition(Transition(Kind.STALE, Change.BEGAN, about, 1.0, 1.0))
    scene.figures.delivery('"ops"\n', False)
    found = parsed(Exposition().text(scene.measured(channels=(Delivery('"ops"\n', failing=5.0), Delivery("mail")))))
    channel = ("channel", '"ops"\\n')
    for name, labels, value in (
        ("mountwatch_deliveries_total", (channel, ("result", "failed")), 1),
        ("mountwatch_deliveries_total", (channel, ("result", "delivered")), 0),
        ("mountwatch_channel_failing", (channel,), 1),
        ("mountwatch_channel_failing", (("channel", "mail"),), 0),
        ("mountwatch_transitions_total", (("change", "began"), ("kind", "stale")), 1),
        ("mountwatch_mounts", (("namespace", "host"), ("state", "ok")), 1),
        ("mountwatch_probes_hanging", (), 3),
        ("mountwatch_incidents_open", (), 2),
        ("mountwatch_silences", (), 1),
        ("process_cpu_seconds_total", (), 1.5),
        ("mountwatch_children_cpu_seconds_total", (), 0.25),
    ):
        assert found[name, labels] == value
