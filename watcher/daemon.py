"""The service: startup, serve, shutdown. Wires the parts; owns the one task group; does nothing clever."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import aclosing
from functools import partial
from time import monotonic, time
from types import FrameType
from typing import NoReturn

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from watcher import procfs, secrets
from watcher.children import Children, environment
from watcher.configfile import ConfigFile, FileReader, channel_url, may_hang
from watcher.configwatch import ConfigWatch
from watcher.core.incidents import Incidents
from watcher.core.mountinfo import parse
from watcher.core.picture import Picture, merged
from watcher.core.schedule import sweeps_of
from watcher.core.wording import count
from watcher.delivery.sender import Sender, UnresolvedURL
from watcher.model import (
    HOST,
    Change,
    Event,
    Kind,
    Mount,
    NamespaceGone,
    Overslept,
    ProbeReport,
    Subject,
    Superblock,
    TableRead,
    TableUnreadable,
    Tick,
    Transition,
    Verdict,
)
from watcher.narration import Narrator
from watcher.probing.prober import Prober
from watcher.probing.wedged import WedgedNotes
from watcher.rules import rules_of
from watcher.settings import Channel, Settings
from watcher.sources import mount_table
from watcher.sources.containers import ContainerTables
from watcher.store import Identity, Store, StoreError
from watcher.systemd import ServiceManager

log = logging.getLogger(__name__)

HOUSEKEEPING = 5.0
SAVE_EVERY = 86400.0  # seconds; what is new is saved at once
OVERSLEPT = 1.0  # seconds behind the plan: then it is we who were not there
GATHER = 0.01  # seconds: a sweep's reports come in bursts, and each look at what is due costs
_IN_WORDS = {"denied": "not checkable", "missing": "not mounted", "readonly": "read-only"}  # as `--once` has it


class Daemon:
    """One run of the service."""

    def __init__(self, explicit_config: str | None, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._explicit = explicit_config
        self._service = ServiceManager(environ)
        self._mounts: tuple[Mount, ...] = ()
        self._narrator = Narrator()

    # ---- lifecycle

    async def run(self) -> int:
        """Serve until a signal; the exit code."""
        self._wake, self._wanted, self._reloading = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._containers_wanted = asyncio.Event()
        self._watching_containers: anyio.CancelScope | None = None
        self._children = Children()
        try:
            if not await self._startup():
                return 3
            await self._serve()
            return 0
        finally:
            self._service.stopping()
            self._children.close()
            self._service.close()

    async def _startup(self) -> bool:
        """Read the configuration, take up what is known; False if there is no configuration to run on."""
        self._mounts = parse(procfs.read("/proc/self/mountinfo"))
        self._reader = FileReader(self._children)
        file = ConfigFile(self._explicit, self._environ, self._reader)
        self._config = ConfigWatch(file, lambda: self._mounts)
        if (settings := await self._config.first()) is None:
            return False
        self._settings = settings
        try:
            self._mounts = parse(procfs.read(f"{settings.paths.proc}/self/mountinfo"))
        except OSError as e:
            log.error("[paths] proc: %s/self/mountinfo: %s", settings.paths.proc, e.strerror)
            return False
        # CLOCK_MONOTONIC counts from the boot: nothing is stale before the boot has had its time.
        self._picture = Picture(rules_of(settings), grace_until=settings.probe.startup_grace)
        await self._restore(settings.state.path)
        self._incidents = Incidents(join_within=settings.notify.group_wait)
        self._sender = Sender(
            self._incidents,
            self._children,
            host=socket.gethostname().partition(".")[0],
            env=environment(self._environ),
            group_wait=settings.notify.group_wait,
            max_age=settings.notify.max_age,
        )
        self._prober = Prober(
            self._children,
            self._handle,
            notes=WedgedNotes(self._local(settings.paths.runtime), settings.paths.proc),
            proc=settings.paths.proc,
            environ=self._environ,
        )
        self._containers = ContainerTables(
            proc=settings.paths.proc,
            cgroup=settings.paths.cgroup,
            lxc_config=settings.paths.lxc_config,
            children=self._children,
            reader=self._reader,
            host_mounts=lambda: self._mounts,
        )
        self._want_containers(settings.watch.containers)
        self._handle(TableRead(HOST, self._mounts))
        self._prober.recall()
        self._configure_channels()
        self._tell_trouble()
        return True

    async def _serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await tasks.start(self._watch_signals)
            tasks.start_soon(self._read_tables)
            tasks.start_soon(self._read_containers)
            tasks.start_soon(self._probe)
            tasks.start_soon(self._prober.watch_wedged)
            tasks.start_soon(self._sender.run)
            tasks.start_soon(self._watch_config)
            tasks.start_soon(self._keep_house)
            if self._service.watchdog_interval:
                tasks.start_soon(self._feed_watchdog, self._service.watchdog_interval)
            self._service.ready()

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGHUP:
                    log.info("stopping (%s)", signal.Signals(number).name)
                    break
                log.info("reloading the configuration (SIGHUP)")
                self._tasks.start_soon(self._reload)
        # A second signal ends us at once, whatever is still being closed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _end_at_once)
        self._service.stopping()
        self._tasks.cancel_scope.cancel()

    # ---- events in, transitions out

    def _handle(self, event: Event) -> None:
        """Give an event to the tracker and pass on what changed by it."""
        now = monotonic()
        if isinstance(event, TableRead | NamespaceGone):
            if event.namespace == HOST and isinstance(event, TableRead):
                self._mounts = event.mounts
            before = self._picture.tracker.places(event.namespace)
            self._take(self._picture.handle(event, now), now)
            why = event.reason if isinstance(event, NamespaceGone) else "no longer mounted"
            self._narrator.places(before, self._picture.tracker.places(event.namespace), now, gone=why)
            return
        if isinstance(event, TableUnreadable):
            log.error("cannot read the mount table of %s: %s", event.namespace, event.error)
        if isinstance(event, ProbeReport) and event.verdict is Verdict.VOID:
            self._narrator.void(event, now)
        self._take(self._picture.handle(event, now), now)

    def _take(self, transitions: list[Transition], now: float) -> None:
        for transition in transitions:
            self._narrator.transition(transition)
            # What was told is followed up, whatever the rules say by now.
            if transition.change is not Change.BEGAN or transition.kind in (Kind.WATCHER, *self._settings.notify.on):
                self._incidents.apply(transition, now=now, wall=time())
                self._sender.kick()
        self._wake.set()

    async def _read_tables(self) -> None:
        async for event in mount_table.tables(self._settings.paths.proc, self._wanted):
            self._handle(event)

    async def _read_containers(self) -> None:
        """While the rules want containers; then they are forgotten."""
        while True:
            await self._containers_wanted.wait()
            with anyio.CancelScope() as self._watching_containers:
                async with aclosing(self._containers.events()) as events:
                    async for event in events:
                        self._handle(event)
                        await anyio.lowlevel.checkpoint()  # two hundred tables are not one turn of the loop
            for namespace in self._picture.tracker.namespaces():
                if namespace != HOST:
                    self._handle(NamespaceGone(namespace, "no longer watched"))

    def _want_containers(self, wanted: bool) -> None:
        if wanted:
            self._containers_wanted.set()
            return
        self._containers_wanted.clear()
        if self._watching_containers is not None:
            self._watching_containers.cancel()

    async def _probe(self) -> None:
        """Start what is due, when it is due."""
        proc = self._settings.paths.proc
        while True:
            self._wake.clear()
            now = monotonic()
            if rereads := self._picture.take_rereads():
                if HOST in rereads:
                    self._wanted.set()
                self._containers.want(rereads - {HOST})
            due = self._picture.next_due()
            if due is not None and due <= now:
                if now - due > OVERSLEPT:
                    self._prober.look_at_wedged()
                    self._picture.handle(Overslept(), now)
                self._take(self._picture.handle(Tick(), now), now)
                if self._picture.wants_use(now):
                    self._picture.handle(mount_table.use(proc), now)
                for probes in sweeps_of(self._picture.start_due(now)):
                    self._tasks.start_soon(self._prober.sweep, probes)
                await anyio.lowlevel.checkpoint()
                continue
            with anyio.move_on_after(None if due is None else due - now):
                await self._wake.wait()
                await anyio.sleep(GATHER)

    # ---- configuration

    async def _watch_config(self) -> None:
        async for _ in self._config.changes():
            await self._reload()

    async def _reload(self) -> None:
        async with self._reloading:
            self._service.reloading()
            if (settings := await self._config.reload()) is not None:
                self._apply(settings)
            self._tell_trouble()
            self._service.ready()

    def _apply(self, settings: Settings) -> None:
        if (settings.state, settings.paths) != (self._settings.state, self._settings.paths):
            log.warning("[state] and [paths] take effect at the next start")
        self._settings = settings
        now, tracker = monotonic(), self._picture.tracker
        before = [(namespace, tracker.places(namespace)) for namespace in tracker.namespaces()]
        self._take(self._picture.configure(rules_of(settings), now), now)
        for namespace, places in before:
            self._narrator.places(places, tracker.places(namespace), now, gone="no longer watched")
        self._configure_channels()
        self._want_containers(settings.watch.containers)

    def _configure_channels(self) -> None:
        notify = self._settings.notify
        self._incidents.join_within = notify.group_wait
        channels = {c.name: partial(self._resolve, c) for c in notify.channels}
        self._sender.configure(channels, group_wait=notify.group_wait, max_age=notify.max_age)
        if not channels:
            log.warning("no channel in [[notify.channels]]: nobody is told, this log apart")

    async def _resolve(self, channel: Channel) -> str:
        try:
            return await channel_url(channel, self._environ, self._reader, self._mounts)
        except secrets.SecretError as e:
            raise UnresolvedURL(str(e)) from None

    def _tell_trouble(self) -> None:
        """Open or end the incident that says that the configuration cannot be used."""
        now, trouble = monotonic(), self._config.trouble
        change = Change.BEGAN if trouble else Change.ENDED
        subject = Subject(Superblock("", "", "", "configuration"), (), "")
        self._take([Transition(Kind.WATCHER, change, subject, now, now, error=trouble)], now)

    # ---- what else must be done now and then

    async def _keep_house(self) -> None:
        while True:
            self._service.status(self._status())
            self._narrator.problems(merged(self._containers.problems, self._picture.problems()))
            await self._save()
            await anyio.sleep(HOUSEKEEPING)

    async def _feed_watchdog(self, interval: float) -> None:
        # From the loop that does the watching: if that stands still, so does this.
        while True:
            self._service.alive()
            await anyio.sleep(interval)

    def _status(self) -> str:
        """One line for `systemctl status`."""
        tally: dict[str, int] = {}
        states = self._picture.snapshot()
        for state in states:
            tally[state.status] = tally.get(state.status, 0) + 1
        parts = [
            f"{number} {_IN_WORDS.get(status, status)}"
            for status, number in sorted(tally.items(), key=lambda item: -item[1])
        ]
        text = f"watching {count(len(states), 'mount')}"
        if containers := len(self._picture.tracker.namespaces()) - 1:
            text += f" on the host and in {count(containers, 'container')}"
        text += f": {', '.join(parts)}" if parts else ""
        if self._prober.wedged:
            text += f"; {count(len(self._prober.wedged), 'probe')} hanging"
        if failing := self._sender.failing:
            text += f"; cannot tell {', '.join(failing)}"
        return text + ("; configuration unusable" if self._config.trouble else "")

    def _local(self, path: str) -> str | None:
        """The path, if it is on no file system that may hang."""
        if not may_hang(path, self._mounts):
            return path
        log.warning("%s lies on a network or FUSE file system; going on without it", path)
        return None

    async def _restore(self, path: str) -> None:
        self._saved, self._saved_at = set[Identity](), monotonic()
        self._store = Store(path) if self._local(path) else None
        if self._store is None:
            return
        try:
            self._saved = await anyio.to_thread.run_sync(self._store.load)
        except (StoreError, RuntimeError) as e:  # RuntimeError: no thread to be had
            log.warning("state: %s; going on without it", e)
        self._picture.tracker.restore_answered(self._saved)

    async def _save(self) -> None:
        """Keep which mounts have ever answered."""
        answered = self._picture.tracker.answered()
        if self._store is None or (answered <= self._saved and monotonic() - self._saved_at < SAVE_EVERY):
            return
        self._saved, self._saved_at = self._saved | answered, monotonic()
        try:
            await anyio.to_thread.run_sync(self._store.save, answered, abandon_on_cancel=True)
        except (StoreError, RuntimeError) as e:
            log.warning("state: %s; going on without it", e)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def run(explicit_config: str | None, environ: Mapping[str, str]) -> int:
    """Run the service to its end; the exit code."""
    return asyncio.run(Daemon(explicit_config, environ).run())
