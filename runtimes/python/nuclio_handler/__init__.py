"""Types of what a Python handler gets and gives, and means to test it.

    from __future__ import annotations
    from typing import TYPE_CHECKING

    if TYPE_CHECKING:  # Then the image needs no package.
        from nuclio_handler import Context, Event, Response

    def handler(context: Context, event: Event) -> Response: ...

What type checkers read is in `__init__.pyi`. The classes themselves are the shim's own, looked up on first use: under
a processor those of the shim that runs the handler, so that `isinstance` holds there too.
"""

from __future__ import annotations

from typing import Any

from . import _shim

_OWN = {"Context", "Event", "Logger", "Platform", "QualifiedOffset", "RequestBody", "Response", "TriggerInfo"}
_ALIASES = {"Batch", "BatchHandler", "BatchResult", "Body", "Handler", "InitContext", "Result", "Results"}
# pyright: reportUnsupportedDunderAll=false
__all__ = [
    "Batch", "BatchHandler", "BatchResult", "Body", "Context", "Event", "Handler", "InitContext", "Logger", "Platform",
    "QualifiedOffset", "RequestBody", "Response", "Result", "Results", "StreamEvent", "TriggerInfo",
]


def __getattr__(name: str) -> Any:
    if name in _OWN:
        return _shim.name(name)
    if name == "StreamEvent":  # The same class: only what its body is differs.
        return _shim.name("Event")
    if name in _ALIASES:
        return Any
    raise AttributeError("module 'nuclio_handler' has no attribute %r" % name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
