"""What import-linter and ruff cannot say: the core is pure, and the probe child stands alone."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = sorted([ROOT / "watcher/model.py", *(ROOT / "watcher/core").rglob("*.py")])

# A list of what is allowed, so that what nobody thought of is not: data types and calculation, no clock, no I/O.
ALLOWED = {
    "__future__", "abc", "array", "base64", "bisect", "collections", "copy", "dataclasses", "datetime", "enum", "errno",
    "fnmatch", "functools", "graphlib", "hashlib", "heapq", "ipaddress", "itertools", "json", "math", "operator",
    "os.strerror", "re", "shlex", "string", "textwrap", "types", "typing", "unicodedata", "watcher.core",
    "watcher.model",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}
CLOCKS = {"now", "utcnow", "today"}  # datetime is allowed as a data type


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever is imported, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def is_allowed(name: str) -> bool:
    """Whether the name, or a package that it lies in, is in the list."""
    parts = name.split(".")
    return any(".".join(parts[:length]) in ALLOWED for length in range(1, len(parts) + 1))


def impurities(source: str) -> list[str]:
    """What keeps a module from being a function of its arguments, as "line: what"."""
    tree = ast.parse(source)
    found = [(line, f"import of {name}") for line, name in imported(tree) if not is_allowed(name)]
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                found.append((node.lineno, f"call of {name}"))
            case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in CLOCKS:
                found.append((node.lineno, f"call of .{name}({'…' if arguments else ''}): now is a parameter"))
            case ast.AsyncFunctionDef() | ast.Await():
                found.append((node.lineno, "a coroutine"))
            case ast.Global(names=names):
                found.append((node.lineno, f"global {', '.join(names)}"))
    return [f"{line}: {what}" for line, what in sorted(found)]


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_core_is_pure(path: Path) -> None:
    assert impurities(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "finding"),
    [
        ("import time", "1: import of time"),
        ("import os.path", "1: import of os.path"),
        ("from os import stat", "1: import of os.stat"),
        ("def f():\n    from asyncio import sleep", "2: import of asyncio.sleep"),
        ("from watcher import procfs", "1: import of watcher.procfs"),
        ("from watcher.corelike import x", "1: import of watcher.corelike.x"),
        ("from . import health", "1: import of ..health"),
        ("open('/etc/fstab')", "1: call of open"),
        ("datetime.now(UTC)", "1: call of .now(…): now is a parameter"),
        ("date.today()", "1: call of .today(): now is a parameter"),
        ("async def f(): ...", "1: a coroutine"),
        ("def f():\n    global n", "2: global n"),
    ],
)
def test_impurity_is_found(source: str, finding: str) -> None:
    assert impurities(source) == [finding]


def test_pure_module_passes() -> None:
    lines = ["from os import strerror", "from watcher.core.health import step", "from watcher.model import Mount"]
    assert impurities("\n".join(lines)) == []


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("probing/asking.py", ()),
        ("probing/beneath.py", ()),
        ("probing/child.py", ()),
        ("probing/inside.py", ("child", "watcher.probing.child")),
        ("sources/serving.py", ()),
        ("sources/standing.py", ()),
        ("sources/titles.py", ()),
        (
            "sources/users.py",
            tuple(f"{prefix}{n}" for prefix in ("", "watcher.sources.") for n in ("configured", "serving", "standing")),
        ),
        (
            "sources/configured.py",
            ("serving", "standing", "watcher.sources.serving", "watcher.sources.standing"),
        ),
    ],
)
def test_children_stand_alone(path: str, beside: tuple[str, ...]) -> None:
    """They run under -I -S: nothing but the standard library can be imported there, and what lies beside them."""
    tree = ast.parse((ROOT / "watcher" / path).read_text())
    names = [name for _, name in imported(tree) if name.split(".")[0] not in sys.stdlib_module_names]
    assert [name for name in names if not any(f"{name}.".startswith(f"{one}.") for one in beside)] == []
