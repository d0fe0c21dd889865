"""Where the shim is: the program of this process under a processor, else the copy that this package carries.

There is one source of it, `_nuclio_wrapper.py`. A wheel carries it in `_carried`; in a checkout, and where the package
is installed from one as editable, it lies beside the package.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from typing import Any

FILE = "_nuclio_wrapper.py"
PARTS = ("_nuclio_more", "_nuclio_sdk", "_nuclio_several", "_nuclio_streams")
_lock = threading.Lock()
_carried: Any = None


def running() -> Any:
    """The shim that runs this process for a processor; None in a test or a tool."""
    main: Any = sys.modules.get("__main__")
    served = getattr(main, "shim", None) is not None and hasattr(main, "FrameEvent")
    return main if served else None


def path() -> str:
    """The shim's file."""
    package = os.path.dirname(os.path.abspath(__file__))
    for folder in (os.path.join(package, "_carried"), os.path.dirname(package)):
        found = os.path.join(folder, FILE)
        if os.path.isfile(found):
            return found
    raise ImportError("nuclio_handler: %s is neither in %s nor beside it; install the package anew: "
                      "pip install --force-reinstall nuclio-handler" % (FILE, package))


def carried() -> Any:
    """The shim as a module of this process, loaded on first use."""
    global _carried
    with _lock:
        if _carried is None:
            spec = importlib.util.spec_from_file_location("_nuclio_wrapper", path())
            assert spec is not None and spec.loader is not None
            module: Any = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
            # What the shim loads on first use lies beside it, not beside the program.
            folder = os.path.dirname(spec.origin or "")
            module.STANDARD_LIBRARY.append(folder)
            module.HERE = [folder]
            _carried = module
        return _carried


def home(shim: Any, wanted: str) -> Any:
    """The part of the shim that has this name: its core, or one that it loads on first use."""
    if hasattr(shim, wanted):
        return shim
    for name in PARTS if hasattr(shim, "part") else ():
        part = shim.part(name)
        if hasattr(part, wanted):
            return part
    raise ImportError("nuclio_handler: the shim %s has no %s: it is not of the same age as this package"
                      % (getattr(shim, "__file__", "in the processor"), wanted))


def find(shim: Any, wanted: str) -> Any:
    """What has this name in the shim."""
    return getattr(home(shim, wanted), wanted)


def name(wanted: str) -> Any:
    """One of the shim's classes."""
    shim = running() or carried()
    if wanted == "Response":  # That of the installed SDK, once somebody has imported it: ours is one, too.
        return shim.RESPONSES[-1]
    return find(shim, wanted)
