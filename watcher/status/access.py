"""Who may ask through a port: not a page of another site, and beyond this machine only who has the token.

A browser on this machine, or in its network, runs pages of strangers. What they can do without asking first: send a
simple request to any address, and, by a name of theirs that they let point here (DNS rebinding), read the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from watcher.addresses import host_named, is_literal
from watcher.status.queries import Problem

# The page asks for the token itself; the others say one word.
FREE = frozenset({"/", "/healthz", "/readyz"})
_READS = frozenset({"GET", "HEAD"})


class Asking(NamedTuple):
    """What of a request decides. Of each header all that there are."""

    method: str
    path: str
    host: Sequence[str]
    origin: Sequence[str] = ()
    authorization: Sequence[str] = ()
    content_type: str = ""


class Access(NamedTuple):
    """The rules of one port."""

    hosts: frozenset[str] = frozenset()  # names that this machine is asked for by, in small letters
    token: str | None = None  # None: whoever reaches the port may ask

    def check(self, asking: Asking) -> None:
        """Raises Problem if it is not to be answered."""
        host = host_named(asking.host[0]) if len(asking.host) == 1 else None
        if host is None:
            raise Problem(403, "the request does not say which host it asks; send one Host header")
        if host != "localhost" and host not in self.hosts and not is_literal(host):
            raise Problem(403, "this is not the name of this machine; ask by its address, or add the name to hosts")
        if asking.origin and [o.lower() for o in asking.origin] not in (
            [f"http://{asking.host[0].lower()}"],
            [f"https://{asking.host[0].lower()}"],
        ):
            raise Problem(403, "a page of another site may not ask")
        if self.token is not None and asking.path not in FREE and not self._knows_token(asking.authorization):
            raise Problem(401, "send the token: Authorization: Bearer ...")
        # Without a token it must be a request that a page of another site cannot send without asking first (CORS).
        if self.token is None and asking.method not in _READS and asking.content_type != "application/json":
            raise Problem(415, "send Content-Type: application/json")

    def _knows_token(self, authorization: Sequence[str]) -> bool:
        if len(authorization) != 1 or self.token is None:
            return False
        scheme, _, token = authorization[0].partition(" ")
        given = token.strip().encode("utf-8", "surrogateescape")
        return scheme.lower() == "bearer" and compare_digest(given, self.token.encode())
