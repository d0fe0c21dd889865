"""Types of what a Python handler gets and gives."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, AsyncIterator
from datetime import datetime
from typing import Any, Optional, Protocol, TextIO, Union
from typing_extensions import TypeAlias

__all__ = [
    "Batch",
    "BatchHandler",
    "BatchResult",
    "Body",
    "Context",
    "Event",
    "Handler",
    "InitContext",
    "Logger",
    "Platform",
    "QualifiedOffset",
    "RequestBody",
    "Response",
    "Result",
    "Results",
    "StreamEvent",
    "TriggerInfo",
]

Body: TypeAlias = Union[bytes, dict[str, Any], list[Any], str, int, float, bool, None]
"""What `event.body` is: bytes; what the JSON says where the content type is exactly `application/json` (its bytes
where it cannot be parsed); `None` where there is none. `isinstance` says which."""

class TriggerInfo:
    """Where an event came from."""

    kind: str
    """`http`, `cron`, …"""
    name: str
    """Its key under `spec.triggers`."""
    def __init__(self, kind: str = ..., name: str = ...) -> None: ...

class _Event:
    id: str
    """A random UUID, or what the event brought with it."""
    method: str
    """In capitals; empty where the event did not come over HTTP and its trigger says none."""
    path: str
    """Decoded, without the query."""
    url: str
    """Empty for requests."""
    headers: dict[str, str]
    """The last value of each header. Names are written `Content-Type`, and compared with case: see `get_header`."""
    fields: dict[str, str]
    """The arguments of the query, the last of each name; what timers say of a tick."""
    content_type: str
    trigger: TriggerInfo
    timestamp: datetime
    """When it came, in UTC, without a zone, in whole seconds."""
    type: str
    """Of a cloud event."""
    type_version: str
    """Of a cloud event."""
    version: str
    """Of the specification of a cloud event."""
    topic: str
    """Of an event of a stream."""
    shard_id: int
    """Of an event of a stream; -1 for others."""
    num_shards: int
    """Of an event of a stream."""
    offset: int
    """Of an event of a stream."""
    last_in_batch: bool
    def get_header(self, header_key: str) -> Optional[str]:
        """The value of a header, whatever the case of its name; `None` where there is none."""
    def get_header_values(self, header_key: str) -> list[str]:
        """All values of a header that came several times, in order; names are compared without case."""
    @property
    def header_pairs(self) -> list[tuple[str, str]]:
        """All headers as (name, value), also those that came several times: `headers` has the last of each."""
    def to_json(self) -> str: ...
    def compile_explicit_ack_message(self) -> dict[str, Any]: ...
    @classmethod
    def deserialize(cls, data: Any, kind: Any = ...) -> Union[Event, list[Event]]: ...
    @staticmethod
    def from_json(data: Union[str, bytes]) -> Union[Event, list[Event]]: ...
    @staticmethod
    def from_msgpack(data: Any) -> Union[Event, list[Event]]: ...

class Event(_Event):
    """What came in. Everything is an ordinary attribute and may be assigned."""

    body: Body
    size: int
    """Bytes of the body."""
    def __init__(
        self,
        body: Body = ...,
        content_type: Optional[str] = ...,
        trigger: Optional[TriggerInfo] = ...,
        fields: Optional[dict[str, str]] = ...,
        headers: Optional[dict[str, str]] = ...,
        _id: Optional[str] = ...,
        method: Optional[str] = ...,
        path: Optional[str] = ...,
        size: Optional[int] = ...,
        timestamp: Optional[datetime] = ...,
        url: Optional[str] = ...,
        shard_id: Optional[int] = ...,
        num_shards: Optional[int] = ...,
        _type: Optional[str] = ...,
        type_version: Optional[str] = ...,
        version: Optional[str] = ...,
        last_in_batch: Optional[bool] = ...,
        offset: Optional[int] = ...,
        topic: Optional[str] = ...,
    ) -> None: ...

class StreamEvent(_Event):
    """What a handler with the attribute `stream_body` gets. At run time it is an `Event`."""

    body: RequestBody
    size: Optional[int]
    """Bytes of the body; `None` while that is not known."""

class RequestBody:
    """The body of a request, read while it arrives. `OSError` says that no more comes."""

    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def __anext__(self) -> bytes: ...
    def read(self, size: Optional[int] = ...) -> bytes:
        """Up to `size` bytes, fewer at the end only; all that is left without a size. Waits for them."""
    async def read_async(self, size: Optional[int] = ...) -> bytes:
        """As `read`, while other tasks run."""

_Scalar: TypeAlias = Union[str, bytes, int, float, bool, None]
_Stream: TypeAlias = Union[Generator[Any, Any, Any], AsyncGenerator[Any, Any]]

class Response:
    """An answer with everything said."""

    body: Union[_Scalar, dict[Any, Any], _Stream, Any]
    """Bytes and texts as they are, a dict as JSON, a generator piece by piece; everything else as `str` makes it."""
    status_code: int
    content_type: str
    """`application/json` where the body is a dict; empty: what `headers` say."""
    headers: dict[str, Any]
    """A list sends a header several times."""
    event_id: Optional[str]
    """In a batch: the event that is answered."""
    def __init__(
        self,
        headers: Optional[dict[str, Any]] = ...,
        body: Union[_Scalar, dict[Any, Any], _Stream] = ...,
        content_type: Optional[str] = ...,
        status_code: int = ...,
        event_id: Optional[str] = ...,
    ) -> None: ...
    def ensure_no_ack(self) -> None:
        """The event of a stream is not acknowledged."""

class Logger:
    """Records go to the processor's log. Arguments are put in by `%`; those of `…_with` become fields."""

    def debug(self, message: object, *args: object) -> None: ...
    def info(self, message: object, *args: object) -> None: ...
    def warn(self, message: object, *args: object) -> None: ...
    def warning(self, message: object, *args: object) -> None: ...
    def error(self, message: object, *args: object) -> None: ...
    def debug_with(self, message: object, *args: object, **kw_args: object) -> None: ...
    def info_with(self, message: object, *args: object, **kw_args: object) -> None: ...
    def warn_with(self, message: object, *args: object, **kw_args: object) -> None: ...
    def warning_with(self, message: object, *args: object, **kw_args: object) -> None: ...
    def error_with(self, message: object, *args: object, **kw_args: object) -> None: ...
    def bind(self, **kw_args: object) -> None:
        """Fields of all records from now on; where several events are in work, of this event's."""
    def set_handler(self, handler_name: str, file: TextIO, formatter: Any) -> None:
        """Records also go to `file`; a handler named "default" replaces the way to the processor."""

class QualifiedOffset:
    """A place in a stream, for explicit acks."""

    topic: str
    partition: int
    offset: int
    def __init__(self, topic: str, partition: int, offset: int) -> None: ...
    @staticmethod
    def from_event(event: Event) -> QualifiedOffset: ...
    def compile_explicit_ack_message(self) -> dict[str, Any]: ...

class Platform:
    """What runs the functions."""

    kind: str
    """`local`, `kube`."""
    namespace: str
    def __init__(
        self,
        kind: str,
        namespace: str = ...,
        connection_provider: Any = ...,
        on_control_callback: Any = ...,
    ) -> None: ...
    def call_function(
        self,
        function_name: str,
        event: Event,
        node: Any = ...,
        timeout: Optional[float] = ...,
        service_name_override: Optional[str] = ...,
    ) -> Response:
        """Calls another function over HTTP and waits for its answer."""
    async def explicit_ack(self, qualified_offset: QualifiedOffset) -> None: ...
    def set_drain_callback(self, callback: Callable[[], object]) -> None: ...
    def set_termination_callback(self, callback: Callable[[], object]) -> None:
        """Called once the last event has been answered, before the process ends. May be `async`."""

class Context:
    """What belongs to the worker and outlives events. Attributes of one's own: declare them in a subclass, or use `user_data`."""

    logger: Logger
    platform: Platform
    user_data: Any
    """A bag for one's own attributes."""
    Response: type[Response]
    worker_id: str
    trigger: TriggerInfo
    """The trigger this worker belongs to."""
    trigger_name: str
    def __init__(
        self,
        logger: Optional[Logger] = ...,
        platform: Optional[Platform] = ...,
        worker_id: Optional[str] = ...,
        trigger: Optional[TriggerInfo] = ...,
        logger_per_async_task: bool = ...,
    ) -> None: ...

Result: TypeAlias = Union[
    str, bytes, dict[Any, Any], Response, tuple[int, Any], list[Response], int, float, bool, None, _Stream
]
"""What a handler returns for one event: a text or bytes, a dict (JSON), `(status, body)`, a `Response`, a generator;
of a list the first response; everything else is answered as `str` makes it, `None` as `None`."""

Results: TypeAlias = Union[Result, Awaitable[Result]]
"""What calling a handler gives: the same, or an awaitable of it."""

Batch: TypeAlias = list[Event]
"""What the handler of a trigger with `batch` gets."""

BatchResult: TypeAlias = Union[list[Response], Response, str, bytes, dict[Any, Any], tuple[int, Any], None]
"""What it returns: a `Response` with `event_id` for each event, or one answer for all."""

class Handler(Protocol):
    """A handler of single events."""

    def __call__(self, context: Context, event: Event, /) -> Results: ...

class BatchHandler(Protocol):
    """A handler of batches."""

    def __call__(self, context: Context, events: Batch, /) -> Union[BatchResult, Awaitable[BatchResult]]: ...

InitContext: TypeAlias = Callable[[Context], Union[None, Awaitable[None]]]
"""`init_context`: called once per worker, before its first event."""
