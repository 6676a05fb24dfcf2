"""The text of the configuration file -> Settings, or every problem in it, in words.

Pure: reading the file is the caller's matter, because it may lie on a file system that hangs.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

from msgspec.structs import fields, replace

from watcher.settings import Paths, Section, Settings, State, Status
from watcher.values import Reader, key_name, shown, type_of

DEFAULT_PATH: Final = "/etc/mountwatch/config.toml"


class ConfigError(Exception):
    """A configuration that cannot be used. `problems`: one line each, file and key first."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
        single = ", once" if _is_tables(value) else f", not {type_of(value)}"
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
        where = f"[{key_name(key)}]" if isinstance(value, dict) else f"[[{key_name(key)}]]"
        hint = f"did you mean {labels[close[0]]}?" if close else f"there are {', '.join(labels.values())}"
        return where, f"unknown section; {hint}"
    homes = [home for name, home in _homes(Settings) if name == key]
    if homes and not close:
        hint = f"it belongs to {homes[0]}"
    else:
        hint = f'did you mean "{close[0]}"?' if close else f"there are {', '.join(known)}"
    return path + key_name(key), f"unknown key; {hint}"


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
        path = self.path if self.path.isprintable() else shown(self.path)[1:-1]
        return ConfigError([f"{path}: does not exist; correct or drop {self.named_by}"])


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
    status = Status(socket=f"{runtime}/watcher.sock")
    return Settings(state=State(path=path), paths=Paths(runtime=runtime), status=status)
