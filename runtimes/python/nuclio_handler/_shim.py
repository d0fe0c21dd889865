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
            spec.loader.exec_module(module)
            # What the shim loads on first use lies beside it.
            module.STANDARD_LIBRARY.append(os.path.dirname(spec.origin or ""))
            _carried = module
        return _carried


def name(wanted: str) -> Any:
    """One of the shim's classes."""
    module = running() or carried()
    try:
        if wanted == "Response":  # That of the installed SDK, once somebody has imported it: ours is one, too.
            return module.RESPONSES[-1]
        return getattr(module, wanted)
    except AttributeError:
        raise ImportError("nuclio_handler: the shim %s has no %s: it is older than this package"
                          % (getattr(module, "__file__", "in the processor"), wanted)) from None
