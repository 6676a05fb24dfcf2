"""The text of the configuration file -> Settings, or every problem in it, in words.

Pure: reading the file is the caller's matter, because it may lie on a file system that hangs;
what a channel's URL is, and how settings are shown without it, is in `secrets`.

A new section is a Struct here, a field of Settings and its lines in config.example.toml. The type
of a key carries its reader (`Annotated[float, duration(...)]`), which checks one value; what
depends on several keys is checked by the Struct's `faults` (refused) and `oddities` (warned of).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import fields, replace

from watcher.model import Kind, Pace

DEFAULT_PATH: Final = "/etc/mountwatch/config.toml"

Report = Callable[[str, str], None]  # (where, what is wrong and what to do)
Reader = Callable[[object, str, Report], Any]  # (value, where, report) -> value, or None after reporting

_URL: Final = re.compile(r"([A-Za-z0-9+.-]{1,32})://.", re.DOTALL)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_NUMBER: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_UNITS: Final = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile("".join(rf"(?:({_NUMBER.pattern}){unit})?" for unit in _UNITS))
_TOLD_ON_REQUEST: Final = tuple(kind for kind in Kind if kind is not Kind.WATCHER)  # that one always is
_SHOWN: Final = 40  # characters of a value in a message


class ConfigError(Exception):
    """A configuration that cannot be used. `problems`: one line each, file and key first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# ---- words


def scheme_of(url: str) -> str | None:
    """ "tgram" of "tgram://token/chat"; None for what is not a URL on one line."""
    match = _URL.match(url)
    return match[1] if match and url.isprintable() and not url[-1].isspace() else None


def shown(value: str) -> str:
    """`value` for a message: quoted, on one line, of bounded length, and of a URL the scheme only."""
    if "://" in value:
        # Whoever pastes a URL into the wrong place should not find its token in the journal.
        match = _URL.search(value)
        return f'"{match[1] if match else ""}://***"'
    if len(value) > _SHOWN:
        value = value[: _SHOWN - 1] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value) + '"'


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else shown(key)


def _kind_of(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "a section"}
    return kinds.get(type(value), "a date or time")


# ---- durations


def parse_duration(text: str) -> float:
    """Seconds of "15s", "1h30m", "500ms", to the millisecond.

    Raises ValueError, whose text says what is wrong and what to write.
    """
    if len(text) <= _SHOWN:
        if _NUMBER.fullmatch(text):
            raise ValueError(f'{text} has no unit; write "{text}s" for seconds (or ms, m, h, d)')
        if text and (match := _DURATION.fullmatch(text)):
            return round(sum(float(n) * unit for n, unit in zip(match.groups("0"), _UNITS.values(), strict=True)), 3)
        if text.startswith("-"):
            raise ValueError(f'{shown(text)} is negative; write a duration such as "10s"')
    raise ValueError(f'{shown(text)} is not a duration; write one such as "15s", "2m", "1h30m", "500ms" or "1d"')


def format_duration(seconds: float) -> str:
    """ "1h30m" of 5400.0; the inverse of `parse_duration`."""
    rest, text = round(seconds * 1000), ""
    for unit, length in _UNITS.items():
        count, rest = divmod(rest, round(length * 1000))
        text += f"{count}{unit}" if count else ""
    return text or "0s"


# ---- readers: one value each


def duration(lowest: str, highest: str) -> Reader:
    """A duration within these bounds, as seconds."""
    low, high = parse_duration(lowest), parse_duration(highest)

    def read(value: object, where: str, report: Report) -> float | None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # for the words about the missing unit
        if not isinstance(value, str):
            report(where, f'must be a duration, not {_kind_of(value)}; write one such as "10s", with the quotes')
            return None
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            report(where, str(error))
            return None
        if not low <= seconds <= high:
            word, bound = ("short", f"at least {lowest}") if seconds < low else ("long", f"at most {highest}")
            report(where, f"{shown(value)} is too {word}; write {bound}")
            return None
        return seconds

    return read


def string(fault: Callable[[str], str | None]) -> Reader:
    """A text in which `fault` finds nothing wrong."""

    def read(value: object, where: str, report: Report) -> str | None:
        if not isinstance(value, str):
            report(where, f"must be text, not {_kind_of(value)}; write it in quotes")
            return None
        wrong = "is empty; write a value or leave it out" if not value.strip() else fault(value)
        if wrong:
            report(where, wrong)
        return None if wrong else value

    return read


def list_of(item: Reader, example: str, *, if_empty: str | None = None) -> Reader:
    """A list; `if_empty` says why it must not be empty."""

    def read(value: object, where: str, report: Report) -> tuple[Any, ...] | None:
        if not isinstance(value, list):
            report(where, f"must be a list, not {_kind_of(value)}; write it as {example}")
            return None
        if not value and if_empty:
            report(where, if_empty)
            return None
        items = tuple(item(entry, f"{where}[{n}]", report) for n, entry in enumerate(value, 1))
        return None if None in items else items

    return read


def _fstype_fault(pattern: str) -> str | None:
    if "/" in pattern or ":" in pattern:
        return f"{shown(pattern)} is a path, not a file system type; mount points go into include or exclude"
    if "," in pattern or any(c.isspace() or not c.isprintable() for c in pattern):
        return f'{shown(pattern)} is not one file system type; quote each by itself: "nfs", "nfs4"'
    return None


def _mount_fault(pattern: str) -> str | None:
    if "\0" in pattern:
        return "holds a NUL character, which no path does; remove it"
    if not pattern.startswith(("/", "*", "?", "[", "host:", "ct:", "server:")):
        hint = ' (a server is written "server:nas01")' if ":" in pattern else ""
        return f'{shown(pattern)} matches no mount; mount points begin with "/", as in "/mnt/*"{hint}'
    return None


def _show_only_fault(pattern: str) -> str | None:
    return _mount_fault(pattern) if pattern.startswith("/") or ":" in pattern else _fstype_fault(pattern)


def _path_fault(path: str) -> str | None:
    if "\0" in path:
        return "holds a NUL character, which no path does; remove it"
    return None if path.startswith("/") else 'must be an absolute path; begin it with "/" ("~" is not expanded)'


def _name_fault(name: str) -> str | None:
    if "://" in name:
        return 'is a URL; write a name of your own, such as "admin-telegram", and the URL under url'
    if len(name) > 64:
        return f"has {len(name)} characters; write at most 64"
    if not name.isprintable() or name != name.strip():
        return "has control characters or blanks around it; write printable characters only"
    return None


def _url_fault(url: str) -> str | None:
    return None if scheme_of(url) else 'is not a URL on one line; write one as Apprise takes it, such as "tgram://…"'


def _credential_fault(name: str) -> str | None:
    if "/" in name or ":" in name or not name.isprintable() or name in (".", "..") or len(name) > 255:
        return 'must be the name given to LoadCredential=, such as "telegram"; a path goes into url_file'
    return None


def _kind(value: object, where: str, report: Report) -> Kind | None:
    for kind in _TOLD_ON_REQUEST:
        if value == kind:
            return kind
    close = get_close_matches(value, list(_TOLD_ON_REQUEST), 1) if isinstance(value, str) else []
    got = shown(value) if isinstance(value, str) else _kind_of(value)
    hint = f'; did you mean "{close[0]}"?' if close else "; write one of these"
    report(where, f"{got} is none of {', '.join(shown(kind) for kind in _TOLD_ON_REQUEST)}{hint}")
    return None


_MOUNTS: Final = list_of(string(_mount_fault), '["/mnt/*"]')
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

    fstypes: Annotated[
        tuple[str, ...], list_of(string(_fstype_fault), '["nfs", "nfs4"]', if_empty=_NOTHING_WATCHED)
    ] = ("nfs", "nfs4", "cifs", "smb*", "ceph", "9p", "virtiofs", "glusterfs", "afs", "fuse", "fuse.*")
    include: Annotated[tuple[str, ...], list_of(string(_mount_fault), '["/mnt/*"]', if_empty=_NOTHING_WATCHED)] = ("*",)
    exclude: Annotated[tuple[str, ...], _MOUNTS] = ()
    show_only: Annotated[tuple[str, ...], list_of(string(_show_only_fault), '["fuse.portal"]')] = (
        "fuse.portal",
        "fuse.gvfsd-fuse",
        "fuse.snapfuse",
        "fuse.squashfuse",
        "fuse.fuse-overlayfs",
        "fuse.lxcfs",
        "/run/pve/import/esxi/*",
    )


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
        tuple[str, ...], list_of(string(_mount_fault), '["/mnt/wan/*"]', if_empty="is empty; name the mounts it is for")
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


class Channel(Section, frozen=True, kw_only=True):
    """Where messages go. Of the three sources of the URL exactly one is given."""

    name: Annotated[str, string(_name_fault)]
    url: Annotated[str | None, string(_url_fault)] = None
    url_file: Annotated[str | None, string(_path_fault)] = None
    credential: Annotated[str | None, string(_credential_fault)] = None

    def faults(self) -> Iterator[tuple[str, str]]:
        given = [key for key in ("url", "url_file", "credential") if getattr(self, key) is not None]
        if not given:
            yield "", "says nowhere where to send; add one of url, url_file or credential"
        elif len(given) > 1:
            yield "", f"has {' and '.join(given)}; keep one of them"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own would show the token in every rich traceback with locals.
        members = [(key, getattr(self, key)) for key in self.__struct_fields__]
        return [(key, self.redacted_url() if key == "url" else member) for key, member in members]

    def __repr__(self) -> str:
        return f"Channel({', '.join(f'{key}={value!r}' for key, value in self.__rich_repr__())})"

    def redacted_url(self) -> str | None:
        """ "tgram://***"; None where the URL is elsewhere."""
        return None if self.url is None else f"{scheme_of(self.url) or ''}://***"


class Notify(Section, frozen=True, kw_only=True):
    """What is told, and to whom. Durations in seconds."""

    on: Annotated[tuple[Kind, ...], list_of(_kind, '["stale"]')] = (Kind.STALE,)
    group_wait: Annotated[float, duration("0s", "10m")] = 3.0
    max_age: Annotated[float, duration("1m", "30d")] = 86400.0
    channels: tuple[Channel, ...] = ()

    def faults(self) -> Iterator[tuple[str, str]]:
        names = [channel.name for channel in self.channels]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            yield "channels", f"{names.count(name)} of them are called {shown(name)}; give each a name of its own"
        if self.group_wait >= self.max_age:
            yield "group_wait", "must be shorter than max_age, or news expires before it is sent; lower it"

    def oddities(self) -> Iterator[tuple[str, str]]:
        if self.channels and not self.on:
            yield "on", 'is empty, so no channel is ever told anything; write ["stale"], or remove the channels'


class State(Section, frozen=True, kw_only=True):
    """What outlives the process."""

    path: Annotated[str, string(_path_fault)] = "/var/lib/mountwatch/state.db"


class Paths(Section, frozen=True, kw_only=True):
    """Where the system's own files are."""

    proc: Annotated[str, string(_path_fault)] = "/proc"
    runtime: Annotated[str, string(_path_fault)] = "/run/mountwatch"


class Settings(Section, frozen=True, kw_only=True):
    """The whole file."""

    watch: Watch = Watch()
    probe: Probe = Probe()
    overrides: tuple[Override, ...] = msgspec.field(default=(), name="override")
    notify: Notify = Notify()
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


# ---- the file


class Parsed(NamedTuple):
    settings: Settings
    warnings: list[str]  # one line each, in the form of ConfigError.problems


S = TypeVar("S", bound=Section)


class _File:
    """Walks the tables of one file and collects, in its order, what is wrong with them."""

    def __init__(self, name: str) -> None:
        self.name = name if name.isprintable() else shown(name)
        self.lines: list[str] = []  # faults and unknown keys
        self.faults = 0
        self.oddities: list[str] = []

    def report(self, where: str, what: str) -> None:
        self.faults += 1
        self.lines.append(self._line(where, what))

    def section(self, kind: type[S], table: Mapping[str, object], path: str, base: S | None) -> S | None:
        """The table as a Struct; what it leaves out is as in `base`. None without a required key."""
        known = {field.encode_name: field for field in fields(kind)}
        before, values = self.faults, {}
        for key, value in table.items():
            if key in known:
                name = known[key].name
                read = self._read(known[key].type, value, path + key, getattr(base, name, None))
                if read is not None:
                    values[name] = read
            else:
                self.lines.append(self._line(*_unknown(key, value, list(known), path)))
        for key in [key for key, field in known.items() if base is None and field.required and key not in table]:
            self.report(path, f"has no {key}; add one")
        if base is None and any(field.required and field.name not in values for field in known.values()):
            return None
        result = kind(**values) if base is None else replace(base, **values)
        if self.faults == before:
            for key, what in result.faults():
                self.report(path + key, what)
        self.oddities += [self._line(path + key, what) for key, what in result.oddities()]
        return result

    def _line(self, where: str, what: str) -> str:
        return f"{self.name}: {where.rstrip('. ')}: {what}"

    def _read(self, kind: Any, value: object, path: str, base: Any) -> Any:
        if get_origin(kind) is Annotated:
            reader: Reader = get_args(kind)[1]
            return reader(value, path, self.report)
        if get_origin(kind) is tuple:
            return self._sections(get_args(kind)[0], value, path.replace("[", "").replace("] ", "."))
        if isinstance(value, dict):
            return self.section(kind, value, f"[{path}] ", base)
        single = ", once" if _is_tables(value) else f", not {_kind_of(value)}"
        self.report(f"[{path}]", f"must be a section{single}; write [{path}] on a line of its own")
        return None

    def _sections(self, kind: type[Section], value: object, path: str) -> tuple[Section, ...] | None:
        if not isinstance(value, list) or (value and not _is_tables(value)):
            self.report(path, f"must be sections, of which there may be several; write [[{path}]], in double brackets")
            return None
        found = (self.section(kind, table, f"{path}[{n}].", None) for n, table in enumerate(value, 1))
        return tuple(section for section in found if section is not None)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _homes(kind: Any, label: str = "") -> Iterator[tuple[str, str]]:
    """Every key there is, and the section it belongs to."""
    for field in fields(kind):
        path = f"{label.strip('[]')}.{field.encode_name}".strip(".")
        if get_origin(field.type) is Annotated:
            yield field.encode_name, label
        elif get_origin(field.type) is tuple:
            yield from _homes(get_args(field.type)[0], f"[[{path}]]")
        else:
            yield from _homes(field.type, f"[{path}]")


def _unknown(key: str, value: object, known: list[str], path: str) -> tuple[str, str]:
    """Where and what to say of an unknown key or section."""
    close = get_close_matches(key[:64].lower().replace("-", "_"), known, 1)
    if not path and (isinstance(value, dict) or _is_tables(value)):
        many = {field.encode_name for field in fields(Settings) if get_origin(field.type) is tuple}
        labels = {name: f"[[{name}]]" if name in many else f"[{name}]" for name in known}
        where = f"[{_key(key)}]" if isinstance(value, dict) else f"[[{_key(key)}]]"
        hint = f"did you mean {labels[close[0]]}?" if close else f"there are {', '.join(labels.values())}"
        return where, f"unknown section; {hint}"
    homes = [home for name, home in _homes(Settings) if name == key]
    if homes and not close:
        hint = f"it belongs to {homes[0]}"
    else:
        hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(known)}"
    return path + _key(key), f"unknown key; {hint}"


def _syntax(error: ValueError, text: str) -> str:
    """What tomllib says, with a position always, a remedy, and never the text of the line."""
    lines = text.split("\n")
    what, position = str(error), (len(lines), len(lines[-1]) + 1)
    match = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", what)
    if not match:  # int() itself refused
        return "a number of thousands of digits; correct it"
    what = what[: match.start()]
    if match[1]:
        position = int(match[1]), int(match[2])
    line = lines[min(position[0], len(lines)) - 1]
    if what.startswith(("Cannot", "Duplicate")):
        what, remedy = "a key or section that is there already", "keep one of them"
    elif re.search(r"=\s*[0-9.]+(ms|s|m|h|d)", line):
        remedy = 'a duration needs quotes, as in "10s"'
    elif what == "Invalid value":
        remedy = 'text needs quotes, as in "nfs"'
    elif what.startswith("Unescaped"):
        remedy = "put texts with a backslash in single quotes"
    else:
        remedy = "look for a missing quote, comma or bracket"
    return f"line {position[0]}, column {position[1]}: {what}; {remedy}"


def parse(text: str, name: str, *, strict: bool = False, defaults: Settings | None = None) -> Parsed:
    """The settings in `text`; what it leaves out is as in `defaults` (of `defaults_for_user`).

    Decode the file as UTF-8 with surrogateescape: patterns for paths of other encodings work then.
    `name` stands before every message. Members of lists are counted from 1. `strict`: unknown keys
    are problems, not warnings. Raises ConfigError, and nothing else, with every problem there is.
    """
    file = _File(name)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ConfigError([f"{file.name}: brackets are nested too deeply; no key needs more than one pair"]) from None
    except ValueError as error:
        raise ConfigError([f"{file.name}: {_syntax(error, text)}"]) from None
    settings = file.section(Settings, table, "", defaults or Settings())
    if settings is None or file.faults or (strict and file.lines):
        raise ConfigError(file.lines)
    return Parsed(settings, file.lines + file.oddities)


# ---- where


class Candidate(NamedTuple):
    """The file to read."""

    path: str
    required: bool  # someone named it: that it is absent is an error
    named_by: str

    def absent(self) -> ConfigError:
        """What to raise when it is not there."""
        return ConfigError([f"{shown(self.path)[1:-1]}: does not exist; correct or drop {self.named_by}"])


def search_path(environ: Mapping[str, str], explicit: str | None) -> Candidate:
    """`--config`, else $WATCHER_CONFIG, else the file in /etc, which may be absent: then the defaults hold."""
    if explicit is not None:
        return Candidate(explicit, True, "--config")
    if path := environ.get("WATCHER_CONFIG"):
        return Candidate(path, True, "$WATCHER_CONFIG")
    return Candidate(DEFAULT_PATH, False, "")


def defaults_for_user(euid: int, environ: Mapping[str, str]) -> Settings:
    """What holds without a file: the system's directories for root, else the user's (XDG Base Directory).

    The directory in /tmp has a name that anyone can guess: who creates it must check that it is ours.
    """
    if euid == 0:
        return Settings()

    def directory(variable: str) -> str | None:
        path = environ.get(variable, "")
        return path if path.startswith("/") else None  # the specification: ignore relative paths

    session, state, home = directory("XDG_RUNTIME_DIR"), directory("XDG_STATE_HOME"), directory("HOME")
    runtime = f"{session}/mountwatch" if session else f"/tmp/mountwatch-{euid}"
    if state is None and home is not None:
        state = f"{home}/.local/state"
    path = f"{state}/mountwatch/state.db" if state else f"{runtime}/state.db"
    return Settings(state=State(path=path), paths=Paths(runtime=runtime))
