"""What systemd calls its units. What stands in their files is for `expected`, whose a process is for `evidence`."""

from __future__ import annotations

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")


def unit_name(path: str, kind: str = "mount") -> str:
    """The name of the unit for a mount point: `systemd-escape --path --suffix=mount` (systemd.unit(5))."""
    data = "/".join(part for part in path.split("/") if part).encode("utf-8", "surrogateescape")
    out = [
        "-" if byte == 0x2F else chr(byte) if byte in _SAFE and not (n == 0 and byte == 0x2E) else f"\\x{byte:02x}"
        for n, byte in enumerate(data)
    ]
    return f"{''.join(out) or '-'}.{kind}"
