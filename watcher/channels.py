"""`check-config` and `test-notify`: every channel tried once, and told about in words."""

from __future__ import annotations

import asyncio
import difflib
import socket
from collections.abc import Callable, Mapping

from watcher import procfs, secrets
from watcher.children import Children, environment
from watcher.config import ConfigError
from watcher.configfile import ConfigFile, secret_token, secret_url
from watcher.core.mountinfo import parse
from watcher.delivery.couriers import Courier, Delivery
from watcher.model import Mount
from watcher.reading import FileReader
from watcher.secrets import SecretError
from watcher.settings import Channel

Say = Callable[[str], object]


class _Channels:
    """The channels of a configuration, and what it takes to reach them."""

    def __init__(self, explicit: str | None, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.children = Children()
        self.reader = FileReader(self.children)
        self.file = ConfigFile(explicit, environ, self.reader)
        self.mounts: tuple[Mount, ...] = parse(procfs.read("/proc/self/mountinfo"))

    async def url(self, channel: Channel) -> str:
        return await secret_url(channel, self.environ, self.reader, self.mounts)

    def courier(self) -> Courier:
        return Courier(self.children, environment(self.environ))


async def check(explicit: str | None, environ: Mapping[str, str], say: Say) -> list[str]:
    """Print the settings in force, warnings and channels; the problems, one line each."""
    tools = _Channels(explicit, environ)
    try:
        text = await tools.file.text(tools.mounts)
        parsed = tools.file.parse(text, strict=True)
        say(f"# {tools.file.path}" if text is not None else f"# no {tools.file.path}: built-in defaults")
        say(secrets.describe(parsed.settings))
        say("")
        for warning in parsed.warnings + tools.file.permission_warnings(parsed.settings, tools.mounts):
            say(f"warning: {warning}")
        problems = []
        courier = tools.courier()
        for channel in parsed.settings.notify.channels:
            try:
                service, error = await courier.check(await tools.url(channel))
            except SecretError as e:
                service, error = "", str(e)
            say(f"channel {channel.name}: {error or f'{service}, accepted'}")
            if error:
                problems.append(error if channel.name in error else f"channel {channel.name}: {error}")
        if not parsed.settings.notify.channels:
            say("no channels: nobody will be told")
        courier.close()
        if (token_file := parsed.settings.status.token_file) is not None:
            try:
                await secret_token(token_file, tools.reader, tools.mounts)
            except SecretError as e:
                problems.append(str(e))
        return problems
    except ConfigError as e:
        return e.problems
    finally:
        tools.children.close()


async def send_test(explicit: str | None, environ: Mapping[str, str], only: str | None, say: Say) -> int:
    """Send a test message to one channel or all; how many failed. Raises ConfigError."""
    tools = _Channels(explicit, environ)
    try:
        settings = tools.file.parse(await tools.file.text(tools.mounts)).settings
        chosen = _choose(settings.notify.channels, only, tools.file.path)
        deliveries = await asyncio.gather(*(_try(tools, channel) for channel in chosen))
        for channel, delivery in zip(chosen, deliveries, strict=True):
            say(f"{channel.name}: {'sent' if delivery.ok else f'FAILED: {delivery.error}'}")
        return sum(not delivery.ok for delivery in deliveries)
    finally:
        tools.children.close()


def _choose(channels: tuple[Channel, ...], only: str | None, path: str) -> list[Channel]:
    if not channels:
        raise ConfigError([f"{path}: no channels; add a [[notify.channels]] section with a name and a url"])
    if only is None:
        return list(channels)
    chosen = [c for c in channels if c.name == only]
    if not chosen:
        names = [c.name for c in channels]
        near = difflib.get_close_matches(only, names, 1)
        hint = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names)}"
        raise ConfigError([f'{path}: no channel "{only}"; {hint}'])
    return chosen


async def _try(tools: _Channels, channel: Channel) -> Delivery:
    from watcher.core.messages import test_message  # check-config needs none

    courier = tools.courier()
    try:
        url = await tools.url(channel)
        return await courier.send(url, test_message(socket.gethostname().partition(".")[0], channel.name))
    except SecretError as e:
        return Delivery(False, str(e))
    finally:
        courier.close()
