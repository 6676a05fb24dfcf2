"""What can be configured: each section a Struct, each key with its default and its reader.

A new section is a Struct here, a field of Settings and its lines in config.example.toml. What
depends on several keys is checked by the Struct's `faults` (refused) and `oddities` (warned of).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from watcher.addresses import host_fault, is_loopback, listen_fault
from watcher.core.quiet import MIDNIGHT, WEEK, Window
from watcher.faults import (
    credential_fault,
    expected_fault,
    fstype_fault,
    http_fault,
    mount_fault,
    name_fault,
    path_fault,
    show_only_fault,
    socket_fault,
    source_fault,
    url_fault,
)
from watcher.model import Kind, Pace
from watcher.values import (
    Percent,
    TimeOfDay,
    boolean,
    duration,
    format_duration,
    kind,
    list_of,
    one_of,
    percent,
    scheme_of,
    shown,
    string,
    time_of_day,
)

_MOUNTS: Final = list_of(string(mount_fault), '["/mnt/*"]')
_NAMED: Final = list_of(string(mount_fault), '["server:nas01"]', if_empty="is empty; name the mounts it is for")
_NOTHING_WATCHED: Final = "is empty, so nothing would be watched; leave it out for the default"
# Below a tenth of a second a probe loads the server more than it says; above these limits nobody is guarded.
_INTERVAL: Final = duration("100ms", "1d")
_TIMEOUT: Final = duration("100ms", "5m")
_PATIENCE: Final = duration("0s", "1d")  # zero: the first failure is an alarm
_DEEP: Final = duration("1s", "30d")

# ---- sections


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the file."""

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong between the keys: (key or "", text)."""
        yield from ()

    def oddities(self) -> Iterator[tuple[str, str]]:
        """What works, but hardly as meant: (key or "", text)."""
        yield from ()


class Watch(Section, frozen=True, kw_only=True):
    """What is watched: file system types, mount patterns as `core.filters` has them."""

    fstypes: Annotated[tuple[str, ...], list_of(string(fstype_fault), '["nfs", "nfs4"]', if_empty=_NOTHING_WATCHED)] = (
        "nfs",
        "nfs4",
        "cifs",
        "smb*",
        "ceph",
        "9p",
        "virtiofs",
        "glusterfs",
        "afs",
        "fuse",
        "fuse.*",
    )
    include: Annotated[tuple[str, ...], list_of(string(mount_fault), '["/mnt/*"]', if_empty=_NOTHING_WATCHED)] = ("*",)
    exclude: Annotated[tuple[str, ...], _MOUNTS] = ()
    show_only: Annotated[tuple[str, ...], list_of(string(show_only_fault), '["fuse.portal"]')] = (
        "fuse.portal",
        "fuse.gvfsd-fuse",
        "fuse.snapfuse",
        "fuse.squashfuse",
        "fuse.fuse-overlayfs",
        "/run/pve/import/esxi/*",
    )
    containers: Annotated[bool, boolean] = True
    local: Annotated[bool, boolean] = True
    missing_after: Annotated[float, duration("0s", "1d")] = 30.0


class Expect(Section, frozen=True, kw_only=True):
    """A mount that should be there, whoever mounts it; "" where a key is not given."""

    mount: Annotated[str, string(expected_fault)]
    source: Annotated[str, string(source_fault)] = ""
    fstype: Annotated[str, string(fstype_fault)] = ""
    ro: Annotated[bool | None, boolean] = None


class Probe(Section, frozen=True, kw_only=True):
    """How often a mount is asked and how long it may fail, in seconds."""

    interval: Annotated[float, _INTERVAL] = 10.0
    timeout: Annotated[float, _TIMEOUT] = 5.0
    stale_interval: Annotated[float, _INTERVAL] = 5.0
    alarm_after: Annotated[float, _PATIENCE] = 20.0
    alarm_after_error: Annotated[float, _PATIENCE] = 5.0
    deep_interval: Annotated[float, _DEEP] = 60.0
    startup_grace: Annotated[float, duration("0s", "1h")] = 60.0

    def pace(self) -> Pace:
        return Pace(*(getattr(self, key) for key in Pace._fields))

    def oddities(self) -> Iterator[tuple[str, str]]:
        yield from _hasty(self.pace())


class Override(Section, frozen=True, kw_only=True):
    """Other [probe] values for some mounts; None where the key is not given."""

    mounts: Annotated[
        tuple[str, ...], list_of(string(mount_fault), '["/mnt/wan/*"]', if_empty="is empty; name the mounts it is for")
    ]
    interval: Annotated[float | None, _INTERVAL] = None
    timeout: Annotated[float | None, _TIMEOUT] = None
    stale_interval: Annotated[float | None, _INTERVAL] = None
    alarm_after: Annotated[float | None, _PATIENCE] = None
    alarm_after_error: Annotated[float | None, _PATIENCE] = None
    deep_interval: Annotated[float | None, _DEEP] = None

    def changes(self) -> dict[str, float]:
        """The given keys: what to replace in a Pace."""
        return {key: value for key in Pace._fields if (value := getattr(self, key)) is not None}

    def oddities(self) -> Iterator[tuple[str, str]]:
        if not self.changes():
            yield "", "changes nothing; add a key of [probe], or remove it"


class Capacity(Section, frozen=True, kw_only=True):
    """When a file system counts as full."""

    warn: Annotated[Percent, percent] = Percent(90)


class Addressed(Section, frozen=True, kw_only=True):
    """A section with a URL that is a secret, here or kept elsewhere: in one of three places at most."""

    url: str | None = None
    url_file: Annotated[str | None, string(path_fault)] = None
    credential: Annotated[str | None, string(credential_fault)] = None

    @property
    def label(self) -> str:
        """What it is called in messages."""
        raise NotImplementedError

    @property
    def example(self) -> str:
        """What its URL looks like."""
        raise NotImplementedError

    @property
    def given(self) -> list[str]:
        """The keys that say where the URL is."""
        return [key for key in ("url", "url_file", "credential") if getattr(self, key) is not None]

    def faults(self) -> Iterator[tuple[str, str]]:
        if len(self.given) > 1:
            yield "", f"has {' and '.join(self.given)}; keep one of them"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would show the token in every rich traceback with locals.
        members = [(key, getattr(self, key)) for key in self.__struct_fields__]
        return [(key, self.redacted_url() if key == "url" else member) for key, member in members]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.__rich_repr__())})"

    def redacted_url(self) -> str | None:
        """ "tgram://***"; None where the URL is elsewhere."""
        return None if self.url is None else f"{scheme_of(self.url) or ''}://***"


class Channel(Addressed, frozen=True, kw_only=True):
    """Where messages go. Of the three sources of the URL exactly one is given."""

    name: Annotated[str, string(name_fault)]
    url: Annotated[str | None, string(url_fault)] = None

    @property
    def label(self) -> str:
        return f"channel {shown(self.name)}"

    @property
    def example(self) -> str:
        return "tgram://…"

    def faults(self) -> Iterator[tuple[str, str]]:
        yield from super().faults()
        if not self.given:
            yield "", "says nowhere where to send; add one of url, url_file or credential"


class Quiet(Section, frozen=True, kw_only=True):
    """When nothing is told of some mounts, day by day, in local time."""

    mounts: Annotated[
        tuple[str, ...],
        list_of(string(mount_fault), '["server:nas01"]', if_empty="is empty; name the mounts it is for"),
    ]
    begins: Annotated[TimeOfDay, time_of_day] = msgspec.field(name="from")
    ends: Annotated[TimeOfDay, time_of_day] = msgspec.field(name="to")
    days: Annotated[
        tuple[str, ...], list_of(one_of(WEEK), '["sat", "sun"]', if_empty="is empty; leave it out for every day")
    ] = WEEK

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.begins == self.ends:
            yield "to", f'is the same as from, {self.ends}; for the whole day write from = "00:00" and to = "24:00"'
        elif self.begins == MIDNIGHT:
            yield "from", 'must be before midnight; write "00:00", and the day after that'

    def window(self) -> Window:
        return Window(self.mounts, int(self.begins), int(self.ends), self.days)


HASTY_REPEAT = 300.0  # seconds


class Notify(Section, frozen=True, kw_only=True):
    """What is told, and to whom. Durations in seconds."""

    on: Annotated[tuple[Kind, ...], list_of(kind, '["stale"]')] = (Kind.STALE, Kind.MISSING)
    group_wait: Annotated[float, duration("0s", "10m")] = 3.0
    repeat_interval: Annotated[float, duration("0s", "30d")] = 0.0
    max_age: Annotated[float, duration("1m", "30d")] = 86400.0
    quiet: tuple[Quiet, ...] = ()
    channels: tuple[Channel, ...] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        names = [channel.name for channel in self.channels]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield "channels", f"{names.count(name)} of them are called {shown(name)}; give each a name of its own"
        if self.group_wait >= self.max_age:
            yield "group_wait", "must be shorter than max_age, or news expires before it is sent; lower it"

    def oddities(self) -> Iterator[tuple[str, str]]:
        if 0 < self.repeat_interval < HASTY_REPEAT:
            yield (
                "repeat_interval",
                f"tells it all again every {format_duration(self.repeat_interval)}; write 1h or more",
            )
        if self.channels and not self.on:
            yield "on", 'is empty, so no channel is ever told anything; write ["stale"], or remove the channels'


class State(Section, frozen=True, kw_only=True):
    """What outlives the process."""

    path: Annotated[str, string(path_fault)] = "/var/lib/mountwatch/state.db"


class Status(Section, frozen=True, kw_only=True):
    """How a running service is asked."""

    socket: Annotated[str, string(socket_fault, or_empty=True)] = "/run/mountwatch/watcher.sock"  # "": not at all
    listen: Annotated[str, string(listen_fault, or_empty=True)] = ""  # address and port; "": none
    token_file: Annotated[str | None, string(path_fault)] = None
    hosts: Annotated[tuple[str, ...], list_of(string(host_fault), '["pve1.example.org"]')] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        if self.listen and self.token_file is None and not is_loopback(self.listen):
            port = self.listen.rpartition(":")[2]
            yield (
                "listen",
                f'{shown(self.listen)} can be reached by other machines; add a token_file, or write "127.0.0.1:{port}"',
            )

    def oddities(self) -> Iterator[tuple[str, str]]:
        for key, given in (("token_file", self.token_file is not None), ("hosts", bool(self.hosts))):
            if given and not self.listen:
                yield key, "does nothing without listen; add it, or remove this"


class Heartbeat(Addressed, frozen=True, kw_only=True):
    """A URL that is asked for as long as the watcher works; None: nothing is."""

    url: Annotated[str | None, string(http_fault)] = None
    interval: Annotated[float, duration("5s", "1d")] = 60.0

    @property
    def label(self) -> str:
        return "[heartbeat]"

    @property
    def example(self) -> str:
        return "https://…"

    def oddities(self) -> Iterator[tuple[str, str]]:
        if self.interval != Heartbeat().interval and not self.given:
            yield "interval", "does nothing without a URL; add one of url, url_file or credential"


class Paths(Section, frozen=True, kw_only=True):
    """Where the system's own files are."""

    proc: Annotated[str, string(path_fault)] = "/proc"
    cgroup: Annotated[str, string(path_fault)] = "/sys/fs/cgroup"
    sys: Annotated[str, string(path_fault)] = "/sys"
    lxc_config: Annotated[tuple[str, ...], list_of(string(path_fault), '["/var/lib/lxc"]')] = (
        "/var/lib/lxc",
        "/etc/pve/lxc",
    )
    runtime: Annotated[str, string(path_fault)] = "/run/mountwatch"
    fstab: Annotated[str, string(path_fault)] = "/etc/fstab"
    units: Annotated[tuple[str, ...], list_of(string(path_fault), '["/etc/systemd/system"]')] = (
        "/etc/systemd/system",
        "/run/systemd/system",
    )
    storage: Annotated[str, string(path_fault)] = "/etc/pve/storage.cfg"


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    watch: Watch = Watch()
    expect: tuple[Expect, ...] = ()
    probe: Probe = Probe()
    overrides: tuple[Override, ...] = msgspec.field(default=(), name="override")
    capacity: Capacity = Capacity()
    notify: Notify = Notify()
    status: Status = Status()
    heartbeat: Heartbeat = Heartbeat()
    state: State = State()
    paths: Paths = Paths()

    def oddities(self) -> Iterator[tuple[str, str]]:
        for n, override in enumerate(self.overrides, 1):
            changes = override.changes()
            if "timeout" in changes or "alarm_after" in changes:
                for key, words in _hasty(self.probe.pace()._replace(**changes)):
                    yield f"override[{n}].{key}", words


def _hasty(pace: Pace) -> Iterator[tuple[str, str]]:
    # Not refused: it works, the alarm merely rests on a single probe. Zero says that this is meant.
    if 0 < pace.alarm_after <= pace.timeout:
        after, timeout = format_duration(pace.alarm_after), format_duration(pace.timeout)
        yield (
            "alarm_after",
            f"{after} is not longer than the timeout of {timeout}, so one slow answer is an alarm; "
            f'write more than {timeout}, or "0s" if that is meant',
        )
