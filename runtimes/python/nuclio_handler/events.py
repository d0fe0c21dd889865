"""From what a test says of an event to the frames that the processor would send of it.

Defaults are those of a request over HTTP: what the processor makes of one is what a handler sees here.
"""

from __future__ import annotations

import struct
import time
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, Optional, Union
from urllib.parse import unquote_plus, unquote_to_bytes

from .answers import encode_body

# Frames of shim protocol 2; the numbers are those of the shim, where the protocol is.
HEADER = struct.Struct("<IBBHII")
EVENT_HEAD = struct.Struct("<qqiiIHH")
EVENT, DATA_IN = 0x02, 0x03
MORE_IN, NO_BODY, BATCH, BATCH_END = 0x01, 0x02, 0x08, 0x10
END = 0x01
BODILESS = {"GET", "HEAD"}
LEVELS = {"debug": 1, "info": 2, "warn": 3, "error": 4}

HeadersOf = Union[Mapping[str, Any], Iterable[tuple[str, str]], None]


class Frames:
    """One event: its id, and its frames but for the flags of a batch."""

    def __init__(self, head: bytes, body: Optional[bytes], pieces: Optional[list[bytes]], level: int) -> None:
        self.head, self.body, self.pieces, self.level = head, body, pieces, level

    def encode(self, ident: int, flags: int = 0) -> bytes:
        if self.pieces is not None:
            flags |= MORE_IN
        elif self.body is None:
            flags |= NO_BODY
        body = self.body or b""
        frame = HEADER.pack(len(self.head) + len(body), EVENT, flags, self.level << 12, ident, len(self.head))
        frame += self.head + body
        for piece in self.pieces or ():
            frame += HEADER.pack(len(piece), DATA_IN, 0, 0, ident, 0) + piece
        if self.pieces is not None:
            frame += HEADER.pack(0, DATA_IN, END, 0, ident, 0)
        return frame


def pairs_of(headers: HeadersOf) -> list[tuple[str, str]]:
    """Headers in order, named as the processor names them; a list is a header that comes several times."""
    pairs: list[tuple[str, str]] = []
    given: Any = headers.items() if isinstance(headers, Mapping) else headers or ()
    for name, value in given:
        for one in value if isinstance(value, (list, tuple)) else (value,):
            pairs.append((canonical(name), str(one)))
    return pairs


def canonical(name: str) -> str:
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def clean(path: str) -> str:
    """A path as handlers see it: decoded once, then without empty segments and those of dots."""
    path = unquote_to_bytes(path).decode("utf-8", "replace")
    segments = path.lstrip("/").split("/") if path.strip("/") else [""]
    out: list[str] = []
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        if segment == "..":
            out = out[:-1]
        elif segment and (segment != "." or last):
            out.append(segment)
    text = "".join("/" + segment for segment in out)
    return text + "/" if segments[-1] in ("", "..") or not text else text


def arguments(query: str) -> list[tuple[str, str]]:
    found = []
    for pair in query.split("&"):
        if pair not in ("", "="):
            key, _, value = pair.partition("=")
            found.append((unquote_plus(key), unquote_plus(value)))
    return found


def event(
    body: Any = None,
    *,
    json: Any = None,
    pieces: Optional[Iterable[bytes]] = None,
    method: Optional[str] = None,
    path: str = "/",
    headers: HeadersOf = None,
    fields: Optional[Mapping[str, str]] = None,
    content_type: Optional[str] = None,
    trigger: Union[str, tuple[str, str], None] = None,
    id: Optional[str] = None,
    timestamp: Union[datetime, float, None] = None,
    url: str = "",
    shard_id: int = -1,
    num_shards: int = 0,
    offset: int = 0,
    topic: str = "",
    type: str = "",
    type_version: str = "",
    version: str = "",
    log_level: Optional[str] = None,
) -> Frames:
    """The frames of an event.

    `body`: bytes, a text, or a dict or list, which become JSON; `json`: anything, as JSON; `pieces`: a body of unknown
    length as it comes, for a handler with `stream_body`. `path` may have a query, whose arguments are `event.fields`,
    as are `fields`. `trigger`: a kind, or (kind, name); without one the request came over HTTP. `headers`: a value
    that is a list comes several times. `log_level`: the lowest that the caller wants to see.
    """
    pairs = pairs_of(headers)

    def given(name: str) -> Optional[str]:
        return next((value for key, value in pairs if key == name), None)

    if pieces is not None and (body is not None or json is not None):
        raise TypeError("give body, json or pieces, not several of them")
    parts = None if pieces is None else [bytes(piece) for piece in pieces]
    raw, implied = encode_body(body, json, given)
    kind, name = ("", "") if trigger is None else (trigger, trigger) if isinstance(trigger, str) else trigger
    over_http = kind in ("", "http")
    method = method or ("" if not over_http else "GET" if raw is None and parts is None else "POST")
    content_type = content_type if content_type is not None else implied or ""
    if over_http:
        if given("Host") is None:
            pairs.insert(0, ("Host", "localhost"))
        if content_type and given("Content-Type") is None:
            pairs.append(("Content-Type", content_type))
        if parts is None and given("Content-Length") is None and (raw or method not in BODILESS):
            pairs.append(("Content-Length", str(len(raw or b""))))
        if parts is not None and given("Transfer-Encoding") is None and given("Content-Length") is None:
            pairs.append(("Transfer-Encoding", "chunked"))
        raw = raw or None  # Over HTTP an empty body is none.
    target, _, query = path.partition("?")
    own = [*arguments(query), *(fields or {}).items()]
    texts = [id or str(uuid.uuid4()), method, clean(target), query, url, content_type, topic, type, type_version,
             version, kind, name]
    texts += [text for pair in [*pairs, *own] for text in pair]
    for text in texts:
        if "\0" in text:
            raise ValueError("an event has no NUL in its texts: %r" % text)
    if log_level is not None and log_level not in LEVELS:
        raise ValueError("log_level is %r, want one of %s" % (log_level, ", ".join(LEVELS)))
    head = EVENT_HEAD.pack(micros(timestamp), offset, shard_id, num_shards, 0, len(pairs), len(own))
    head += "\0".join(texts).encode()
    return Frames(head, raw, parts, LEVELS.get(log_level or "", 0))


def micros(timestamp: Union[datetime, float, None]) -> int:
    if timestamp is None:
        return time.time_ns() // 1000
    if isinstance(timestamp, datetime):
        timestamp = (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=timezone.utc)).timestamp()
    return int(timestamp * 1_000_000)
