"""aiohttp's server without its client, which `import aiohttp` always brings along and which is 5 MB of 13.

The package is put in its place with its `__init__` not yet run, as `importlib.util.LazyLoader` does with modules: what
is in it is imported as ever, and the first name that anybody wants of the package itself (`aiohttp.ClientSession`,
which the heartbeat wants) runs it. So nobody gets anything but aiohttp's own.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from importlib.abc import SourceLoader
from importlib.util import find_spec, module_from_spec
from types import ModuleType

_NAME = "aiohttp"


class _Waiting(ModuleType):
    """The package before its `__init__` has run."""

    def __getattr__(self, name: str) -> object:
        if find_spec(f"{_NAME}.{name}") is not None:
            return import_module(f"{_NAME}.{name}")  # a part of it, which does not need the whole
        self.__class__ = ModuleType  # type: ignore[assignment]  # what it is from now on
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def prepare() -> None:
    """To be called before `aiohttp.web` is imported; does nothing where aiohttp is there already."""
    spec = None if _NAME in sys.modules else find_spec(_NAME)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        return
    # The one thing that its modules want of the package; if it stands elsewhere by now, all of it is loaded.
    version = re.search(r'^__version__ = "([^"]+)"', spec.loader.get_source(_NAME) or "", re.MULTILINE)
    if version is None:
        return
    package = module_from_spec(spec)
    package.__class__ = _Waiting
    package.__dict__["__version__"] = version[1]
    sys.modules[_NAME] = package
