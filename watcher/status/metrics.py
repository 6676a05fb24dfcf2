"""What is measured as metric families of prometheus_client, and these as text. `scraping` loads it when it is needed.

Names are those of Prometheus's guide: a prefix, base units, `_total` for what only grows. The text of a mount's lines
is kept until they change: most do not between two scrapes, and the library takes its time over each.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from watcher.core.figures import LATENCIES, SWEEPS, Reading
from watcher.core.listing import STATES, Labels, bounded
from watcher.core.measured import Measured
from watcher.core.wording import NAME_WIDTH
from watcher.model import MountState

RESULTS = {True: "delivered", False: "failed"}


class _Fixed(Collector):
    """A collector of these families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


# ---- of the service


def families(measured: Measured) -> Iterator[Metric]:
    """All but those of single mounts."""
    yield _gauge("build_info", "The version that runs; always 1.", 1, version=measured.version, python=_PYTHON)
    yield _gauge("healthy", "1 if the watcher itself works, as `watcher health` has it.", measured.healthy)
    yield from _mounts(measured)
    yield from _work(measured)
    yield from _telling(measured)
    yield from _process(measured)


_PYTHON = platform.python_version()


def _mounts(measured: Measured) -> Iterator[Metric]:
    mounts = GaugeMetricFamily(
        "mountwatch_mounts", "Places, those that are only shown included.", labels=("namespace", "state")
    )
    unlisted = GaugeMetricFamily(
        "mountwatch_mounts_unlisted",
        "Those among them without series of their own, since there are too many.",
        labels=("namespace", "state"),
    )
    for family, tally in ((mounts, measured.listed.tally), (unlisted, measured.listed.unlisted)):
        for key, number in sorted(tally.items()):
            family.add_metric(key, number)
        yield family


def _work(measured: Measured) -> Iterator[Metric]:
    counts = measured.counts
    probes = CounterMetricFamily("mountwatch_probes", "Questions to mounts, by what came of them.", labels=("result",))
    for verdict, number in counts.probes.items():
        probes.add_metric((verdict.replace(" ", "_"),), number)
    yield probes
    yield _gauge("probes_hanging", "Probes that hang in the kernel and cannot be killed.", measured.hanging)
    sweeps = HistogramMetricFamily("mountwatch_sweep_duration_seconds", "Rounds of probes, start to end.")
    sweeps.add_metric((), _buckets(SWEEPS, counts.sweeps), counts.sweeps.total)
    yield sweeps
    reads = CounterMetricFamily(
        "mountwatch_table_reads",
        "Readings of mount tables: all of the host's; of the containers' those that had changed.",
        labels=("of",),
    )
    for of, number in sorted(counts.reads.items()):
        reads.add_metric((of,), number)
    yield reads
    yield _gauge("tables_unreadable", "Mount tables that could not be read the last time.", counts.unreadable)
    if counts.read_at is not None:
        at = counts.read_at + measured.clock_offset
        yield _gauge("table_last_read_timestamp_seconds", "When the host's mount table was last read.", at)
    transitions = CounterMetricFamily(
        "mountwatch_transitions", "Changes that matter, by kind and change.", labels=("kind", "change")
    )
    for key, number in sorted(counts.transitions.items()):
        transitions.add_metric(key, number)
    yield transitions


def _telling(measured: Measured) -> Iterator[Metric]:
    deliveries = CounterMetricFamily(
        "mountwatch_deliveries", "Attempts to tell a channel something.", labels=("channel", "result")
    )
    for (channel, delivered), number in sorted(measured.counts.deliveries.items()):
        deliveries.add_metric((bounded(channel, NAME_WIDTH), RESULTS[delivered]), number)
    yield deliveries
    failing = GaugeMetricFamily(
        "mountwatch_channel_failing",
        "1 if the last attempt to tell this channel something failed.",
        labels=("channel",),
    )
    for delivery in measured.channels:
        failing.add_metric((bounded(delivery.channel, NAME_WIDTH),), delivery.failing is not None)
    yield failing
    yield _gauge("incidents_open", "Incidents that are not over.", measured.incidents)
    yield _gauge("silences", "Silences that hold now; quiet windows are not counted.", measured.silences)


def _process(measured: Measured) -> Iterator[Metric]:
    """Under the names that every exporter has for them, and the children's."""
    process = measured.process
    cpu = CounterMetricFamily("process_cpu_seconds", "Processor time of the service, user and system.")
    cpu.add_metric((), process.cpu)
    yield cpu
    yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory of the service.", process.resident)
    yield GaugeMetricFamily("process_start_time_seconds", "When the service was started.", process.started)
    cpu = CounterMetricFamily("mountwatch_children_cpu_seconds", "Processor time of children that have ended.")
    cpu.add_metric((), process.children_cpu)
    yield cpu
    yield _gauge("children", "Probes, senders and the like that run now.", process.children)
    yield _gauge("children_resident_memory_bytes", "Resident memory of all of them.", process.children_resident)


def _gauge(name: str, help: str, value: float, **labels: str) -> Metric:
    family = GaugeMetricFamily(f"mountwatch_{name}", help, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def _buckets(bounds: Sequence[float], reading: Reading) -> list[tuple[str, float]]:
    return list(zip((*map(str, bounds), "+Inf"), reading.counts, strict=True))


# ---- of single mounts


class _Family(NamedTuple):
    """One family that has samples for each mount."""

    empty: Callable[[], Metric]
    value: Callable[[Labels, MountState, Measured], Hashable]  # None: no samples
    add: Callable[[Metric, Labels, object], None]
    numbers: Callable[[object], Iterable[float]]  # those of the samples that `add` makes of a value, in their order


def _state(family: Metric, labels: Labels, value: object) -> None:
    assert isinstance(family, GaugeMetricFamily)
    for state in STATES:
        family.add_metric((*labels, state), value == state)


def _one(family: Metric, labels: Labels, value: object) -> None:
    assert isinstance(family, GaugeMetricFamily)
    assert isinstance(value, float | int)
    family.add_metric(labels, value)


def _number(value: object) -> Iterable[float]:
    assert isinstance(value, float | int)
    return (value,)


def _latency(family: Metric, labels: Labels, value: object) -> None:
    assert isinstance(family, HistogramMetricFamily)
    assert isinstance(value, Reading)
    family.add_metric(labels, _buckets(LATENCIES, value), value.total)


def _latencies(value: object) -> Iterable[float]:
    assert isinstance(value, Reading)
    return (*value.counts, value.counts[-1], value.total)


_LABELS = Labels._fields
_OF_MOUNTS = (
    _Family(
        lambda: GaugeMetricFamily(
            "mountwatch_mount_state",
            "1 for the state that the mount is in, 0 for the others.",
            labels=(*_LABELS, "state"),
        ),
        lambda labels, state, measured: state.status,
        _state,
        lambda value: (value == state for state in STATES),
    ),
    _Family(
        lambda: GaugeMetricFamily(
            "mountwatch_mount_state_since_timestamp_seconds",
            "When that state began, where it is known.",
            labels=_LABELS,
        ),
        lambda labels, state, measured: None if state.since is None else state.since + measured.clock_offset,
        _one,
        _number,
    ),
    _Family(
        lambda: GaugeMetricFamily("mountwatch_mount_readonly", "1 if it is read-only.", labels=_LABELS),
        lambda labels, state, measured: state.readonly,
        _one,
        _number,
    ),
    _Family(
        lambda: GaugeMetricFamily(
            "mountwatch_mount_readonly_unexpected", "1 if it is read-only and is not meant to be.", labels=_LABELS
        ),
        lambda labels, state, measured: state.unexpected_readonly,
        _one,
        _number,
    ),
    _Family(
        lambda: HistogramMetricFamily(
            "mountwatch_mount_probe_duration_seconds", "How long the mount took to answer a probe.", labels=_LABELS
        ),
        lambda labels, state, measured: measured.latencies.get(labels),
        _latency,
        _latencies,
    ),
)


class _Lines(NamedTuple):
    """One mount's parts of the families."""

    values: tuple[Hashable, ...]  # as each `_Family.value` gave it
    texts: tuple[bytes, ...]  # of its samples in each family


class Exposition:
    """Renders scrapes, and keeps what of the last one may come again."""

    def __init__(self) -> None:
        self._kept: dict[Labels, _Lines] = {}
        self._heads = [_text([family.empty()]) for family in _OF_MOUNTS]

    def text(self, measured: Measured) -> bytes:
        """The whole answer."""
        before, now = self._kept, dict[Labels, _Lines]()
        for labels, state in measured.listed.mounts:
            values = tuple(family.value(labels, state, measured) for family in _OF_MOUNTS)
            kept = before.get(labels)
            now[labels] = kept if kept is not None and kept.values == values else _lines(labels, values, kept)
        self._kept = now
        parts = [_text(families(measured))]
        for number, head in enumerate(self._heads):
            parts.append(head)
            parts += [lines.texts[number] for lines in now.values()]
        return b"".join(parts)


def _text(families: Iterable[Metric]) -> bytes:
    return generate_latest(_Fixed(families))


def _lines(labels: Labels, values: tuple[Hashable, ...], kept: _Lines | None) -> _Lines:
    if kept is None:
        return _Lines(values, tuple(map(partial(_first, labels), _OF_MOUNTS, values)))
    texts = list(kept.texts)
    for n, (family, value) in enumerate(zip(_OF_MOUNTS, values, strict=True)):
        if value != kept.values[n]:
            known = value is not None and texts[n]
            texts[n] = _again(texts[n], family.numbers(value)) if known else _first(labels, family, value)
    return _Lines(values, tuple(texts))


def _first(labels: Labels, family: _Family, value: Hashable) -> bytes:
    """The samples of this mount, without the head of the family."""
    if value is None:
        return b""
    metric = family.empty()
    family.add(metric, labels, value)
    lines = _text([metric]).split(b"\n")
    return b"".join(line + b"\n" for line in lines if line and not line.startswith(b"#"))


def _again(text: bytes, numbers: Iterable[float]) -> bytes:
    """The same with other numbers. Names and labels are the library's work, and the most of it."""
    heads = (line.rpartition(b" ")[0] for line in text[:-1].split(b"\n"))
    written = (str(floatToGoString(number)).encode() for number in numbers)  # type: ignore[no-untyped-call]
    return b"".join(b"%b %b\n" % line for line in zip(heads, written, strict=True))
