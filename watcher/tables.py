"""All mount tables, read once: the host's and those of the running containers. Judges nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from watcher import procfs
from watcher.children import Children
from watcher.core.mountinfo import parse
from watcher.core.wording import container_name
from watcher.model import HOST, TableRead, TableUnreadable
from watcher.reading import FileReader
from watcher.settings import Settings
from watcher.sources.containers import ContainerTables


class Tables(NamedTuple):
    """What there is."""

    by_namespace: Mapping[str, TableRead]
    notes: tuple[str, ...]  # what could not be read, in words


async def read_tables(settings: Settings, children: Children) -> Tables:
    """Read them all. Raises OSError if the host's cannot be read."""
    mounts = parse(procfs.read(f"{settings.paths.proc}/self/mountinfo"))
    found, notes = {HOST: TableRead(HOST, mounts)}, []
    if settings.watch.containers:
        containers = ContainerTables(
            proc=settings.paths.proc,
            cgroup=settings.paths.cgroup,
            lxc_config=settings.paths.lxc_config,
            children=children,
            reader=FileReader(children),
            host_mounts=lambda: mounts,
        )
        for news in await containers.look():
            if isinstance(news, TableRead):
                found[news.namespace] = news
            elif isinstance(news, TableUnreadable):
                notes.append(f"{container_name(news.namespace)}: its mount table cannot be read: {news.error}")
        notes += [
            f"{container_name(namespace) if namespace.startswith('ct:') else namespace}: {words}"
            for namespace, words in containers.problems.items()
        ]
    return Tables(found, tuple(notes))
