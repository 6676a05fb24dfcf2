"""Who may ask through a port."""

from __future__ import annotations

import pytest

from watcher.addresses import host_fault, host_named, is_loopback, listen_address
from watcher.status.access import Access, Asking
from watcher.status.queries import Problem

OPEN = Access(frozenset({"pve1", "pve1.example.org"}))
CLOSED = OPEN._replace(token="0123456789abcdef")
JSON = "application/json"


def status(access: Access, asking: Asking) -> int:
    try:
        access.check(asking)
    except Problem as e:
        return e.status
    return 200


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9199", 200),
        ("127.0.0.1", 200),
        ("[::1]:9199", 200),
        ("[::1]", 200),
        ("192.168.1.5:9199", 200),
        ("localhost:9199", 200),
        ("LocalHost", 200),
        ("localhost.", 200),
        ("pve1:9199", 200),
        ("PVE1.example.org", 200),
        ("evil.example.org:9199", 403),
        ("pve1.example.org.evil.example.org", 403),
        ("127.0.0.1.evil.example.org", 403),
        ("localhost@evil.example.org", 403),
        ("localhost/x", 403),
        ("localhost:x", 403),
        ("::1", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_by_what_name_it_may_be_asked(host: str, code: int) -> None:
    assert status(OPEN, Asking("GET", "/api/v1/mounts", [host])) == code


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example.org"]])
def test_one_host_and_no_other(hosts: list[str]) -> None:
    assert status(OPEN, Asking("GET", "/", hosts)) == 403


@pytest.mark.parametrize(
    ("origin", "code"),
    [
        ([], 200),
        (["http://localhost:9199"], 200),
        (["https://LOCALHOST:9199"], 200),  # behind a proxy that speaks TLS
        (["http://localhost"], 403),  # another port is another site
        (["http://localhost:9199", "http://localhost:9199"], 403),
        (["http://evil.example.org"], 403),
        (["null"], 403),
        ([""], 403),
    ],
)
def test_only_its_own_page_may_ask(origin: list[str], code: int) -> None:
    assert status(OPEN, Asking("GET", "/api/v1/mounts", ["localhost:9199"], origin)) == code


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (["Bearer 0123456789abcdef"], 200),
        (["bearer  0123456789abcdef"], 200),
        (["Bearer 0123456789abcdeX"], 401),
        (["Bearer 0123456789abcdef0"], 401),
        (["Bearer \udce4"], 401),
        (["Bearer"], 401),
        (["Basic 0123456789abcdef"], 401),
        (["Bearer 0123456789abcdef", "Bearer 0123456789abcdef"], 401),
        ([], 401),
    ],
)
def test_the_token(authorization: list[str], code: int) -> None:
    asking = Asking("GET", "/api/v1/mounts", ["localhost"], authorization=authorization)
    assert status(CLOSED, asking) == code


@pytest.mark.parametrize(("path", "code"), [("/", 200), ("/healthz", 200), ("/readyz", 200), ("/metrics", 401)])
def test_what_is_said_without_the_token(path: str, code: int) -> None:
    assert status(CLOSED, Asking("GET", path, ["localhost"])) == code


@pytest.mark.parametrize(
    ("access", "method", "kind", "code"),
    [
        (OPEN, "GET", "", 200),
        (OPEN, "HEAD", "", 200),
        (OPEN, "POST", "", 415),
        (OPEN, "POST", "text/plain", 415),
        (OPEN, "POST", "application/x-www-form-urlencoded", 415),
        (OPEN, "POST", JSON, 200),
        (OPEN, "DELETE", "", 415),
        (OPEN, "DELETE", JSON, 200),
        (CLOSED, "POST", "text/plain", 200),  # the token shows that it is no stranger
    ],
)
def test_what_a_page_of_a_stranger_can_send_unasked_does_nothing(
    access: Access, method: str, kind: str, code: int
) -> None:
    asking = Asking(method, "/api/v1/probe", ["localhost"], (), ["Bearer 0123456789abcdef"], kind)
    assert status(access, asking) == code


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:9199", ("127.0.0.1", 9199), True),
        ("127.1.2.3:1", ("127.1.2.3", 1), True),
        ("[::1]:65535", ("::1", 65535), True),
        ("0.0.0.0:9199", ("0.0.0.0", 9199), False),
        ("[::]:9199", ("::", 9199), False),
        ("192.168.1.5:9199", ("192.168.1.5", 9199), False),
        ("[::ffff:127.0.0.1]:9199", ("::ffff:127.0.0.1", 9199), False),
        ("127.0.0.1", None, False),
        ("127.0.0.1:0", None, False),
        ("127.0.0.1:65536", None, False),
        ("127.0.0.1.5:9199", None, False),
        ("[127.0.0.1]:9199", None, False),
        ("::1:9199", None, False),
        ("localhost:9199", None, False),
        (":9199", None, False),
        ("", None, False),
    ],
)
def test_where_to_listen(text: str, address: tuple[str, int] | None, loopback: bool) -> None:
    assert listen_address(text) == address
    if address is None or "ffff" not in text:  # whether that one is loopback depends on the Python
        assert is_loopback(text) is loopback


@pytest.mark.parametrize(("header", "host"), [("a.b:1", "a.b"), ("A", "a"), ("[::1]:2", "::1"), ("a:b", None)])
def test_the_host_in_a_header(header: str, host: str | None) -> None:
    assert host_named(header) == host


@pytest.mark.parametrize("name", ["", "a b", "http://a", "a:9199", "-a", "a/", "*", "a" * 254])
def test_what_is_no_host_name(name: str) -> None:
    assert host_fault(name) is not None
    assert host_fault("pve1.example.org") is None
