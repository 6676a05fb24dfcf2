"""The service's configuration over its life: the first reading, reloads, and what to run on when it cannot be used.

The guard does not fall asleep over a typo: unknown keys are warned of, a file that cannot be used
leaves the settings as they were, and at the start the last good copy stands in for it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence

from watcher.config import ConfigError
from watcher.configfile import ConfigFile, LastGood
from watcher.filewatch import occasions
from watcher.model import Mount
from watcher.reading import may_hang
from watcher.settings import Settings

log = logging.getLogger(__name__)


class ConfigWatch:
    """Reads the configuration now and whenever it changes."""

    def __init__(self, file: ConfigFile, mounts: Callable[[], Sequence[Mount]]) -> None:
        """`mounts`: our mount table as it is, which tells where the file may be read from."""
        self._file = file
        self._mounts = mounts
        self._copy = LastGood(file.defaults.state.path, file.path)
        self._seen: str | None = None  # the text as last read, good or not
        self._unreadable = False  # when last looked at
        self.trouble = ""  # why we do not run on the file as it is; empty if we do

    async def first(self) -> Settings | None:
        """The file's settings, else the last good copy's, else None."""
        try:
            return await self._accept()
        except ConfigError as e:
            problems = e.problems
        for problem in problems:
            log.error("%s", problem)
        if (text := self._copy.load() if self._copy_is_local() else None) is None:
            log.error("no configuration to run on: correct it, or remove it to run on the defaults")
            return None
        try:
            settings = self._file.parse(text, name=str(self._copy.path)).settings
        except ConfigError as e:
            log.error("the last good copy cannot be used either: %s", e)
            return None
        log.error("running on the last good copy, %s", self._copy.path)
        self.trouble = f"Running on the last good configuration. {problems[0]}"
        return settings

    async def reload(self) -> Settings | None:
        """The file's settings as they are now; None, and `trouble`, if it cannot be used."""
        try:
            settings = await self._accept()
        except ConfigError as e:
            for problem in e.problems:
                log.error("%s", problem)
            log.error("the configuration stays as it was")
            self.trouble = f"Running on the configuration as it was before. {e.problems[0]}"
            return None
        log.info("configuration loaded: %s", self._file.path if self._seen is not None else "built-in defaults")
        return settings

    async def changes(self) -> AsyncIterator[None]:
        """An item each time the file differs from what was last read: at once by inotify, within a minute without."""
        async for _ in occasions(self._file.path, self._mounts):
            if await self._differs():
                log.info("the configuration has changed: %s", self._file.path)
                yield

    def _copy_is_local(self) -> bool:
        return not may_hang(str(self._copy.path), self._mounts())

    async def _differs(self) -> bool:
        try:
            return await self._file.text(self._mounts()) != self._seen or self._unreadable
        except ConfigError:
            return not self._unreadable

    async def _accept(self) -> Settings:
        """Read and parse the file, and keep a copy of it if it is good. Raises ConfigError."""
        mounts = self._mounts()
        self._unreadable = True
        text = await self._file.text(mounts)
        if text is None and self._seen is not None:
            # Not a wish for the defaults: they have no channels, and a cluster file system may be away for a moment.
            raise ConfigError([f"{self._file.path}: is gone; put it back, or restart to run on the defaults"])
        self._seen, self._unreadable = text, False
        parsed = self._file.parse(text)
        for warning in parsed.warnings + self._file.permission_warnings(parsed.settings, mounts):
            log.warning("%s", warning)
        self.trouble = ""
        if text is not None and self._copy_is_local():
            try:
                self._copy.save(text)
            except OSError as e:
                log.warning("cannot keep a copy of the configuration: %s", e)
        return parsed.settings
