"""What Prometheus and Alertmanager make of the service: the real ones, of Debian's packages."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.fakes.containers import Containers
from tests.fakes.fuse import HANG, OK
from tests.fakes.ports import LOOPBACK, free_port
from tests.fakes.receivers import GotifyReceiver
from tests.integration.prometheus import (
    CONTRIB,
    Webhook,
    alertmanager,
    prometheus,
    run,
)
from tests.integration.service import LIMIT, POLL, Service, Site

NODES = 5
HOSTILE = [b'a"b\\', b"new\nline", b"\xff\xfe", b"} 1\n# TYPE x counter", b"\xe2\x80\xa8@everyone", b"x" * 250]


# ---- what is in contrib/prometheus


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("promtool", ("check", "rules", CONTRIB / "mountwatch.rules.yml")),
        ("promtool", ("test", "rules", CONTRIB / "mountwatch.rules.test.yml")),
        ("promtool", ("check", "config", "--syntax-only", CONTRIB / "prometheus.example.yml")),
        ("amtool", ("check-config", CONTRIB / "alertmanager.example.yml")),
    ],
)
def test_what_is_contributed_is_valid(tool: str, arguments: tuple[str | Path, ...]) -> None:
    done = run(tool, *arguments)
    assert done.returncode == 0, done


def asked_by_the_dashboard() -> list[str]:
    board = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(asked) > len(board["panels"])
    return asked


def test_the_dashboard_asks_what_prometheus_understands(tmp_path: Path) -> None:
    asked = asked_by_the_dashboard()
    # Rules are where promtool looks at expressions without a server.
    rules = [{"record": f"panel{n}", "expr": expr.replace("$instance", ".*")} for n, expr in enumerate(asked)]
    file = tmp_path / "rules.json"
    file.write_text(json.dumps({"groups": [{"name": "board", "rules": rules}]}))
    done = run("promtool", "check", "rules", file)
    assert done.returncode == 0, done


# ---- one service


async def scrape(site: Site) -> str:
    connector = aiohttp.UnixConnector(str(site.socket))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return await response.text()


def found(text: str, name: str, **labels: str) -> list[Sample]:
    """The samples of this name with at least these labels."""
    return [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def values(text: str, name: str, **labels: str) -> list[float]:
    return [sample.value for sample in found(text, name, **labels)]


async def scrape_until(service: Service, site: Site, name: str, value: float, **labels: str) -> str:
    """The first scrape in which this one sample has this value."""
    text = ""
    try:
        async with asyncio.timeout(LIMIT):
            while values(text := await scrape(site), name, **labels) != [value]:
                await asyncio.sleep(POLL)
    except TimeoutError:
        raise AssertionError(f"not within {LIMIT:g} s: {name} {labels} is {value}\n{text}\n{service.log}") from None
    return text


def promtool_takes(text: str) -> None:
    done = run("promtool", "check", "metrics", given=text.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.kernel
async def test_what_a_service_exposes(site: Site, lxc: Containers) -> None:
    """Promtool takes it, whatever mounts are called; it says what happened, and forgets what is gone."""
    nas, last = site.mount("nas", fstype="fuse.sshfs", source="root@nas01:/a"), site.mount("last")
    ct = lxc.start(name="liar")
    for name in HOSTILE:
        ct.fuse.mount(b"/mnt/" + name, source="nas01:\n" + 300 * "y", fstype="fuse.sshfs")
    async with GotifyReceiver() as gotify:
        site.write_config({"ops": gotify.url}, lxc=lxc)
        async with site.service() as service:
            await service.wait_serving()
            await service.wait_until(site.socket.exists, "it listens")
            of_ct, of_nas = {"namespace": ct.namespace}, {"namespace": "host", "mountpoint": site.place("nas")}
            text = await scrape_until(service, site, "mountwatch_mounts", len(HOSTILE), state="ok", **of_ct)
            promtool_takes(text)
            listed = [sample.labels for sample in found(text, "mountwatch_mount_readonly", **of_ct)]
            assert len(listed) == len(HOSTILE)
            assert {labels["server"] for labels in listed} == {""}  # the host's is none of its own
            seen = [text.replace("@\u2060", "@") for labels in listed for text in labels.values()]
            assert all(text.isprintable() and len(text) <= 200 for text in seen)

            await scrape_until(service, site, "mountwatch_mount_state", 1, state="ok", **of_nas)
            nas.set(HANG)
            await scrape_until(service, site, "mountwatch_probes_hanging", 1)
            await gotify.wait_for(1)
            text = await scrape_until(
                service, site, "mountwatch_deliveries_total", 1, channel="ops", result="delivered"
            )
            promtool_takes(text)
            assert values(text, "mountwatch_mount_state", server="nas01", state="stale") == [1]
            assert values(text, "mountwatch_transitions_total", kind="stale", change="began") == [1]
            assert values(text, "mountwatch_incidents_open") == [1]
            nas.set(OK)
            text = await scrape_until(service, site, "mountwatch_incidents_open", 0)
            assert values(text, "mountwatch_mount_probe_duration_seconds_count", **of_nas)[0] > 0
            assert values(text, "mountwatch_healthy") == [1]

            last.unmount()
            await service.wait_for_line("no longer mounted")
            assert found(await scrape(site), "mountwatch_mount_readonly", mountpoint=site.place("last")) == []
            assert await service.end() == 0


# ---- many nodes


def changed(text: str, *changes: tuple[str, str]) -> str:
    """An example of contrib/prometheus, with each of these expressions replaced, wherever it matches."""
    for pattern, replacement in changes:
        text, times = re.subn(pattern, replacement, text)
        assert times, pattern
    return text


def scraping(ports: Sequence[int], token: Path, alerts: int) -> str:
    """The example for Prometheus, for these nodes, and in a hurry."""
    nodes = "".join(
        f'\n      - {{targets: ["{LOOPBACK}:{port}"], labels: {{instance: node{n}}}}}' for n, port in enumerate(ports)
    )
    return changed(
        (CONTRIB / "prometheus.example.yml").read_text(),
        (r"_interval: 15s", "_interval: 1s"),
        (r"rule_files: \[", f"rule_files: [{CONTRIB}/"),
        (r":9093", f":{alerts}"),
        (r"credentials_file: .*", f"credentials_file: {token}"),
        (r"\n      - targets: \[.*", nodes),
    )


@pytest.mark.kernel
async def test_a_server_lost_by_five_nodes_is_one_message(site: Site, tmp_path: Path) -> None:
    names = [f"node{n}" for n in range(NODES)]
    mounts = [site.mount(name, fstype="fuse.sshfs", source="root@nas01:/export") for name in names]
    [scrapes, alerts, *ports] = [free_port() for _ in range(2 + NODES)]
    token = site.path / "token"
    site.write(token, "0123456789abcdef0123456789abcdef\n")
    async with AsyncExitStack() as stack:
        webhook = await stack.enter_async_context(Webhook())
        telling = changed(
            (CONTRIB / "alertmanager.example.yml").read_text(),
            (r"group_wait: 45s", "group_wait: 8s"),
            (r"group_interval: .*", "group_interval: 1s"),
            (r"url: .*", f"url: {webhook.url}"),
        )
        manager = await stack.enter_async_context(alertmanager(tmp_path, telling, alerts))
        server = await stack.enter_async_context(prometheus(tmp_path, scraping(ports, token, alerts), scrapes))
        services = []
        for name, port in zip(names, ports, strict=True):
            config = site.path / f"{name}.toml"
            text = site.config_text(state=name, exclude=[site.place(n) for n in names if n != name])
            door = f'[status]\nlisten = "{LOOPBACK}:{port}"\ntoken_file = "{token}"'
            site.write(config, text.replace("[status]", door))
            services.append(await stack.enter_async_context(site.service(config=config)))
        well = urlencode({"query": 'sum(mountwatch_mount_state{server="nas01",state="ok"})'})
        await server.until(
            f"/api/v1/query?{well}",
            lambda answer: [each["value"][1] for each in answer["data"]["result"]] == [str(NODES)],
            "all nodes are well",
        )
        for mounted in mounts:
            mounted.set(HANG)

        [message] = await webhook.wait_for(1)
        assert message["status"] == "firing"
        assert message["groupLabels"] == {"server": "nas01"}
        assert sorted(alert["labels"]["instance"] for alert in message["alerts"]) == names
        assert {alert["labels"]["alertname"] for alert in message["alerts"]} == {"MountStale"}
        # It looks each second whether there is anything more to tell, and asks its log whether it was told.
        asked = number_of(await manager.text("/metrics"), "alertmanager_nflog_queries_total")
        await manager.until_text(
            "/metrics",
            lambda text: number_of(text, "alertmanager_nflog_queries_total") >= asked + 3,
            "it looks three times more",
        )
        assert len(webhook.received) == 1
        for expression in asked_by_the_dashboard():
            if "mountwatch_deliveries_total" in expression or "mountwatch_channel" in expression:
                continue  # these nodes have no channels
            query = urlencode({"query": expression.replace("$instance", "node0|node1")})
            await server.until(f"/api/v1/query?{query}", lambda answer: answer["data"]["result"], expression)
        for mounted in mounts:
            mounted.set(OK)
        for service in services:
            await service.wait_for_line("stale no more")
            assert await service.end() == 0


def number_of(text: str, name: str) -> float:
    [value] = values(text, name)
    return value


# ---- what the contributed files and the README name is there


@pytest.mark.parametrize("path", ["mountwatch.rules.yml", "grafana-dashboard.json"])
def test_only_metrics_that_exist_are_asked_for(path: str) -> None:
    exposed = set(
        re.findall(
            r"^\| `((?:mountwatch|process)_\w+)` \|", (CONTRIB.parents[1] / "README.md").read_text(), re.MULTILINE
        )
    )
    asked = set(re.findall(r"\b(?:mountwatch|process)_[a-z_]+", (CONTRIB / path).read_text()))
    unknown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} - exposed
    assert unknown == set()
