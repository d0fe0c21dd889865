"""What tests get to see of an answer: the same from a handler called in this process and from a real processor."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

LEVELS = ("debug", "info", "warn", "error")


@dataclass(frozen=True)
class Record:
    """One line of a log."""

    level: str
    """`debug`, `info`, `warn` or `error`."""
    message: str
    fields: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        text = "%-5s %s" % (self.level, self.message)
        long = [value.rstrip() for value in self.fields.values() if isinstance(value, str) and "\n" in value]
        text += "".join(" %s=%r" % (name, value) for name, value in self.fields.items()
                        if not (isinstance(value, str) and "\n" in value))
        # Tracebacks are to be read.
        return "\n".join([text, *long])


class Records(list[Record]):
    """The lines of a log, in order."""

    def find(self, message: str, level: Optional[str] = None) -> list[Record]:
        """Those with this text in the message."""
        return [record for record in self if message in record.message and level in (None, record.level)]

    @property
    def messages(self) -> list[str]:
        """The messages alone."""
        return [record.message for record in self]

    def __str__(self) -> str:
        return "\n".join(map(str, self))


class Headers(Mapping[str, str]):
    """Headers: names without case, of several values the last. `pairs` has all, in order."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self.pairs = pairs

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        if not values:
            raise KeyError(name)
        return values[-1]

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): name for name, _ in self.pairs}.values())

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self.pairs})

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    def __repr__(self) -> str:
        return "Headers(%r)" % self.pairs


class Answer:
    """What a client gets."""

    def __init__(self, status: int, headers: Headers, chunks: list[bytes], logs: Records) -> None:
        self.status = status
        self.headers = headers
        self.chunks = chunks
        """The pieces of a streamed body; one piece of every other."""
        self.logs = logs
        """What the handler wrote while it handled the event. Empty of a processor's answer: see its own `logs`."""
        self.exception: Optional[BaseException] = None
        """What the handler raised; such an answer is a 500 with the traceback."""
        self.aborted: Optional[str] = None
        """Why a streamed answer was cut off."""

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json_module.loads(self.body)

    @property
    def ok(self) -> bool:
        """A status below 400, to the end."""
        return self.status < 400 and self.aborted is None

    def raise_for_error(self) -> Answer:
        """Raises what the handler raised; else gives the answer back."""
        __tracebackhide__ = True
        if self.exception is not None:
            raise self.exception
        if self.aborted is not None:
            raise RuntimeError("the streamed answer was cut off: %s" % self.aborted)
        return self

    @property
    def content_type(self) -> str:
        """The header of that name, or nothing."""
        return self.headers.get("Content-Type", "")

    def __repr__(self) -> str:
        shown = self.body[:200]
        return "<Answer %d %s %r%s>" % (self.status, self.content_type, shown, "…" if len(self.body) > 200 else "")


def encode_body(body: Any, json: Any, given: Callable[[str], Optional[str]]) -> tuple[Optional[bytes], Optional[str]]:
    """The bytes of a body, and the content type it implies if the headers do not say one."""
    if json is not None:
        if body is not None:
            raise TypeError("give body or json, not both")
        return json_module.dumps(json).encode(), given("Content-Type") or "application/json"
    if body is None or isinstance(body, bytes):
        return body, given("Content-Type")
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body), given("Content-Type")
    if isinstance(body, str):
        return body.encode(), given("Content-Type")
    if isinstance(body, (dict, list)):
        return json_module.dumps(body).encode(), given("Content-Type") or "application/json"
    raise TypeError("body is of type %s, want bytes, str, dict or list; anything else as json=…" % type(body).__name__)
