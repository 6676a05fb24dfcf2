"""Where the URL of a channel or the heartbeat comes from, who else can read it, and how settings are shown without it.

`resolve_url` reads files and may block where they lie on a network file system: not for the
daemon's own process. No text that is made here, errors included, holds a secret.
"""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator, Mapping
from typing import Final, get_origin

from msgspec.structs import fields

from watcher.files import read_regular
from watcher.settings import Addressed, Channel, Section, Settings
from watcher.values import Percent, format_duration, scheme_of, shown

_SHORTEST_TOKEN: Final = 16  # characters
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
_LONGEST: Final = 65536  # bytes of a file with a URL; more is some other file


class SecretError(Exception):
    """A URL is not to be had; one line that says why and what to do."""


def resolve_url(section: Addressed, environ: Mapping[str, str], content: bytes | None = None) -> str:
    """A section's URL, from wherever it is kept. Raises SecretError.

    Reads a file, and so may block where that lies on a network file system: then its `content` is
    to be read elsewhere.
    """
    if section.url is not None:
        return section.url
    if section.url_file is not None:
        return _url_in(section.url_file, section, "write the URL into it, or correct url_file", content)
    name = section.credential or ""
    remedy = f"add LoadCredential={name}:FILE to the unit, or use url_file"
    # systemd.exec(5), "Credentials": the directory is there only if the unit loads any.
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise _error(section, f"no credential {shown(name)}: not started by systemd with credentials; {remedy}")
    return _url_in(f"{directory}/{name}", section, remedy)


def _error(section: Addressed, what: str) -> SecretError:
    return SecretError(f"{section.label}: {what}")


def _url_in(path: str, section: Addressed, remedy: str, content: bytes | None = None) -> str:
    file = shown(path)[1:-1]
    try:
        content = read_regular(path, _LONGEST) if content is None else content
    except OSError as error:
        raise _error(section, f"{file}: {error.strerror or 'cannot be read'}; {remedy}") from None
    try:
        text = content.decode().removeprefix("\ufeff").strip()
    except UnicodeDecodeError:
        # Not as the cause: it carries the bytes.
        raise _error(section, f"{file}: is not UTF-8 text; {remedy}") from None
    if not text:
        raise _error(section, f"{file}: is empty; {remedy}")
    if len(text.splitlines()) > 1:
        others = ", and make a channel of each further one" if isinstance(section, Channel) else ""
        raise _error(section, f"{file}: has several lines; leave only the URL{others}")
    if scheme_of(text) is None:
        raise _error(section, f'{file}: holds no URL such as "{section.example}"; {remedy}')
    return text


def token_in(path: str, content: bytes | None = None) -> str:
    """The token in a file. Raises SecretError. Blocks, as `resolve_url` does."""
    file = shown(path)[1:-1]
    remedy = f"make one: (umask 077; openssl rand -hex 32 > {shlex.quote(path)})"
    try:
        content = read_regular(path, _LONGEST) if content is None else content
    except OSError as error:
        raise SecretError(f"[status] token_file: {file}: {error.strerror or 'cannot be read'}; {remedy}") from None
    token = content.decode("ascii", "replace").strip()
    if len(token) < _SHORTEST_TOKEN:
        raise SecretError(f"[status] token_file: {file}: has less than {_SHORTEST_TOKEN} characters; {remedy}")
    if _TOKEN.fullmatch(token) is None:
        raise SecretError(f"[status] token_file: {file}: holds more than a token of letters and digits; {remedy}")
    return token


def secret_files(settings: Settings, config_path: str | None) -> list[str]:
    """The files whose permissions matter: those that hold a URL, the configuration only if it does."""
    sections: list[Addressed] = [*settings.notify.channels, settings.heartbeat]
    token = [settings.status.token_file] if settings.status.token_file is not None else []
    found = [config_path] if config_path is not None and any(s.url is not None for s in sections) else []
    return list(dict.fromkeys([*found, *(s.url_file for s in sections if s.url_file is not None), *token]))


def check_permissions(path: str, mode: int, gid: int, own_gid: int = 0, what: str = "URL") -> list[str]:
    """Warnings about a file with a secret in it, from its st_mode and st_gid.

    Its group may be root's or our own (`own_gid`: a service with an account of its own); another
    group is warned of like everybody.
    """
    everybody = mode & (stat.S_IROTH | stat.S_IWOTH)
    group = mode & (stat.S_IRGRP | stat.S_IWGRP) if gid not in (0, own_gid) else 0
    if not everybody | group:
        return []
    who = "every user" if everybody else f"group {gid}"
    may = "read" if (everybody | group) & (stat.S_IROTH | stat.S_IRGRP) else "change"
    # 600 would shut out the service that reads it through its group.
    right = "640" if gid == own_gid != 0 else "600"
    file = shown(path)[1:-1]
    return [f"{file}: holds a secret {what}, and {who} can {may} it; chmod {right} {shlex.quote(path)}"]


def describe(settings: Settings) -> str:
    """The settings in force as the text of a configuration file, of URLs only the scheme."""
    return "\n".join(_lines("", settings)).strip("\n")


def _lines(heading: str, section: Section) -> Iterator[str]:
    if heading:
        yield from ("", heading)
    for field in fields(section):
        path = f"{heading.strip('[]')}.{field.encode_name}".strip(".")
        value = getattr(section, field.name)
        if isinstance(section, Addressed) and field.name == "url":
            value = section.redacted_url()
        if isinstance(value, Section):
            yield from _lines(f"[{path}]", value)
        elif get_origin(field.type) is tuple:  # of sections; a list of values is Annotated
            for entry in value:
                yield from _lines(f"[[{path}]]", entry)
        elif value is not None:
            yield f"{field.encode_name} = {_toml(value)}"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not isinstance(value, Percent):
        return _toml(format_duration(value))
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in text) + '"'
