"""The service: startup, serve, shutdown. Wires the parts; owns the one task group; does nothing clever."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic, time
from types import FrameType
from typing import NoReturn

import anyio
import anyio.abc
import anyio.lowlevel

from watcher import procfs, secrets
from watcher.answering import Answering
from watcher.children import Children, environment
from watcher.configfile import ConfigFile, secret_url
from watcher.configwatch import ConfigWatch
from watcher.continuity import Continuity
from watcher.core import vitals
from watcher.core.figures import Figures
from watcher.core.mountinfo import parse
from watcher.core.picture import Picture
from watcher.core.wording import count
from watcher.delivery.channel import UnresolvedURL
from watcher.delivery.heartbeat import Heartbeat
from watcher.delivery.sender import Sender, local_time
from watcher.doors import open_doors
from watcher.growing import Growing
from watcher.instance import Instance, Occupied
from watcher.introspection import Introspection
from watcher.investigating import BURST, Investigator
from watcher.measuring import Measuring
from watcher.model import (
    Change,
    Kind,
    Mount,
    Transition,
)
from watcher.reading import FileReader, may_hang
from watcher.rules import rules_of
from watcher.settings import Addressed, Settings
from watcher.silencing import Silencing
from watcher.store import Store
from watcher.systemd import ServiceManager
from watcher.watching import Watching

log = logging.getLogger(__name__)

HOUSEKEEPING = 5.0


class Daemon:
    """One run of the service."""

    def __init__(self, explicit_config: str | None, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._explicit = explicit_config
        self._service = ServiceManager(environ)
        self._host = socket.gethostname().partition(".")[0]
        self._answering: Answering | None = None
        self._mounts: Callable[[], Sequence[Mount]] = tuple  # the host's, as last read

    # ---- lifecycle

    async def run(self) -> int:
        """Serve until a signal; the exit code."""
        self._reloading = asyncio.Lock()
        self._children = Children()
        self._instance = Instance()
        try:
            if not await self._startup():
                return 3
            await self._serve()
            await self._store.close()
            return 0
        finally:
            self._service.stopping()
            self._children.close()
            self._service.close()
            self._instance.release()

    async def _startup(self) -> bool:
        """Read the configuration, take up what is known; False if there is no configuration to run on."""
        mounts = parse(procfs.read("/proc/self/mountinfo"))
        self._mounts = lambda: mounts
        self._reader = FileReader(self._children)
        file = ConfigFile(self._explicit, self._environ, self._reader)
        self._config = ConfigWatch(file, lambda: self._mounts())
        if (settings := await self._config.first()) is None:
            return False
        self._settings = settings
        try:
            mounts = parse(procfs.read(f"{settings.paths.proc}/self/mountinfo"))
        except OSError as e:
            log.error("[paths] proc: %s/self/mountinfo: %s", settings.paths.proc, e.strerror)
            return False
        if not await self._is_only_one():
            return False
        # CLOCK_MONOTONIC counts from the boot: nothing is stale before the boot has had its time.
        self._picture = Picture(rules_of(settings), grace_until=settings.probe.startup_grace)
        self._figures = Figures()
        boot = procfs.boot_id(settings.paths.proc)
        self._store = Store(self._local(settings.state.path), boot=boot)
        self._continuity = Continuity(self._store, self._picture)
        self._incidents = await self._continuity.restore(boot)
        self._introspection = Introspection(self._incidents, lambda t: self._take([t], t.at))
        self._investigator = Investigator(
            self._children,
            self._reader,
            states=self._picture.tracker.kin,
            mounts=lambda: self._mounts(),
            containers=self._picture.missing.containers,
            paths=settings.paths,
        )
        self._growing = Growing(
            self._incidents,
            self._children,
            tables=self._picture.table,
            chosen=lambda: rules_of(self._settings).watched,
            changed=self._has_grown,
        )
        self._sender = Sender(
            self._incidents,
            self._children,
            host=self._host,
            env=environment(self._environ),
            group_wait=settings.notify.group_wait,
            max_age=settings.notify.max_age,
            recorded=self._store.recorded,
            found=self._investigator.found,
            attempted=self._figures.delivery,
        )
        self._continuity.take_up(self._incidents, self._sender)
        self._silencing = Silencing(self._store, self._silences_changed, local=local_time)
        self._silencing.configure(quiet.window() for quiet in settings.notify.quiet)
        await self._silencing.load()
        self._heartbeat = Heartbeat(self._verdict)
        self._watching = Watching(
            settings,
            mounts,
            picture=self._picture,
            take=self._take,
            children=self._children,
            reader=self._reader,
            runtime=self._local(settings.paths.runtime),
            environ=self._environ,
            figures=self._figures,
        )
        self._mounts = lambda: self._watching.mounts
        self._watching.begin()
        self._measuring = Measuring(
            self._figures,
            states=self._picture.snapshot,
            channels=self._sender.progress,
            healthy=lambda: self._verdict().healthy,
            hanging=lambda: self._watching.hanging,
            incidents=self._incidents,
            silences=self._silencing.active,
            children=self._children,
        )
        self._configure_channels()
        self._tell_trouble()
        return await self._open_doors()

    async def _is_only_one(self) -> bool:
        """Whether no other service runs on the same files; held from here on."""
        wanted = [f"{self._settings.paths.runtime}/watcher.lock"]
        if self._settings.status.socket:
            wanted.append(f"{self._settings.status.socket}.lock")
        try:
            await self._instance.claim(filter(self._local, wanted), self._settings.paths.proc)
        except Occupied as e:
            log.error("%s", e)
            return False
        return True

    async def _open_doors(self) -> bool:
        """Listen for other commands, and on a port; False if another process listens on our socket."""
        status = self._settings.status
        path = status.socket if status.socket and self._local(status.socket) is not None else ""
        self._server = self._token = None
        if not path and not status.listen:
            return True
        self._answering = Answering(
            host=self._host,
            watching=self._watching,
            incidents=self._incidents,
            investigator=self._investigator,
            sender=self._sender,
            silencing=self._silencing,
            store=self._store,
            verdict=self._verdict,
            status=self._status,
            measure=self._measuring.measure,
        )
        try:
            doors = await open_doors(status, path, self._answering, self._reader, lambda: self._mounts())
        except Occupied as e:
            log.error("%s", e)
            return False
        self._server, self._token = doors
        return True

    async def _serve(self) -> None:
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await tasks.start(self._watch_signals)
            tasks.start_soon(self._watching.run)
            tasks.start_soon(self._sender.run)
            tasks.start_soon(self._investigator.run)
            tasks.start_soon(self._growing.run)
            tasks.start_soon(self._silencing.run)
            tasks.start_soon(self._heartbeat.run)
            if self._server is not None:
                tasks.start_soon(self._server.run)
            if self._token is not None:
                tasks.start_soon(self._token.run)
            tasks.start_soon(self._store.run)
            tasks.start_soon(
                self._continuity.close_what_is_gone,
                self._settings.probe.startup_grace,
                lambda: self._mounts(),
            )
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
        self._sender.stop()
        self._tasks.cancel_scope.cancel()

    # ---- what has changed

    def _take(self, transitions: list[Transition], now: float) -> None:
        wall = time()
        for transition in transitions:
            self._figures.transition(transition)
            self._watching.narrator.transition(transition)
            self._store.note(transition, at := wall - (now - transition.at))
            if self._answering is not None:
                self._answering.changed(transition, at)
            # What was told is followed up, whatever the rules say by now.
            begins = transition.change is Change.BEGAN or (
                transition.change is Change.RESUMED and not self._incidents.holds(transition)
            )
            if not begins or transition.kind in (Kind.WATCHER, *self._settings.notify.on):
                incident = self._incidents.apply(transition, now=now, wall=wall)
                if begins and incident is not None and self._sender.channels:
                    self._investigator.look(incident, within=BURST)  # known by the time that it is told
                self._growing.look()
                self._sender.kick()

    def _silences_changed(self) -> None:
        self._sender.kick()
        if self._answering is not None:
            self._answering.silences_changed()

    def _has_grown(self) -> None:
        """Something is written under a mount point."""
        self._sender.kick()
        if self._answering is not None:
            self._answering.grown()

    def _verdict(self) -> vitals.Verdict:
        """Whether we work ourselves."""
        return vitals.verdict(
            self._watching.seen.signs(
                monotonic(), next_due=self._picture.next_due(), deliveries=self._sender.progress()
            )
        )

    # ---- configuration

    async def _watch_config(self) -> None:
        async for _ in self._config.changes():
            await self._reload()

    async def _reload(self) -> None:
        async with self._reloading:
            self._service.reloading()
            if (settings := await self._config.reload()) is not None:
                self._apply(settings)
            if self._token is not None:
                await self._token.look()
            self._tell_trouble()
            self._service.ready()

    def _apply(self, settings: Settings) -> None:
        before_start = (self._settings.state, self._settings.paths, self._settings.status)
        if (settings.state, settings.paths, settings.status) != before_start:
            log.warning("[state], [paths] and [status] take effect at the next start")
        self._settings = settings
        self._watching.configure(settings)
        self._silencing.configure(quiet.window() for quiet in settings.notify.quiet)
        self._configure_channels()

    def _configure_channels(self) -> None:
        notify = self._settings.notify
        self._incidents.join_within = notify.group_wait
        channels = {c.name: partial(self._resolve, c) for c in notify.channels}
        self._sender.configure(
            channels,
            group_wait=notify.group_wait,
            max_age=notify.max_age,
            repeat_interval=notify.repeat_interval,
            silenced=self._silencing.silenced,
        )
        heartbeat = self._settings.heartbeat
        self._heartbeat.configure(partial(self._resolve, heartbeat) if heartbeat.given else None, heartbeat.interval)
        if not channels:
            log.warning("no channel in [[notify.channels]]: nobody is told, this log apart")

    async def _resolve(self, section: Addressed) -> str:
        try:
            return await secret_url(section, self._environ, self._reader, self._mounts())
        except secrets.SecretError as e:
            raise UnresolvedURL(str(e)) from None

    def _tell_trouble(self) -> None:
        """Say what of the watcher itself is not in order, and what is again."""
        now = monotonic()
        self._introspection.note("configuration", self._config.trouble, now)
        self._introspection.note("state", self._store.trouble, now)
        self._introspection.channels(self._sender.unreachable(), self._sender.channels, now)

    # ---- what else must be done now and then

    async def _keep_house(self) -> None:
        while True:
            self._service.status(self._status())
            self._watching.note_problems()
            self._watching.latencies.keep(self._picture.tracker.superblocks())
            self._tell_trouble()
            self._continuity.look_at_the_clock()
            if self._incidents.settle(time()):
                self._sender.kick()
            self._store.changed()
            await anyio.sleep(HOUSEKEEPING)

    async def _feed_watchdog(self, interval: float) -> None:
        # From the loop that does the watching: if that stands still, so does this.
        while True:
            self._service.alive()
            await anyio.sleep(interval)

    def _status(self) -> str:
        """One line for `systemctl status`."""
        text = self._watching.summary()
        if failing := self._sender.failing:
            text += f"; cannot tell {', '.join(failing)}"
        if silences := len(self._silencing.active()):
            text += f"; {count(silences, 'silence')}"
        text += "; configuration unusable" if self._config.trouble else ""
        return text + (f"; {trouble}" if (trouble := self._store.trouble) else "")

    def _local(self, path: str) -> str | None:
        """The path, if it is on no file system that may hang."""
        if not may_hang(path, self._mounts()):
            return path
        log.warning("%s lies on a network or FUSE file system; going on without it", path)
        return None


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)


def run(explicit_config: str | None, environ: Mapping[str, str]) -> int:
    """Run the service to its end; the exit code."""
    return asyncio.run(Daemon(explicit_config, environ).run())
