"""The configuration file on disk: where it is, its text, and the last copy of it that was good.

What its text means is `config`'s. A file on a network or FUSE file system (/etc/pve is one) is read
by a child with a time limit, never here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from watcher import config, secrets
from watcher.children import Child, Children
from watcher.config import ConfigError, Parsed
from watcher.core.mountinfo import mount_of
from watcher.files import read_regular, write_private
from watcher.model import Mount
from watcher.settings import Addressed, Settings, Watch

READ_LIMIT = 5.0  # seconds for the child
# Not cat(1), which cannot say that there is no such file but in words.
_NO_SUCH_FILE = 2
_READ = f"""import os, sys
try:
    with open(sys.argv[1], "rb") as f:
        sys.stdout.buffer.write(f.read())
        sys.stdout.flush()
except (FileNotFoundError, NotADirectoryError):
    os._exit({_NO_SUCH_FILE})
except OSError:
    os._exit(1)
"""
_SIZE_LIMIT = 1 << 22


@lru_cache(256)  # each of 200 containers has a configuration file to be looked for
def may_hang_on(fstype: str) -> bool:
    """Whether a file system of this type is watched by default, or is an autofs trigger."""
    return fstype == "autofs" or any(fnmatchcase(fstype, pattern) for pattern in Watch().fstypes)


def may_hang(path: str, mounts: Sequence[Mount]) -> bool:
    """Whether `path`, or a link on the way to it, lies on a file system that is watched by default (or autofs).

    Follows links itself, and looks at nothing beyond the first such mount.
    """
    return _walk(path, mounts)[1]


def resolved(path: str, mounts: Sequence[Mount]) -> str:
    """The path without the links in it, as the mount table will have it; from the first remote mount on as it is."""
    return _walk(path, mounts)[0]


def _walk(path: str, mounts: Sequence[Mount]) -> tuple[str, bool]:
    """Where the path leads, and whether to go on from there may hang."""
    at, rest, links = "/", path.split("/")[::-1], 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        step = os.path.dirname(at) if name == ".." else f"{at.rstrip('/')}/{name}"
        mount = mount_of(step, mounts)
        if mount is not None and may_hang_on(mount.fstype):
            return "/".join([step, *(part for part in rest[::-1] if part not in ("", "."))]), True
        try:
            link = os.readlink(step)
        except OSError:
            at = step
            continue
        links += 1
        if links > 40:  # the kernel's own limit (MAXSYMLINKS)
            return path, True
        rest += link.split("/")[::-1]
        at = "/" if link.startswith("/") else at
    return at, False


class FileReader:
    """Reads small files wherever they lie; where that may hang, in a child, and never in two for one file."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._hanging: dict[str, Child] = {}

    async def read(self, path: str, mounts: Sequence[Mount]) -> bytes:
        """A file's content. Raises OSError, TimeoutError among them."""
        if not may_hang(path, mounts):
            return read_regular(path, _SIZE_LIMIT)
        if (earlier := self._hanging.get(path)) is not None and not earlier.exited:
            raise TimeoutError(errno.ETIMEDOUT, "no answer from its file system; an earlier attempt still hangs")
        try:
            child = self._hanging[path] = await self._children.spawn([sys.executable, "-I", "-S", "-c", _READ, path])
        except OSError as e:
            raise OSError(errno.EIO, f"cannot be read in a child: {e.strerror or e}") from None  # never "no such file"
        child.close_stdin()
        content = b""
        try:
            async with asyncio.timeout(READ_LIMIT):
                while chunk := await child.read():
                    content += chunk
                    if len(content) > _SIZE_LIMIT:
                        raise OSError(errno.EFBIG, "is too large")
                await child.wait_exit(READ_LIMIT)
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer from its file system within {READ_LIMIT:g} s") from None
        finally:
            child.kill()
        if child.returncode == _NO_SUCH_FILE:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if child.returncode != 0:
            raise OSError(errno.EIO, "cannot be read (it lies on a network or FUSE file system)")
        return content


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
            return read_regular(str(self.path), _SIZE_LIMIT).decode("utf-8", "surrogateescape")
        except OSError:
            return None

    def save(self, text: str) -> None:
        """Raises OSError."""
        if self.load() == text:
            return
        write_private(self.path, text.encode("utf-8", "surrogateescape"))
