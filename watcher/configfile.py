"""The configuration file on disk: where it is, its text, and the last copy of it that was good.

What its text means is `config`'s. A file on a network or FUSE file system (/etc/pve is one) is read by `reading`, in
a child with a time limit, never here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from watcher import config, secrets
from watcher.config import ConfigError, Parsed
from watcher.files import read_regular, write_private
from watcher.model import Mount
from watcher.reading import SIZE_LIMIT, FileReader, may_hang
from watcher.settings import Addressed, Settings


async def secret_url(
    section: Addressed, environ: Mapping[str, str], reader: FileReader, mounts: Sequence[Mount]
) -> str:
    """The URL of a channel or the heartbeat, wherever the file that holds it lies. Raises SecretError."""
    content = None
    if section.url_file is not None and may_hang(section.url_file, mounts):
        try:
            content = await reader.read(section.url_file, mounts)
        except OSError as e:
            raise secrets.SecretError(f"{section.url_file}: {e.strerror or e}") from None
    return secrets.resolve_url(section, environ, content)


async def secret_token(path: str, reader: FileReader, mounts: Sequence[Mount]) -> str:
    """The token of the status server, wherever the file that holds it lies. Raises SecretError."""
    content = None
    if may_hang(path, mounts):
        try:
            content = await reader.read(path, mounts)
        except OSError as e:
            raise secrets.SecretError(f"[status] token_file: {path}: {e.strerror or e}") from None
    return secrets.token_in(path, content)


class ConfigFile:
    """Reads the settings, strictly or as the service does."""

    def __init__(self, explicit: str | None, environ: Mapping[str, str], reader: FileReader) -> None:
        candidate = config.search_path(environ, explicit)
        # Children run in "/", and a message should name the file whoever reads it later.
        path = candidate.path if candidate.path.startswith("/") else os.path.abspath(candidate.path)
        self._candidate = candidate._replace(path=path)
        self._defaults = config.defaults_for_user(os.geteuid(), environ)
        self._reader = reader

    @property
    def path(self) -> str:
        return self._candidate.path

    @property
    def defaults(self) -> Settings:
        return self._defaults

    async def text(self, mounts: Sequence[Mount]) -> str | None:
        """The file's text, None where there is no file and none was asked for. Raises ConfigError."""
        try:
            content = await self._reader.read(self.path, mounts)
        except FileNotFoundError:
            if self._candidate.required:
                raise self._candidate.absent() from None
            return None
        except OSError as e:
            raise ConfigError([f"{self.path}: {e.strerror or e}"]) from None
        return content.decode("utf-8", "surrogateescape")

    def parse(self, text: str | None, *, strict: bool = False, name: str | None = None) -> Parsed:
        """The settings that a text gives, the built-in ones for None. Raises ConfigError."""
        if text is None:
            return Parsed(self._defaults, [])
        return config.parse(text, name or self.path, strict=strict, defaults=self._defaults)

    def permission_warnings(self, settings: Settings, mounts: Sequence[Mount]) -> list[str]:
        """Who else can read the files with secrets in them."""
        warnings = []
        for path in secrets.secret_files(settings, self.path):
            if may_hang(path, mounts):
                continue
            try:
                status = os.stat(path)  # noqa: TID251  # may_hang has said that it does not
            except OSError:
                continue  # said when the URL is needed
            what = "token" if path == settings.status.token_file else "URL"
            warnings += secrets.check_permissions(path, status.st_mode, status.st_gid, os.getegid(), what)
        return warnings


class LastGood:
    """The last configuration that could be used, beside the state: secrets may be in it."""

    def __init__(self, state_path: str, config_path: str) -> None:
        # Of this very file: another one, given by --config, is another matter.
        which = sha256(os.fsencode(config_path)).hexdigest()[:12]
        self.path = Path(state_path).with_name(f"config.{which}.last-good.toml")

    def load(self) -> str | None:
        try:
            return read_regular(str(self.path), SIZE_LIMIT).decode("utf-8", "surrogateescape")
        except OSError:
            return None

    def save(self, text: str) -> None:
        """Raises OSError."""
        if self.load() == text:
            return
        write_private(self.path, text.encode("utf-8", "surrogateescape"))
