"""Where to listen, and by what names we are asked for: network addresses as text. Resolves nothing."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from watcher.values import shown

_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})")
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?(?:\.[A-Za-z0-9_-]+)*")


def listen_address(text: str) -> tuple[str, int] | None:
    """("127.0.0.1", 9199) of "127.0.0.1:9199", ("::1", 9199) of "[::1]:9199"; None for what is no such thing."""
    match = _LISTEN.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        return None
    host = match[1] or match[2]
    version = 6 if match[1] else 4
    try:
        return (host, int(match[3])) if ip_address(host).version == version else None
    except ValueError:
        return None


def is_loopback(text: str) -> bool:
    """Of what `listen_address` takes: whether only this machine can reach it."""
    address = listen_address(text)
    return address is not None and ip_address(address[0]).is_loopback


def listen_fault(text: str) -> str | None:
    if listen_address(text) is None:
        return f'{shown(text)} is no address with a port; write "127.0.0.1:9199" or "[::1]:9199"'
    return None


def host_fault(name: str) -> str | None:
    if _NAME.fullmatch(name) is None:
        return f'{shown(name)} is no host name; write one without a port, such as "pve1.example.org"'
    return None


def host_named(header: str) -> str | None:
    """The host of a Host header or an origin, in small letters and without its port; None if it is malformed."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:/@\[\]\s]+))(?::[0-9]{1,5})?", header)
    return (match[1] or match[2]).lower().removesuffix(".") if match else None


def is_literal(host: str) -> bool:
    """Whether it is an IP address: nobody can make a name of his own mean it."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
