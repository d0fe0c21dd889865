"""From `main.py:handler` to the function: where its file is, and its modules, apart from those of other functions."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

# Modules of a folder that another one of the same name hid, by folder.
_hidden: dict[str, dict[str, ModuleType]] = {}


class HandlerError(Exception):
    """The handler cannot be called; the text says what to change."""


def split(spec: str) -> tuple[str, str]:
    """`main.py:handler`, `main:handler` or `main.py` as file or module, and function."""
    name, colon, entry = spec.rpartition(":")
    return (name, entry) if colon else (spec, "handler")


def locate(spec: str, folders: Sequence[str]) -> tuple[str, str]:
    """The folder that goes into the path, and `module:function`. Looks in the folders, in this order."""
    name, entry = split(spec)
    if os.sep in name and not name.endswith(".py"):
        name += ".py"
    relative = name if name.endswith(".py") else name.replace(".", "/") + ".py"
    tried = []
    for folder in folders:
        found = os.path.abspath(os.path.join(folder, relative))
        if os.path.isfile(found):
            if not name.endswith(".py"):
                return os.path.abspath(folder), "%s:%s" % (name, entry)
            root, module = python_module(found)
            return root, "%s:%s" % (module, entry)
        if not name.endswith(".py") and os.path.isfile(found[:-3] + "/__init__.py"):
            return os.path.abspath(folder), "%s:%s" % (name, entry)
        tried.append(found)
    raise HandlerError("no file for handler %r; looked for %s; give its path, from the test's folder or absolute"
                       % (spec, ", ".join(dict.fromkeys(tried))))


def python_module(file: str) -> tuple[str, str]:
    """The folder a file is imported from and its name there: what is in a package goes by the package's name."""
    folder, name = os.path.split(file[:-3])
    while os.path.isfile(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = "%s.%s" % (package, name)
    return folder, name


class Modules:
    """While open, the modules in a folder win over those of the same name elsewhere, as they do in a container."""

    def __init__(self, folder: str, fresh: bool) -> None:
        self.folder = folder
        self.path = list(sys.path)
        self.displaced: dict[str, ModuleType] = {}
        names = modules_of(folder)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in names and (fresh or not within(module, folder)):
                self.displaced[name] = sys.modules.pop(name)
        if fresh:
            self.displaced = {name: one for name, one in self.displaced.items() if not within(one, folder)}
        else:
            sys.modules.update(_hidden.get(folder, {}))
        sys.path.insert(0, folder)

    def close(self) -> None:
        """Puts back what was displaced, and remembers what it hides from now on."""
        if self.folder in sys.path:
            sys.path.remove(self.folder)
        tops = {name.partition(".")[0] for name in self.displaced}
        mine = {name: one for name, one in list(sys.modules.items())
                if name.partition(".")[0] in tops and within(one, self.folder)}
        for name in mine:
            del sys.modules[name]
        _hidden.setdefault(self.folder, {}).update(mine)
        sys.modules.update(self.displaced)
        self.displaced = {}


def modules_of(folder: str) -> set[str]:
    """The modules and packages in a folder that are the function's, and not its tests'."""
    found = set()
    for entry in os.scandir(folder):
        name = entry.name[:-3] if entry.name.endswith(".py") else entry.name
        python = entry.name.endswith(".py") or os.path.isfile(os.path.join(entry.path, "__init__.py"))
        tests = name in ("conftest", __package__) or name.startswith("test_") or name.endswith("_test")
        if python and not tests:
            found.add(name)
    return found


def within(module: Any, folder: str) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return file is None or os.path.abspath(file).startswith(os.path.join(folder, ""))
