# nuclio-shim-protocol: 2
"""Runs a user's Python handler for the processor, which started this file as a child process.

The two talk shim protocol 2 over one Unix stream socket: little-endian frames with a fixed header of 16 bytes.
Reading order: `main`, `Shim.serve` (the loop every event goes through), `Shim.answer` (what a returned value means);
`Several` is what differs where several events are in work at once.

Start-up time is a feature: only modules that cost nothing are imported here, everything else by `std` on first use.
The file is compiled at each start, so its length counts as well.
"""

import faulthandler
import os
import sys
import time
from time import monotonic_ns

import _signal  # type: ignore[import-not-found]
import _socket
import _struct
import _thread
from _io import BytesIO

# Kinds of frames.
INIT, EVENT, DATA_IN, CREDIT, CANCEL, CONTROL, PING = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x08
HELLO, READY, ANSWER, DATA, CREDIT_BACK, LOG, CONTROL_DONE, ACK, PONG, FAILED = (
    0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x8B, 0x8F)
# Flags of EVENT, of ANSWER, of DATA, of any frame.
MORE_IN, NO_BODY, BODY_JSON, BATCH, BATCH_END, TYPED, NOT_UTF8 = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40
MORE, NO_ACK, NONE, CANCELLED = 0x01, 0x04, 0x08, 0x10
END, ABORT = 0x01, 0x02
OPTIONAL = 0x80
# Codes of FAILED.
LOAD_FAILED, INIT_FAILED, PROTOCOL_FAULT = 1, 2, 3
# Codes of CANCEL.
CLIENT_GONE, DEADLINE = 1, 2
TAKEN_BACK = 0x01              # flag of a DEADLINE: it is not over, the event's trigger has something newer
DEBUG, INFO, WARN, ERROR = 0, 1, 2, 3

PREFETCH = 32                # events that may wait in our buffers
READ_BYTES = 64 * 1024
JOIN_BYTES_MAX = 16 * 1024   # larger bodies are not copied behind their head
PIECE_BYTES_MAX = 64 * 1024  # of one DATA frame
LOGS_HELD_BYTES_MAX = 32 * 1024
LOGS_HELD_NS_MAX = 100_000_000
LOG_TEXT_MAX = 64 * 1024     # of a message
LOG_FIELDS_MAX = 256 * 1024  # of all fields of a record together; beyond, long values are cut
LOG_FIELD_MAX = 4 * 1024
IN_FLIGHT_MAX = 32768        # events in work at once, where the trigger asks for several
GIVE_UP_SECONDS = 0.05       # for a cancelled handler to end, before its event is answered without it
GIVEN_UP_MAX = 100           # handlers that go on all the same; beyond, the processor replaces this process
END_SECONDS = 0.5            # for handlers to end once the processor is gone

HEADER = _struct.Struct("<IBBHII")
EVENT_HEAD = _struct.Struct("<IqqiiIHH")  # from the last field of the frame header, the length of the head
PAIR_COUNTS = _struct.Struct("<HH")
ANSWER_HEAD = _struct.Struct("<IBBHIIIHH")
MICROS = _struct.Struct("<q")
U32 = _struct.Struct("<I")
WAIT_ALL, DONT_WAIT = _socket.MSG_WAITALL, _socket.MSG_DONTWAIT
TEXT, JSON = b"text/plain", b"application/json"

MYPY = False
if MYPY:
    from typing import Any

shim: "Any" = None  # the one Shim of this process


class Closed(BaseException):
    """The processor closed its end."""


class Stop(BaseException):
    """SIGTERM came while no event was in service."""


class ProtocolFault(BaseException):
    """The processor broke the protocol."""


def standard_library():
    root = os.path.dirname(os.__file__)
    return [path for path in sys.path if path == root or path == root + "/lib-dynload" or path.endswith(".zip")]


STANDARD_LIBRARY = standard_library()
IMPORTED: "dict[str, Any]" = {}
IMPORTING = _thread.RLock()


def std(name):
    """The standard module `name`, even where the user has a file of that name."""
    module = IMPORTED.get(name)
    if module is None:
        with IMPORTING:
            path = sys.path
            sys.path = STANDARD_LIBRARY + path
            try:
                __import__(name)
            finally:
                sys.path = path
            module = IMPORTED[name] = sys.modules[name]
    return module


# ---------------------------------------------------------------------------------------------- frames


class Channel:
    """The socket: takes whole frames out of what it reads, writes whole frames."""

    start: "Any"
    large: "Any"

    def __init__(self, sock):
        self.sock = sock
        self.lock = _thread.RLock()
        self.data, self.at = b"", 0
        self.start, self.large, self.missing = None, None, 0  # a frame whose body is still coming
        self.max_frame = 1 << 30
        self.held, self.held_bytes = [], 0  # frames that go out with the next write

    def take(self):
        """The next frame already read, as (kind, flags, code, id, data, place of its head, body), or None."""
        data, at = self.data, self.at
        if self.start is not None:
            return self.take_large()
        if len(data) - at < 16:
            return None
        size, kind, flags, code, ident, head = HEADER.unpack_from(data, at)
        if head > size or size > self.max_frame:
            raise ProtocolFault("bad frame header " + data[at:at + 16].hex())
        body = at + 16 + head
        end = at + 16 + size
        if end <= len(data):
            self.at = end
            return kind, flags, code, ident, data, at + 16, data[body:end]
        if body <= len(data):
            self.start = kind, flags, code, ident, data[at:body], 16
            # Received straight into what becomes the body: `getvalue` gives it without a copy.
            self.large, self.missing = BytesIO(bytes(end - body)), end - len(data)
            self.large.write(data[body:])
            self.data, self.at = b"", 0
        return None

    def take_large(self):
        if self.missing:
            return None
        frame = self.start + (self.large.getvalue(),)
        self.start = self.large = None
        return frame

    def fill(self, flags=0):
        """Reads once; waits for it unless told not to (then BlockingIOError says that there is nothing)."""
        try:
            if self.start is not None:
                if not self.missing:
                    return  # the frame is whole, and nobody has taken it yet
                with self.large.getbuffer()[-self.missing:] as rest:
                    count = self.sock.recv_into(rest, 0, flags or WAIT_ALL)
                self.missing -= count
                if not count:
                    raise Closed
            else:
                chunk = self.sock.recv(READ_BYTES, flags)
                if not chunk:
                    raise Closed
                rest = self.data[self.at:]
                self.data, self.at = (rest + chunk if rest else chunk), 0
        except ConnectionError:
            raise Closed from None

    def hold(self, frame):
        self.held.append(frame)
        self.held_bytes += len(frame)

    def send(self, frame, body=None):
        """Writes what is held, then this frame. The lock keeps other threads' log records out of it."""
        with self.lock:
            if self.held:
                self.held.append(frame)
                frame = b"".join(self.held)
                self.held.clear()
                self.held_bytes = 0
            try:
                if body is None:
                    self.sock.sendall(frame)
                else:
                    self.send_two(frame, body)
            except OSError:
                raise Closed from None

    def send_two(self, frame, body):
        sent = self.sock.sendmsg((frame, body))
        if sent < len(frame):
            self.sock.sendall(memoryview(frame)[sent:])
            sent = len(frame)
        if sent < len(frame) + len(body):
            self.sock.sendall(memoryview(body)[sent - len(frame):])

    def flush(self):
        if self.held:
            self.send(b"")


def pairs_frame(kind, code, pairs):
    head = "\0".join([text for pair in pairs for text in pair]).encode()
    return HEADER.pack(len(head), kind, 0, code, 0, len(head)) + head


def body_frame(kind, code, ident, text):
    body = utf8(text)
    return HEADER.pack(len(body), kind, 0, code, ident, 0) + body


def utf8(text):
    """UTF-8 of a text; lone surrogates, which have none, become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


# ---------------------------------------------------------------------------------------------- what handlers see


class Root:
    """Common base, so that the bases of the classes below can be exchanged (see `adopt`)."""


class TriggerInfo(Root):
    def __init__(self, kind="", name=""):
        self.kind = kind
        self.name = name


class Event(Root):
    def __init__(self, body=None, content_type=None, trigger=None, fields=None, headers=None, _id=None, method=None,
                 path=None, size=None, timestamp=None, url=None, shard_id=None, num_shards=None, _type=None,
                 type_version=None, version=None, last_in_batch=None, offset=None, topic=None):
        self.body = body
        self.content_type = content_type
        self.trigger = trigger or TriggerInfo()
        self.fields = fields or {}
        self.headers = headers or {}
        self.id = _id
        self.method = method
        self.path = path or "/"
        self.size = size
        self.timestamp = timestamp or 0
        self.url = url
        self.shard_id = shard_id
        self.num_shards = num_shards
        self.type = _type
        self.type_version = type_version
        self.version = version
        self.last_in_batch = last_in_batch or False
        self.offset = offset or 0
        self.topic = topic

    def get_header(self, header_key):
        wanted = header_key.lower()
        for key, value in self.headers.items():
            if key.lower() == wanted:
                return value
        return None

    def get_header_values(self, header_key):
        """All values of a header that came several times, in order; names are compared without case."""
        wanted = header_key.lower()
        return [value for key, value in self.header_pairs if key.lower() == wanted]

    @property
    def header_pairs(self):
        """All headers as (name, value), also those that came several times: `headers` has the last of each."""
        return list(self.headers.items())

    def to_json(self):
        return event_to_json(self)

    def compile_explicit_ack_message(self):
        return QualifiedOffset.from_event(self).compile_explicit_ack_message()

    @classmethod
    def deserialize(cls, data, kind=None):
        return event_from(data, kind)

    @staticmethod
    def from_json(data):
        return event_from(data, EventDeserializerKinds.json)

    @staticmethod
    def from_msgpack(data):
        return event_from(data, EventDeserializerKinds.msgpack)

    def __repr__(self):
        return self.to_json()


own_dict = Root.__dict__["__dict__"].__get__
EVENT_NAMES = frozenset(vars(Event()))


class FrameEvent(Event):
    """An event that decodes its frame when an attribute is first looked at. From then on they are plain attributes."""

    def __init__(self, frame):
        self._frame = frame

    def __getattr__(self, name):
        own = own_dict(self)
        if name not in EVENT_NAMES or "_frame" not in own:
            raise AttributeError("'Event' object has no attribute '%s'" % name)
        frame = own["_frame"]
        if "_texts" not in own:
            values = decode(frame)
            if len(own) > 1:
                values.update(own)  # what the user has assigned stays
            own.update(values)
        if name in LAZY:
            value = own[name] = LAZY[name](frame, own["_texts"])
            return value
        if name not in own:  # deleted
            raise AttributeError("'Event' object has no attribute '%s'" % name)
        return own[name]

    @property
    def header_pairs(self):
        own = own_dict(self)
        if "_frame" not in own:
            return list(self.headers.items())
        if "_texts" not in own:
            self.__getattr__("id")
        count, _ = PAIR_COUNTS.unpack_from(own["_frame"][4], own["_frame"][5] + 28)
        texts = own["_texts"][12:12 + 2 * count]
        return list(zip(texts[::2], texts[1::2]))

    @property
    def __dict__(self):  # type: ignore[override]
        own = own_dict(self)
        if "_frame" in own:
            for name in LAZY:
                getattr(self, name)
            del own["_frame"], own["_texts"]
        return own


FrameEvent.__name__ = FrameEvent.__qualname__ = "Event"


def decode(frame):
    """What is cheap to decode, and the texts for the rest (`LAZY`)."""
    _, flags, code, _, data, at, body = frame
    head, _, offset, shard, shards, _, headers, fields = EVENT_HEAD.unpack_from(data, at - 4)
    if flags & TYPED:
        texts = typed_texts(data, at + 32, 12 + 2 * headers + 2 * fields, shim.decode)
    elif shim.decode:
        texts = data[at + 32:at + head].decode().split("\0")
    else:
        texts = data[at + 32:at + head].split(b"\0")
    if len(texts) < 12 + 2 * headers + 2 * fields:
        raise ValueError("event has %d texts, want %d" % (len(texts), 12 + 2 * headers + 2 * fields))
    return {
        "_texts": texts, "id": texts[0], "method": texts[1], "path": texts[2] or "/", "url": texts[4],
        "content_type": texts[5], "topic": texts[6], "type": texts[7], "type_version": texts[8], "version": texts[9],
        "size": None if flags & MORE_IN else 0 if flags & (NO_BODY | BODY_JSON) else len(body),
        "shard_id": shard, "num_shards": shards, "offset": offset, "last_in_batch": False,
    }


def decode_trigger(frame, texts):
    kind, name = texts[10], texts[11]
    return TriggerInfo(kind, name) if kind or name else TriggerInfo(*shim.trigger(frame[2] & 0xFFF))


def decode_headers(frame, texts):
    count, _ = PAIR_COUNTS.unpack_from(frame[4], frame[5] + 28)
    return dict(zip(texts[12:12 + 2 * count:2], texts[13:12 + 2 * count:2]))


def decode_fields(frame, texts):
    headers, count = PAIR_COUNTS.unpack_from(frame[4], frame[5] + 28)
    start = 12 + 2 * headers
    return dict(zip(texts[start:start + 2 * count:2], texts[start + 1:start + 2 * count:2]))


def decode_body(frame, texts):
    flags, body = frame[1], frame[6]
    if shim.streams and not flags & (BODY_JSON | BATCH):
        return shim.body_of(frame)
    if flags & NO_BODY:
        return None
    if flags & BODY_JSON:
        # compat: the Go processor passes the numbers of a cloud event's data on as floats.
        return std("json").loads(body, parse_int=float)
    if texts[5] == "application/json" or texts[5] == b"application/json":
        try:
            return std("json").loads(body.decode())
        except Exception as error:
            sys.stderr.write("Failed deserializing json body, error message: %s\n" % error)
    return body


def decode_timestamp(frame, texts):
    return utc(MICROS.unpack_from(frame[4], frame[5])[0])


LAZY = {"trigger": decode_trigger, "headers": decode_headers, "fields": decode_fields, "body": decode_body,
        "timestamp": decode_timestamp}


def utc(micros):
    datetime = std("datetime")
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=micros // 1_000_000)


class Response(Root):
    def __init__(self, headers=None, body=None, content_type=None, status_code=200, event_id=None):
        self.headers = headers or {}
        self.body = body
        self.status_code = status_code
        self.content_type = content_type or "text/plain"
        self.event_id = event_id

    def ensure_no_ack(self):
        self.headers["x-nuclio-stream-no-ack"] = True

    def __repr__(self):
        return "Response(%s)" % ", ".join(["%s=%r" % item for item in vars(self).items()])


class Context(Root):
    def __init__(self, logger=None, platform=None, worker_id=None, trigger=None, logger_per_async_task=False):
        def user_data():
            """A bag: handlers set attributes on it."""

        self._logger = logger
        self.platform = platform or Platform("test")
        self.user_data = user_data
        self.Response = Response
        self.worker_id = worker_id
        self.trigger = trigger
        if trigger is not None:
            self.trigger_name = trigger.name

    # Where several events are in work each has a logger of its own.
    @property
    def logger(self):
        if shim is None or shim.several is None or shim.context is not self:
            return self._logger
        return shim.several.logger(self._logger)

    @logger.setter
    def logger(self, logger):
        if shim is None or shim.several is None or shim.context is not self or not shim.several.assign(logger):
            self._logger = logger


class Platform(Root):
    def __init__(self, kind, namespace="default", connection_provider=None, on_control_callback=None):
        self.kind = kind
        self.namespace = namespace
        self._connection_provider = connection_provider
        self._control_callback = on_control_callback
        self._drain_callback = None
        self._termination_callback = None

    def call_function(self, function_name, event, node=None, timeout=None, service_name_override=None):
        return call_function(self, function_name, event, timeout, service_name_override)

    async def explicit_ack(self, qualified_offset):
        if self._control_callback is not None:
            await self._control_callback(qualified_offset.compile_explicit_ack_message())
        else:
            shim.ack(qualified_offset.topic, qualified_offset.partition, qualified_offset.offset)

    def set_drain_callback(self, callback):
        self._drain_callback = callback

    def set_termination_callback(self, callback):
        self._termination_callback = callback


class Logger(Root):
    """The logger of the context: records become frames. Below the wanted level nothing is formatted."""

    def __init__(self, worker):
        self._bound = {"worker_id": worker}
        self._bound_json: "Any" = b'{"worker_id": "%s"}' % worker.encode()  # `bind` clears it
        self._handlers = {}

    def debug(self, message, *args):
        self._log(DEBUG, message, args, None)

    def info(self, message, *args):
        self._log(INFO, message, args, None)

    def warn(self, message, *args):
        self._log(WARN, message, args, None)

    def error(self, message, *args):
        self._log(ERROR, message, args, None)

    def debug_with(self, message, *args, **kw_args):
        self._log(DEBUG, message, args, kw_args)

    def info_with(self, message, *args, **kw_args):
        self._log(INFO, message, args, kw_args)

    def warn_with(self, message, *args, **kw_args):
        self._log(WARN, message, args, kw_args)

    def error_with(self, message, *args, **kw_args):
        self._log(ERROR, message, args, kw_args)

    warning, warning_with = warn, warn_with

    def bind(self, **kw_args):
        self._bound = {**self._bound, **kw_args}
        self._bound_json = None

    def _copy(self):
        """One for a single event: what is bound to it stays there."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def set_handler(self, handler_name, file, formatter):
        """Records also go to `file`; a handler named "default" replaces the way to the processor."""
        self._handlers[handler_name] = file, formatter

    def _log(self, level, message, args, fields):
        wanted = shim.log_level if shim.several is None else shim.several.log_level()
        if level < wanted and not self._handlers:
            return
        text = str(message)
        if args:
            try:
                text = text % (args[0] if len(args) == 1 and isinstance(args[0], dict) and args[0] else args)
            except Exception as error:
                sys.stderr.write("--- Logging error ---\n%s: %r, arguments %s\n" % (error, text, bounded_repr(args)))
        if fields:
            fields.update(self._bound)
        if self._handlers:
            log_to_files(self._handlers, level, text, fields or self._bound)
        if level < wanted or "default" in self._handlers:
            return
        if fields:
            encoded = fields_json(fields)
        else:
            if self._bound_json is None:
                self._bound_json = fields_json(self._bound)
            encoded = self._bound_json
        try:
            shim.log(level, text, encoded)
        except Closed:
            pass  # the loop that reads notices it as well


def bounded_repr(value):
    try:
        text = repr(value)
    except Exception as error:
        text = "<%s whose repr failed: %s>" % (type(value).__name__, type(error).__name__)
    return text if len(text) <= LOG_FIELD_MAX else "%s... (%d characters)" % (text[:LOG_FIELD_MAX], len(text))


def fields_json(fields):
    """The fields of a record as a JSON object: whatever the values are, and however large."""
    try:
        encoded = encode_json(fields).encode()
        if len(encoded) <= LOG_FIELDS_MAX:
            return encoded
    except Exception:
        pass  # one of them is odd: one by one
    safe: "dict[str, Any]" = {}
    room = LOG_FIELDS_MAX
    for name, value in fields.items():
        try:
            text = encode_json(value)
            if len(text) > LOG_FIELD_MAX:
                value = "%s... (%d characters)" % (text[:LOG_FIELD_MAX], len(text))
        except Exception:
            value = text = bounded_repr(value)
        room -= len(name) + min(len(text), LOG_FIELD_MAX)
        if room < 0:
            safe["dropped_fields"] = len(fields) - len(safe)
            break
        safe[name] = value
    return encode_json(safe).encode()


def encode_json(value):
    """The JSON of returned values: NaN and infinities as texts, unknown objects by `__log__`, repr or str."""
    json = std("json")
    try:
        return json.dumps(value, allow_nan=False, default=loggable)
    except ValueError:
        return json.dumps(without_nan(value))


def loggable(value):
    try:
        return value.__log__()
    except Exception:
        try:
            return repr(value)
        except Exception:
            try:
                return str(value)
            except Exception as error:
                return "Unable to serialize object: %s" % error


# ---------------------------------------------------------------------------------------------- answers

RESPONSES: "Any" = (Response,)
CANCELLED_ANSWER = 500, CANCELLED, TEXT, 0, b"", b"cancelled"
PLAIN = {str, bytes, dict, tuple, list, int, float, bool, type(None)}


class HandlerFault(Exception):
    """The handler returned something that cannot be answered."""


def convert(value):
    """What a returned value means: (status, flags, content type, number of header pairs, their texts, body)."""
    kind = type(value)
    if kind is str:
        return 200, 0, TEXT, 0, b"", utf8(value)
    if kind is bytes:
        return 200, 0, TEXT, 0, b"", value
    if isinstance(value, RESPONSES):
        return convert_response(value)
    if isinstance(value, dict):
        return 200, 0, JSON, 0, b"", encode_json(value).encode()
    if isinstance(value, tuple) and len(value) == 2:
        status, body = value
        if isinstance(body, str):
            return checked(status), 0, TEXT, 0, b"", utf8(body)
        return checked(status), 0, JSON, 0, b"", encode_json(body).encode()
    if isinstance(value, bytes):
        return 200, 0, TEXT, 0, b"", bytes(value)
    return 200, 0, TEXT, 0, b"", utf8(str(value))


def convert_response(response):
    body, content_type = response.body, response.content_type
    if isinstance(body, dict):
        # compat: plain JSON here, NaN bare and unknown objects refused.
        body, content_type = std("json").dumps(body).encode(), "application/json"
    elif not isinstance(body, bytes):
        body = utf8(str(body))
    flags, pairs, table = 0, 0, b""
    if response.headers:
        flags, pairs, table = convert_headers(response.headers)
    # An empty type is the handler's way to leave it to the headers, or to the trigger's default.
    content_type = header_text(content_type) if content_type else b""
    return checked(response.status_code), flags, content_type, pairs, table, body


def convert_headers(headers):
    flags, texts = 0, [b""]
    for name, value in headers.items():
        name = header_text(name)
        if name.lower() == b"x-nuclio-stream-no-ack":
            flags |= NO_ACK if value in (True, "true", "True", 1, b"true") else 0
            continue
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if one is None:
                continue
            text = header_text(one)
            if b"\0" in name or b"\0" in text:
                shim.logger.warn_with("Dropped a header with a NUL byte", header=repr(name))
                continue
            texts += name, text
    return flags, len(texts) // 2, b"\0".join(texts) if len(texts) > 1 else b""


def header_text(value):
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape") if value.isascii() else utf8(value)
    if isinstance(value, bytes):
        return value
    return encode_json(value).strip('"').encode()


def checked(status):
    if isinstance(status, bool) or not isinstance(status, int):
        raise HandlerFault("handler returned a status code of type %s, want int" % type(status).__name__)
    if status != 0 and not 100 <= status <= 999:
        raise HandlerFault("handler returned status code %d, want 100 to 999" % status)
    return int(status)


def is_stream(value):
    if isinstance(value, RESPONSES):
        value = value.body
    return type(value) is GENERATOR or type(value) is ASYNC_GENERATOR


def generator_types():
    async def asynchronous():
        yield

    return type(_ for _ in ()), type(asynchronous())


GENERATOR, ASYNC_GENERATOR = generator_types()


def is_async(function):
    """Whether a callable is `async def`."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    if getattr(function, "_is_coroutine_mark", None) is not None:  # inspect.markcoroutinefunction
        return True
    call = getattr(function, "__call__", None)  # noqa: B004 - its code is looked at
    code = getattr(function, "__code__", None) or getattr(call, "__code__", None)
    return bool(code is not None and code.co_flags & 0x380)  # coroutine, iterable coroutine, async generator


OURS = {std.__code__.co_filename}  # files whose frames are left out of what users are shown


def traceback_of(error):
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    try:
        return "".join(std("traceback").format_exception(type(error), error, trace))
    except BaseException as second:
        return "%s (no traceback: %s)" % (type(error).__name__, type(second).__name__)


def message_of(error):
    try:
        return str(error)
    except BaseException:  # Whatever the user's code raises there: the event has to be answered.
        return type(error).__name__


def uncancel(task):
    """The task goes on although it has been cancelled. Python before 3.11 forgets that by itself."""
    while getattr(task, "cancelling", int)():
        task.uncancel()


# ---------------------------------------------------------------------------------------------- the loop


class Suspend:
    """Awaited: gives way once. Without an event loop, the way to ask `Shim.run` for one."""

    def __await__(self):
        yield


class Call:
    """One call of the handler: an event, or the events of a batch."""

    members: "Any" = None  # of a batch: [(id, text id as bytes)]
    body: "Any" = None     # that is still arriving
    stream: "Any" = None   # its answer, if that goes out in pieces
    cancelled = False
    why = ""               # it was, if not by a client that left
    task: "Any" = None     # to be cancelled while it waits
    started = credit = 0
    waiters: "Any" = ()    # done when something has come for it
    # Where several are in work:
    begun = False      # the handler has been called
    over = False       # answered: nothing is sent for it any more
    logger: "Any" = None
    log_level = DEBUG

    def __init__(self, ident, argument):
        self.ident = ident
        self.argument = argument


class Shim:
    handler: "Any"
    context: "Any"
    logger: "Any"
    call: "Any"
    several: "Any"
    upcoming: "Any"
    fault: "Any"
    loop: "Any"
    task: "Any"
    waiter: "Any"
    base: "Any"

    def __init__(self, channel):
        self.channel = channel
        self.thread = _thread.get_ident()
        self.decode = True
        self.triggers = []
        self.handler = self.context = self.logger = None
        self.level = self.log_level = DEBUG  # of the worker, of the event in service
        self.log_always = False
        self.credit = 256 * 1024
        self.call = None      # in service
        self.several = None   # the calls in service, where there may be more than one
        self.slots = 1        # that many
        self.upcoming = None  # the call that is served next
        self.early = []       # frames for the bodies of events that are still in the queue
        self.queue = []       # frames that came while a handler was running
        self.batch = []
        self.loop = self.task = self.waiter = self.base = None
        self.looping = self.serving = False
        self.fault = None     # what the reader of the loop found: Closed or ProtocolFault
        self.waiting = self.stopping = False
        self.written = 0      # when something was last written, roughly
        self.sync_only = True
        self.streams = False  # the handler takes bodies as they come
        self.interface = ""   # "asgi" or "wsgi": the handler is an application
        self.application: "Any" = None  # how its requests are handled, if that is not the handler's business

    def trigger(self, index):
        return self.triggers[index] if index < len(self.triggers) else ("", "")

    # -- life

    async def live(self, init_context):
        self.serving = True
        if init_context is not None:
            try:
                done = init_context(self.context)
                if hasattr(done, "__await__"):
                    await self.whole(done)
            except BaseException as error:
                fail(INIT_FAILED, "init_context failed: %s\n%s" % (message_of(error), traceback_of(error)))
        if self.application is not None:
            await self.application.start()
        if self.slots > 1 and self.sync_only:
            self.slots = 1
            self.logger.warn("The handler is a %s and gets one event at a time although the trigger's mode is async; "
                             "make it %s, or give the trigger more workers" % (
                                 ("WSGI application", "an ASGI application") if self.interface
                                 else ("plain function", "async def")))
        self.channel.send(pairs_frame(READY, 0, [
            ("handler_async", "0" if self.sync_only else "1"), ("max_inflight", str(self.slots)),
            ("stream_in", "1" if self.streams else "0")] + ([("web", self.interface)] if self.interface else [])))
        if self.slots > 1 or "asyncio" in sys.modules and self.interface != "wsgi":
            await self.enter_loop()
        if self.looping:
            self.base = std("contextvars").copy_context()
        if self.slots > 1 or self.application is not None:
            self.several = self.application or Several(self)
            await self.several.serve()
        await self.serve()

    async def serve(self):
        """Every frame goes through here. Returns only to be started again in a fresh context."""
        channel, handler, context = self.channel, self.handler, self.context
        take = channel.take
        while True:
            frame = self.queue.pop(0) if self.queue else take()
            if frame is None:
                if self.looping and not self.idle():
                    await self.readable_again()
                else:
                    self.read()
                continue
            if frame[0] != EVENT:
                await self.other(frame)
                continue
            call = self.receive(frame)
            if call is None:
                continue
            if self.looping and not self.idle():
                self.upcoming = call
                await self.undisturbed(Suspend())  # let the tasks of earlier events run
                self.upcoming = None
            self.call = call
            call.started = self.written = monotonic_ns()
            try:
                value = handler(context, call.argument)
                if type(value) not in PLAIN:
                    if hasattr(type(value), "__await__"):
                        value = await self.wait_for(call, value)
                    if is_stream(value):
                        await self.stream(call, value)
                        value = call
                if value is not call:
                    self.answer(call, value)
            except (Closed, Stop, ProtocolFault):
                raise
            except BaseException as error:
                self.failed(call, error)
            self.call = None
            self.log_level = self.level
            if self.stopping:
                raise Stop
            if self.loop is not None:
                if not self.looping:
                    await self.enter_loop()
                if getattr(self.task, "_must_cancel", False):
                    await self.undisturbed(Suspend())  # else the next event would be cancelled
                if std("contextvars").copy_context() != self.base:
                    return

    def before_waiting(self):
        self.channel.flush()
        if self.fault is not None:
            raise self.fault
        self.waiting = True
        if self.stopping:
            raise Stop

    def read(self):
        """Blocks until something has been read."""
        self.before_waiting()
        self.channel.fill()
        self.waiting = False

    async def readable_again(self):
        """Lets the loop run until something has been read."""
        self.before_waiting()
        self.waiter = self.loop.create_future()
        await self.undisturbed(self.waiter)
        self.waiting = False

    async def undisturbed(self, awaitable):
        """Waits. Handlers cancel whatever task they find, their own of the moment among them: this one goes on."""
        try:
            await awaitable
        except std("asyncio").CancelledError:
            uncancel(self.task)

    def receive(self, frame):
        """Makes a call of an EVENT frame; None if the batch is not complete or the event cannot be read."""
        flags, code, ident = frame[1], frame[2], frame[3]
        if flags & MORE_IN and not self.streams:
            raise ProtocolFault("event %d: the handler does not read request streams" % ident)
        self.log_level = (code >> 12) - 1 if code >> 12 else self.level
        event = FrameEvent(frame)
        call: "Any" = Call(ident, event)
        if flags & MORE_IN:
            call.body = RequestBody(self, call, frame[6], True)
            self.early = [frame for frame in self.early if not self.arrived(frame, call)]
        if flags & (TYPED | NOT_UTF8):
            try:
                event.method  # noqa: B018 - decodes all texts
            except Exception as error:
                call.started = monotonic_ns()
                self.unreadable(call, error)
                call = None
        if flags & BATCH:
            return self.gather(call, flags & BATCH_END)
        return call

    @staticmethod
    def arrived(frame, call):
        """Takes a piece of the call's body that came before the call began."""
        if frame[3] != call.ident:
            return False
        call.body.came(frame[1], frame[6])
        return True

    def unreadable(self, call, error):
        if self.several is not None:
            return self.several.unreadable(call, error)
        self.call = call
        self.failed(call, error, "while serving")
        self.call = None

    def gather(self, call, last):
        if call is not None:
            self.batch.append(call)
        if not last or not self.batch:
            return None
        calls, self.batch = self.batch, []
        if len(calls) > 1:
            self.log_level = self.level  # none of the callers sees what is logged of all
        whole = Call(calls[0].ident, [call.argument for call in calls])
        whole.members = [(call.ident, as_bytes(call.argument.id)) for call in calls]
        return whole

    async def whole(self, awaitable):
        """What a callback's coroutine comes to."""
        if self.interface == "wsgi":
            async def run():
                return await awaitable

            return std("asyncio").run(run())  # The application must not find a running loop.
        await self.enter_loop()
        return await awaitable

    async def wait_for(self, call, awaitable):
        await self.enter_loop()
        call.task = self.task
        try:
            return await awaitable
        finally:
            call.task = None

    def find(self, ident):
        """The call of this event, if it is in service; else it has been answered, or is still in the queue."""
        if self.several is not None:
            return self.several.find(ident)
        for call in (self.call, self.upcoming):
            if call is not None and call.ident == ident:
                return call
        return None

    async def news(self, call):
        """Waits until something has come for the call; without a loop, until something has come."""
        if self.fault is not None:
            raise self.fault
        if not self.looping:
            self.channel.fill()
            self.poll()
            return
        waiter = self.loop.create_future()
        call.waiters = *call.waiters, waiter  # One may read the body while another writes the answer.
        await waiter

    async def other(self, frame):
        kind, flags, code, ident, data, at, body = frame
        if kind == CONTROL:
            await self.control(code, ident)
        elif kind == CREDIT:
            call = self.find(ident)
            if call is not None:
                call.credit += U32.unpack_from(data, at)[0]
                wake(call)
        elif kind == DATA_IN:
            call = self.find(ident)
            if call is None:
                if any(frame[3] == ident and frame[0] == EVENT for frame in self.queue):
                    self.early.append(frame)
            elif call.body is not None:
                call.body.came(flags, body)
                wake(call)
        elif kind == CANCEL:
            (self if self.several is None else self.several).cancel(ident, code, flags)
        elif kind == PING:
            self.channel.send(HEADER.pack(len(body), PONG, 0, code, ident, 0) + body)
        elif not flags & OPTIONAL:
            raise ProtocolFault("unexpected frame of kind 0x%02x" % kind)

    async def control(self, code, ident):
        platform = self.context.platform
        callback = {1: platform._drain_callback, 3: platform._termination_callback}.get(code)
        failed, text = 0, ""
        if callback is not None:
            try:
                done = callback()
                if hasattr(done, "__await__"):
                    await self.whole(done)
            except BaseException as error:
                failed, text = 1, "%s: %s" % (type(error).__name__, message_of(error))
                self.logger.error_with("Exception caught in callback", exc=message_of(error),
                                       traceback=traceback_of(error))
        self.channel.send(body_frame(CONTROL_DONE, failed, ident, text))

    def cancel(self, ident, code=CLIENT_GONE, flags=0):
        call = self.find(ident)
        if call is not None:
            if code == CLIENT_GONE and call.stream is None and self.fault is None:
                return  # compat: what has begun goes on, and its answer is thrown away
            if code == DEADLINE and call.task is not None:
                self.tell_stack(call, call.task, flags)
            call.cancelled = True
            if call.task is not None:
                call.task.cancel()
            return wake(call)
        for place, frame in enumerate(self.queue):
            if frame[0] == EVENT and frame[3] == ident and not frame[1] & BATCH:
                del self.queue[place]
                return self.send_answer(ident, 0, CANCELLED_ANSWER)

    def tell_stack(self, call, task, flags):
        """Logs where a coroutine waits that is ended."""
        call.why = "was taken back" if flags & TAKEN_BACK else "timed out"
        self.log(WARN, "Event %s; its handler waits in" % call.why, fields_json({
            "worker_id": self.context.worker_id, "stack": stack_of(task.get_coro(), call)}), call)

    # -- the event loop, where there is one

    def run(self, coroutine):
        """Drives `serve`: by hand until an event loop is wanted, then inside it."""
        if self.sync_only and (self.interface == "wsgi" or "asyncio" not in sys.modules):
            coroutine.send(None)  # comes back only when it wants a loop
        asyncio = std("asyncio")
        loop = self.loop or self.make_loop()
        asyncio._set_running_loop(None)
        loop.add_reader(self.channel.sock.fileno(), self.readable)
        # uvloop makes it non-blocking; we say so for each call instead, because writes and bodies may have to wait.
        self.channel.sock.setblocking(True)
        self.looping = True
        if self.serving:
            self.base = std("contextvars").copy_context()
        while True:
            context = (self.base or std("contextvars").copy_context()).copy()
            self.task = context.run(loop.create_task, coroutine)
            while not self.task.done():
                try:
                    loop.run_until_complete(self.task)
                except (SystemExit, KeyboardInterrupt, RuntimeError) as error:
                    # Of a task in the background; or a handler has stopped the loop.
                    if loop.is_closed():
                        raise
                    self.logger.error_with("Exception caught in task", exc=repr(error), traceback=traceback_of(error))
            self.task.result()
            coroutine = self.serve()

    def make_loop(self):
        """The loop the user's module made, if it did, else a new one."""
        asyncio = std("asyncio")
        warnings = std("warnings")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.loop = asyncio.get_event_loop()
        except RuntimeError:
            pass
        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop

    def use_uvloop(self, wanted):
        """Makes uvloop's the loop, where it is installed."""
        try:
            self.loop = __import__("uvloop").new_event_loop()
        except ImportError as error:
            if wanted:
                self.logger.warn_with("NUCLIO_PYTHON_EVENT_LOOP asks for uvloop, which cannot be imported; asyncio's "
                                      "own loop is used", err=message_of(error))
        else:
            std("asyncio").set_event_loop(self.loop)

    def asyncio_came(self):
        """A handler that is no coroutine has imported asyncio: from now on there is a running loop."""
        if (self.loop is None and self.serving and self.interface != "wsgi"
                and _thread.get_ident() == self.thread):
            std("asyncio")._set_running_loop(self.make_loop())

    async def enter_loop(self):
        if not self.looping:
            await Suspend()

    def idle(self):
        """Nothing but us can make the loop do anything: no callback, timer, descriptor, signal or thread."""
        loop = self.loop
        try:
            return not (loop._ready or loop._scheduled or loop._signal_handlers or _thread._count()
                        or len(loop._selector.get_map()) > 2)
        except AttributeError:
            return False  # another kind of loop

    def readable(self):
        try:
            self.poll()
        except (Closed, ProtocolFault) as fault:
            self.fault = fault
            self.loop.remove_reader(self.channel.sock.fileno())
            if self.call is not None:
                self.cancel(self.call.ident)
        if self.several is not None and self.fault is None:
            return
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def poll(self):
        """Reads what is there. Acts on what concerns the call in service, queues the rest."""
        try:
            self.channel.fill(DONT_WAIT)
        except BlockingIOError:
            pass  # something may have been read before
        frame = self.channel.take()
        while frame is not None:
            if frame[0] in (DATA_IN, CREDIT, CANCEL, PING):
                drive(self.other(frame))
            elif self.several is not None:
                self.several.take(frame)
            else:
                self.queue.append(frame)
            frame = self.channel.take()

    def body_of(self, frame):
        """The body of the event with this frame, for a handler that takes bodies as they come."""
        call = self.find(frame[3])
        if call is not None and call.body is not None:
            return call.body
        return RequestBody(self, call, frame[6], False)

    # -- answers

    def answer(self, call, value):
        if call.members is not None:
            return answer_batch(self, call, value)
        if isinstance(value, list):
            # compat: a list is a batch of answers; a single event gets the first.
            if not value:
                raise HandlerFault("handler returned an empty list of responses")
            value = value[0]
        converted = convert(value)
        self.send_answer(call.ident, monotonic_ns() - call.started, converted)

    def send_answer(self, ident, nanos, converted, more=0, hold=False):
        status, flags, content_type, pairs, table, body = converted
        self.check_size(body)
        head = 8 + len(content_type) + len(table)
        frame = ANSWER_HEAD.pack(head + len(body), ANSWER, flags | more, status, ident, head,
                                 min(nanos // 1000, 0xFFFFFFFF), pairs, 0) + content_type + table
        if len(body) > JOIN_BYTES_MAX:
            return self.channel.send(frame, body)
        frame += body
        if hold or more:
            with self.channel.lock:
                return self.channel.hold(frame)
        # Never held back for the next answer: that call may be slow, or the process may die in it.
        self.channel.send(frame)

    def check_size(self, body):
        if len(body) > self.channel.max_frame - 65536:
            raise HandlerFault("handler returned %d bytes, which is above the limit; yield them in pieces" % len(body))

    def failed(self, call, error, where="in handler"):
        if call.cancelled and type(error).__name__ in ("CancelledError", "StreamCancelled"):
            uncancel(self.task)
            converted = CANCELLED_ANSWER
        elif isinstance(error, HandlerFault):
            self.logger.error(message_of(error))
            converted = 500, 0, TEXT, 0, b"", utf8(message_of(error))
        else:
            message, trace = message_of(error), traceback_of(error)
            self.logger.error_with("Exception caught " + where, exc=message, traceback=trace)
            converted = 500, 0, TEXT, 0, b"", utf8('Exception caught %s - "%s": %s' % (where, message, trace))
        nanos = monotonic_ns() - call.started
        for ident, _ in call.members or ((call.ident, None),):
            self.send_answer(ident, nanos, converted, hold=True)
        self.channel.flush()

    async def stream(self, call, value):
        """Answers with the items of a generator: a head, then pieces, each written as it comes."""
        response, source = (value, value.body) if isinstance(value, RESPONSES) else (None, value)
        if type(source) is ASYNC_GENERATOR:
            await self.enter_loop()
        stream = call.stream = Stream(self, call, source)
        try:
            if call.members is not None:
                raise HandlerFault("handler returned a generator for a batch")
            await stream.run(response)
        finally:
            await stream.close()

    def ack(self, topic, partition, offset):
        head = _struct.pack("<iq", partition, offset) + (topic if isinstance(topic, bytes) else topic.encode())
        call = self.current()
        ident = call.ident if call is not None else 0
        self.channel.send(HEADER.pack(len(head), ACK, 0, 0, ident, len(head)) + head)

    def current(self):
        """The call that the code which is running belongs to."""
        return self.call if self.several is None else self.several.current()

    def log(self, level, text, fields, call=None):
        """Buffers a record; it goes out with the next answer, or now if that may take too long."""
        if len(text) > LOG_TEXT_MAX:
            text = "%s... (%d characters)" % (text[:LOG_TEXT_MAX], len(text))
        head = MICROS.pack(time.time_ns() // 1000) + utf8(text)
        call = call or self.current()
        ident = call.ident if call is not None else 0
        frame = HEADER.pack(len(head) + len(fields), LOG, 0, level, ident, len(head)) + head + fields
        channel = self.channel
        with channel.lock:
            channel.hold(frame)
            now = monotonic_ns()
            if (level >= WARN or ident == 0 or self.log_always or channel.held_bytes > LOGS_HELD_BYTES_MAX
                    or now - self.written > LOGS_HELD_NS_MAX):
                self.written = now
                channel.flush()
            elif self.several is not None:
                self.several.flush_later()


class Several:
    """The calls of a handler that may have several events at once: each is a task of the one loop."""

    behind: "Any" = ()  # calls that go on after their answers, which only those of applications do

    def __init__(self, shim):
        contextvars = std("contextvars")
        self.shim = shim
        self.calls = {}        # in work, by id
        self.waiting = []      # calls that came ahead
        self.given_up = set()  # calls whose handlers go on although they have been answered
        self.call_of_task = contextvars.ContextVar("nuclio_event")
        self.logger_of_task = contextvars.ContextVar("nuclio_logger")
        self.tasks = set()     # of control frames
        self.flushing = False

    # -- frames

    async def serve(self):
        """Reading is done by `Shim.readable`, handling by the calls' tasks: only the end is waited for."""
        shim = self.shim
        shim.log_level = DEBUG  # `log_level` knows better
        shim.loop.call_soon(shim.readable)  # what has been read already
        while shim.fault is None and not (shim.stopping and not self.calls):
            shim.channel.flush()
            shim.waiter = shim.loop.create_future()
            shim.waiting = True
            await shim.undisturbed(shim.waiter)
        tasks = [call.task for call in (*self.calls.values(), *self.given_up, *self.behind)]
        if tasks:
            for call in self.calls.values():
                call.over = True
            for task in tasks:
                task.cancel()
            await std("asyncio").wait(tasks, timeout=END_SECONDS)
        raise shim.fault or Stop()

    def take(self, frame):
        """A frame that is not about a call in work."""
        shim = self.shim
        if frame[0] == EVENT:
            call = shim.receive(frame)
            if call is None:
                return
            code = frame[2] >> 12
            call.log_level = code - 1 if code and (call.members is None or len(call.members) == 1) else shim.level
            self.waiting.append(call)
            self.begin()
        elif frame[0] == CONTROL:
            task = shim.loop.create_task(shim.control(frame[2], frame[3]))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        else:
            drive(shim.other(frame))

    def find(self, ident):
        call = self.calls.get(ident)
        if call is None and self.waiting:
            for waiting in self.waiting:
                if waiting.ident == ident:
                    return waiting
        return call

    # -- calls

    def begin(self):
        shim = self.shim
        while self.waiting and len(self.calls) < shim.slots:
            call = self.waiting.pop(0)
            self.calls[call.ident] = call
            # In a context of its own, which the task copies.
            call.task = shim.base.run(shim.loop.create_task, self.one(call))

    async def one(self, call):
        shim = self.shim
        self.call_of_task.set(call)
        call.started = shim.written = monotonic_ns()
        call.begun = True
        try:
            if call.cancelled:
                return shim.send_answer(call.ident, 0, CANCELLED_ANSWER)
            value = shim.handler(shim.context, call.argument)
            if type(value) not in PLAIN:
                if hasattr(type(value), "__await__"):
                    value = await value
                if is_stream(value):
                    await shim.stream(call, value)
                    return
            if not call.over:
                shim.answer(call, value)
        except (Closed, Stop, ProtocolFault) as fault:
            self.end(fault)
        except BaseException as error:
            self.failed(call, error)
        finally:
            self.leave(call)

    def failed(self, call, error):
        if not call.over:
            try:
                self.shim.failed(call, error)
            except BaseException as fault:
                self.end(fault)  # Ends the process: an event without an answer would be waited for for ever.
        elif type(error).__name__ not in ("CancelledError", "StreamCancelled") and self.shim.fault is None:
            self.shim.logger.error_with("Exception caught in a handler whose event has been answered",
                                        exc=message_of(error), traceback=traceback_of(error))

    def unreadable(self, call, error):
        token = self.call_of_task.set(call)
        self.shim.failed(call, error, "while serving")
        self.call_of_task.reset(token)

    def leave(self, call):
        """The call takes no place any more."""
        if call in self.given_up:
            return self.given_up.discard(call)  # its id may be another's by now
        call.over = True
        self.calls.pop(call.ident, None)
        self.begin()
        if self.shim.stopping and not self.calls:
            self.wake_serve()

    def end(self, fault):
        self.shim.fault = self.shim.fault or fault
        self.wake_serve()

    def wake_serve(self):
        waiter = self.shim.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def cancel(self, ident, code, flags=0):
        call = self.find(ident)
        if call is None or call.over:
            return
        if code == CLIENT_GONE and call.members is not None:
            return  # the others of the batch are still there
        if code == DEADLINE and call.begun:
            self.shim.tell_stack(call, call.task, flags)
            self.shim.loop.call_later(GIVE_UP_SECONDS, self.give_up, call)
        call.cancelled = True
        if call.task is None:
            self.waiting.remove(call)
            for member, _ in call.members or ((call.ident, None),):
                self.shim.send_answer(member, 0, CANCELLED_ANSWER)
        elif call.begun:
            call.task.cancel()

    def give_up(self, call):
        """A handler does not end although it has been cancelled: the loop lives, so only its event is given up."""
        if call.over or len(self.given_up) >= GIVEN_UP_MAX or self.shim.fault is not None:
            return
        fields = {"worker_id": self.shim.context.worker_id, "stack": stack_of(call.task.get_coro(), call)}
        self.shim.log(WARN, "The handler goes on although its event %s; it must not keep CancelledError to itself"
                      % call.why, fields_json(fields), call)
        try:
            if call.stream is not None and call.stream.begun:
                call.stream.frame_out(ABORT, b"cancelled")
            else:
                nanos = monotonic_ns() - call.started
                for ident, _ in call.members or ((call.ident, None),):
                    self.shim.send_answer(ident, nanos, CANCELLED_ANSWER)
        except Closed as fault:
            self.end(fault)
        self.leave(call)
        self.given_up.add(call)

    # -- records

    def current(self):
        call = self.call_of_task.get(None)
        return None if call is None or call.over else call

    def log_level(self):
        call = self.current()
        return self.shim.level if call is None else call.log_level

    def logger(self, base):
        """The logger of the event that the running task belongs to; tasks that it starts inherit it."""
        logger = self.logger_of_task.get(None)
        if logger is None:
            call = self.call_of_task.get(None)
            if call is None:
                return base
            logger = call.logger
            if logger is None:
                logger = call.logger = base._copy() if isinstance(base, Logger) else base
        return logger

    def assign(self, logger):
        """A logger for the running task alone; False outside of events."""
        if self.call_of_task.get(None) is None:
            return False
        self.logger_of_task.set(logger)
        return True

    def flush_later(self):
        """What is held goes out soon, whenever the next answer is."""
        shim = self.shim
        if _thread.get_ident() != shim.thread:
            shim.channel.flush()
        elif not self.flushing:
            self.flushing = True
            shim.loop.call_later(LOGS_HELD_NS_MAX / 1e9, self.flush)

    def flush(self):
        self.flushing = False
        try:
            self.shim.channel.flush()
        except Closed as fault:
            self.end(fault)


def stack_of(awaited, call):
    """Where a coroutine waits, as in a traceback; our own frames are left out."""
    frames = []
    while awaited is not None:
        if type(awaited).__name__ == "async_generator_asend" and call.stream is not None:
            awaited = call.stream.source
        for frame, then in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if hasattr(awaited, frame):
                frame, awaited = getattr(awaited, frame), getattr(awaited, then)
                if frame is not None and frame.f_code.co_filename not in OURS:
                    frames.append((frame, frame.f_lineno))
                break
        else:
            break
    traceback = std("traceback")
    return "".join(traceback.format_list(traceback.StackSummary.extract(iter(frames))))


def wake(call):
    waiters, call.waiters = call.waiters, ()
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


def as_bytes(text):
    return text if isinstance(text, bytes) else str(text).encode()


def drive(coroutine):
    """Runs a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration:
        pass


# ---------------------------------------------------------------------------------------------- the SDK's names


class Finder:
    """Sees the first import of `nuclio_sdk` and `asyncio`.

    The installed SDK costs more to import than all the rest, so it is imported only by code that names it; its classes
    then become bases of ours. Where it is not installed, a module with the same names takes its place.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "nuclio_sdk" or name == "asyncio":
            for finder in sys.meta_path:
                spec = finder.find_spec(name, path, target) if finder is not cls else None
                if spec is not None and spec.origin is not None:
                    return cls.watch(spec)
        if name == "nuclio_sdk" or (name.startswith("nuclio_sdk.") and is_ours()):
            return sdk_spec(name)
        return None

    @staticmethod
    def watch(spec):
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            if module.__name__ == "asyncio":
                shim.asyncio_came()
            else:
                adopt(module)

        loader.exec_module = exec_module
        return spec


def adopt(sdk):
    """Makes our objects instances of the SDK's classes, and takes the SDK's objects for ours."""
    global RESPONSES
    for ours in (FrameEvent, Response, TriggerInfo, Platform, Logger, Context):
        theirs = getattr(sdk, ours.__name__, None)
        if isinstance(theirs, type):
            try:
                ours.__bases__ = theirs, (Event if ours is FrameEvent else Root)
            except TypeError:
                pass  # an SDK of another shape
    if isinstance(getattr(sdk, "Response", None), type):
        RESPONSES = Response, sdk.Response
        if shim.context is not None and shim.context.Response is Response:
            shim.context.Response = sdk.Response


def sdk_version():
    """Version of the installed SDK, found without importing it."""
    for path in sys.path:
        if os.path.isdir(path + "/nuclio_sdk"):
            for name in os.listdir(path):
                if name.startswith("nuclio_sdk-"):
                    return name[len("nuclio_sdk-"):].rpartition(".")[0]
            return "unknown"
    return "builtin"


# ---------------------------------------------------------------------------------------------- what few functions need

def typed_texts(data, at, count, decode):
    """The texts of an event that carries more than plain text: each has a type and a length."""
    texts = []
    for _ in range(count):
        value, at = typed(data, at, decode)
        texts.append(value)
    return texts


def typed(data, at, decode):
    kind, size = data[at:at + 1], U32.unpack_from(data, at + 1)[0]
    at += 5
    raw, end = data[at:at + size], at + size
    if kind == b"s":
        return raw.decode() if decode else raw, end
    if kind in b"lm":
        items = []
        while at < end:
            item, at = typed(data, at, decode)
            items.append(item)
        return items if kind == b"l" else dict(zip(items[::2], items[1::2])), end
    if kind == b"i":
        return int.from_bytes(raw, "little", signed=True), end
    if kind == b"f":
        return _struct.unpack("<d", raw)[0], end
    if kind == b"t":
        return raw != b"\0", end
    return (None if kind == b"n" else raw), end


def answer_batch(self, call, value):
    """One answer for each event of a batch, in one write. Answers are told apart by the text id of their event."""
    nanos = monotonic_ns() - call.started
    nothing = 200, NONE, TEXT, 0, b"", b""
    answers, texts = {}, {text for _, text in call.members}
    for item in value if isinstance(value, list) else [value]:
        event_id = getattr(item, "event_id", None) if isinstance(item, RESPONSES) else None
        if event_id:
            text = as_bytes(event_id)
            if text in texts and text not in answers:
                answers[text] = convert_member(item)
            else:
                what = "a second answer to an event" if text in texts else "an answer to an event that is not"
                self.logger.warn_with("Ignored %s of a batch" % what, event_id=str(event_id))
        elif isinstance(value, list):
            self.logger.warn("Ignored an answer without event_id in a batch")
        else:
            nothing = convert_member(item)  # one bare answer is for all
    for ident, text in call.members:
        self.send_answer(ident, nanos, answers.get(text, nothing), hold=True)
    self.channel.flush()


def convert_member(item):
    """As `convert`; an answer that cannot be sent fails its own event and no other."""
    try:
        if is_stream(item):
            raise HandlerFault("handler returned a generator for an event of a batch")
        converted = convert(item)
        shim.check_size(converted[5])
        return converted
    except Exception as error:
        message = message_of(error)
        shim.logger.error_with("Cannot send an answer of a batch", err=message)
        return 500, 0, TEXT, 0, b"", utf8(message)


class StreamCancelled(Exception):
    pass


class RequestBodyError(OSError):
    """No more of a request's body comes; the text says why. Nobody waits for an answer any more."""


class RequestBody:
    """The body of a request, for handlers with the attribute `stream_body`: read while it arrives.

    `read(size)`, and iteration over pieces as they come; in coroutines `await read_async(size)` and `async for`.
    """

    def __init__(self, shim, call, first, more):
        self.shim, self.call = shim, call
        self.pieces = [first] if first else []
        self.more = more       # may still come
        self.error = None
        self.asked = False     # the processor knows that the body is wanted
        self.taken = 0         # bytes that no credit has been given for yet

    def came(self, flags, piece):
        if flags & ABORT:
            self.more, self.error = False, piece.decode("utf-8", "replace")
            return
        if piece:
            self.pieces.append(piece)
        if flags & END:
            self.more = False

    def __iter__(self):
        return self

    def __next__(self):
        piece = self.next_piece()
        if not piece:
            raise StopIteration
        return piece

    def __aiter__(self):
        return self

    async def __anext__(self):
        piece = await self.next_piece_async()
        if not piece:
            raise StopAsyncIteration
        return piece

    def read(self, size=-1):
        """Up to `size` bytes, fewer at the end only; all that is left without a size. Waits for them."""
        pieces, missing = [], size if size is not None and size >= 0 else None
        while missing is None or missing:
            piece = self.next_piece(missing)
            if not piece:
                break
            pieces.append(piece)
            missing = missing if missing is None else missing - len(piece)
        return b"".join(pieces)

    async def read_async(self, size=-1):
        """As `read`, while other tasks run."""
        pieces, missing = [], size if size is not None and size >= 0 else None
        while missing is None or missing:
            piece = await self.next_piece_async(missing)
            if not piece:
                break
            pieces.append(piece)
            missing = missing if missing is None else missing - len(piece)
        return b"".join(pieces)

    def next_piece(self, limit=None):
        """What has come, as it came; nothing at the end."""
        while self.waits():
            self.shim.channel.fill()
            self.shim.poll()
        return self.take(limit)

    async def next_piece_async(self, limit=None):
        while self.waits():
            await self.shim.news(self.call)
        return self.take(limit)

    def waits(self):
        shim = self.shim
        if self.pieces or not self.more:
            return False
        if shim.find(self.call.ident) is not self.call:
            raise RequestBodyError("the event of this body has been answered")
        if not self.asked:
            self.asked = True
            self.credit(0)
        shim.poll()
        if shim.fault is not None:
            raise shim.fault
        if self.call.cancelled:
            raise RequestBodyError("cancelled")
        shim.channel.flush()
        return not self.pieces and self.more

    def take(self, limit):
        if not self.pieces:
            if self.error is not None:
                raise RequestBodyError(self.error)
            return b""
        piece = self.pieces[0]
        if limit is not None and len(piece) > limit:
            piece, self.pieces[0] = piece[:limit], piece[limit:]
        else:
            del self.pieces[0]
        self.taken += len(piece)
        if self.taken >= self.shim.credit // 2 and self.more:
            self.credit(self.taken)
            self.taken = 0
        return piece

    def credit(self, count):
        self.shim.channel.send(HEADER.pack(4, CREDIT_BACK, 0, 0, self.call.ident, 4) + U32.pack(count))


class Stream:
    """An answer on its way, piece by piece, as far as the processor's credit goes."""

    def __init__(self, shim, call, source):
        self.shim, self.call, self.source = shim, call, source
        self.asynchronous = type(source) is ASYNC_GENERATOR
        self.begun = False
        call.credit = shim.credit

    async def run(self, response):
        try:
            item = await self.pull()
            first = convert("" if item is self else self.first(response, item))
            if item is self:
                return self.answer(first, 0)
            self.begun = True
            self.answer(first[:5] + (b"",), MORE)
            await self.write(first[5])
            while True:
                item = await self.pull()
                if item is self:
                    return self.frame_out(END, b"")
                await self.write(raw_item(item))
        except (Closed, Stop, ProtocolFault):
            raise
        except BaseException as error:
            if not self.begun:
                raise
            await self.close()
            self.abort(error)

    def first(self, response, item):
        """A generator's first item is converted like any returned value, unless a Response came with it."""
        if response is None:
            return item
        return Response(headers=response.headers, body=item.body if isinstance(item, RESPONSES) else item,
                        content_type=response.content_type, status_code=response.status_code)

    def answer(self, converted, more):
        self.shim.send_answer(self.call.ident, monotonic_ns() - self.call.started, converted, more)

    async def pull(self):
        """The next item, or this object when there is none."""
        if not self.asynchronous:
            return next(self.source, self)
        task, self.call.task = self.call.task, self.call.task or self.shim.task
        try:
            return await self.source.__anext__()
        except StopAsyncIteration:
            return self
        finally:
            self.call.task = task

    async def write(self, piece):
        view = memoryview(piece)
        while True:
            if self.shim.several is None:
                self.shim.poll()
            else:
                await Suspend()  # The loop reads, and others get their turn.
            while self.call.credit <= 0 and view and not self.call.cancelled:
                await self.shim.news(self.call)
            if self.call.cancelled or self.call.over:
                raise StreamCancelled("cancelled")
            if not view:
                return self.shim.channel.flush()
            count = min(len(view), PIECE_BYTES_MAX, self.call.credit)
            self.call.credit -= count
            self.frame_out(0, view[:count])
            view = view[count:]

    def frame_out(self, flags, body):
        if self.call.over:
            return
        self.shim.written = monotonic_ns()
        self.shim.channel.send(HEADER.pack(len(body), DATA, flags, 0, self.call.ident, 0) + body)

    def abort(self, error):
        if not self.call.cancelled:
            message = message_of(error)
            self.shim.logger.error_with("Exception caught in handler", exc=message, traceback=traceback_of(error))
        uncancel(self.call.task or self.shim.task)
        self.frame_out(ABORT, utf8("%s: %s" % (type(error).__name__, message_of(error))))

    async def close(self):
        try:
            if self.asynchronous:
                await self.source.aclose()
            else:
                self.source.close()
        except (Closed, Stop, ProtocolFault):
            raise
        except BaseException as error:  # Its stream has ended, and an event has one answer.
            self.shim.logger.warn_with("Exception caught while closing a generator", exc=message_of(error))


def raw_item(item):
    if isinstance(item, RESPONSES):
        item = item.body
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    return utf8(item if isinstance(item, str) else str(item))


def without_nan(value, seen=()):
    """A copy whose floats are all numbers or texts."""
    if isinstance(value, float):
        if value != value:
            return "NaN"
        return {float("inf"): "Infinity", float("-inf"): "-Infinity"}.get(value, value)
    if value is None or isinstance(value, (str, int)):
        return value
    if any(value is outer for outer in seen):
        raise ValueError("Circular reference detected")
    if isinstance(value, dict):
        return {key: without_nan(item, seen + (value,)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item, seen + (value,)) for item in value]
    return without_nan(loggable(value), seen + (value,))


def log_to_files(handlers, level, text, fields):
    """Records for the files given to `Logger.set_handler`."""
    logging = std("logging")
    record = logging.makeLogRecord({"msg": text, "levelno": (level + 1) * 10, "with": dict(fields),
                                    "levelname": ("DEBUG", "INFO", "WARNING", "ERROR")[level]})
    for file, formatter in list(handlers.values()):
        try:
            file.write(formatter.format(record) + "\n")
            file.flush()
        except Exception as error:
            sys.stderr.write("--- Logging error ---\n%s\n" % error)


def event_to_json(event):
    fields = {name: value for name, value in vars(event).items() if not name.startswith("_")}
    fields["trigger"] = {"kind": event.trigger.kind, "name": event.trigger.name}
    if isinstance(event.body, bytes):
        fields["body"] = std("base64").b64encode(event.body).decode()
    return std("json").dumps(fields, default=str)


class EventDeserializerKinds:
    """Encodings of `Event.deserialize`."""

    msgpack, msgpack_raw, json = "msgpack", "msgpack_raw", "json"


def event_from(data, kind):
    if getattr(kind, "name", kind) == "json":
        data = std("json").loads(data)
    return [event_of(one) for one in data] if isinstance(data, list) else event_of(data)


def event_of(data):
    def get(name, default=None):
        return data.get(name, data.get(name.encode(), default))

    trigger, body, content_type = get("trigger") or {}, get("body"), get("content_type")
    if as_bytes(content_type or "") == JSON and isinstance(body, (bytes, str)):
        try:
            body = std("json").loads(body)
        except ValueError as error:
            sys.stderr.write("Failed deserializing json body, error message: %s\n" % error)
    return Event(body=body, content_type=content_type, fields=get("fields"), headers=get("headers"), _id=get("id"),
                 trigger=TriggerInfo(trigger.get("kind", trigger.get(b"kind")),
                                     trigger.get("name", trigger.get(b"name"))),
                 method=get("method"), path=get("path"), size=get("size"),
                 timestamp=utc(get("timestamp", 0) * 1_000_000), url=get("url"),
                 shard_id=get("shard_id"), num_shards=get("num_shards"), _type=get("type"),
                 type_version=get("type_version"), version=get("version"), offset=get("offset", 0), topic=get("topic"))


class QualifiedOffset:
    """A place in a stream, for explicit acks."""

    def __init__(self, topic, partition, offset):
        self.topic = topic
        self.partition = partition
        self.offset = offset

    @staticmethod
    def from_event(event):
        return QualifiedOffset(event.topic or event.path, event.shard_id, event.offset)

    def compile_explicit_ack_message(self):
        return {"kind": "streamMessageAck",
                "attributes": {"topic": self.topic, "partition": self.partition, "offset": self.offset}}


class ExceptionWithResponse(OSError):
    def __init__(self, status_code, body=None, content_type=None):
        super().__init__(status_code, body, content_type)
        self.status_code = status_code
        self.body = body
        self.content_type = content_type


def call_function(platform, function_name, event, timeout, service_name_override):
    """A blocking HTTP call of another function."""
    host = service_name_override
    if not host and platform.kind == "local":
        host = "nuclio-%s-%s" % (platform.namespace, function_name)
    connect = platform._connection_provider or std("http.client").HTTPConnection
    connection = connect("%s:8080" % (host or "nuclio-" + function_name), timeout=timeout)
    body, content_type = event.body, event.content_type or "text/plain"
    if isinstance(body, dict):
        body, content_type = std("json").dumps(body), "application/json"
    headers = event.headers
    headers["Content-Type"] = content_type
    headers.setdefault("X-Nuclio-Target", function_name)
    headers.pop("Content-Length", None)
    try:
        connection.request(event.method, event.path, body=body, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    content_type = headers.get("content-type", "text/plain")
    if content_type == "application/json":
        body = std("json").loads(body)
    return RESPONSES[-1](headers=headers, body=body, content_type=content_type, status_code=answer.status)


# The module `nuclio_sdk` for machines that do not have it.


def is_ours():
    return getattr(sys.modules.get("nuclio_sdk"), "__shim__", False)


def sdk_spec(name):
    if name != "nuclio_sdk" and name.partition(".")[2] not in SDK_PARTS:
        return None
    spec: "Any" = type(sys.__spec__)
    return spec(name, SdkLoader, origin="built into the shim", is_package=True)


class SdkLoader:
    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__.partition(".")[2]
        module.__dict__.update(SDK_PARTS[name]() if name else sdk_names())
        if not name:
            module.__shim__ = True
            module.__path__ = []
            module.__getattr__ = sdk_part
            adopt(module)


def sdk_part(name):
    if name in SDK_PARTS or name == "Logger":
        return __import__("nuclio_sdk." + name, fromlist=["*"]) if name != "Logger" else sdk_part("logger").Logger
    raise AttributeError("module 'nuclio_sdk' has no attribute %r" % name)


def sdk_names():
    return {
        "Context": Context, "Event": Event, "TriggerInfo": TriggerInfo, "Platform": Platform, "Response": Response,
        "EventDeserializerKinds": EventDeserializerKinds, "ExceptionWithResponse": ExceptionWithResponse,
        "QualifiedOffset": QualifiedOffset, "SINGLE_RESPONSE": "single", "GENERATOR_RESPONSE": "generator",
        "RESPONSE_WITH_GENERATOR_BODY": "response_with_generator_body",
    }


def sdk_json_encoder():
    json = std("json")

    class Encoder(json.JSONEncoder):  # type: ignore[name-defined]
        def default(self, o):
            return loggable(o)

        def encode(self, o):
            return super().encode(without_nan(o))

        def iterencode(self, o, _one_shot=False):
            return super().iterencode(without_nan(o), _one_shot)

    return {"json": json, "Encoder": Encoder}


def sdk_logger():
    logging = std("logging")

    class JSONFormatter(logging.Formatter):  # type: ignore[name-defined]
        def fields(self, record):
            return {"datetime": self.formatTime(record, self.datefmt), "level": record.levelname.lower(),
                    "message": record.getMessage(), "with": getattr(record, "with", {})}

        def format(self, record):
            return encode_json(self.fields(record))

        def format_to_log_control_message(self, record):
            return encode_json({"kind": "log", "attributes": self.fields(record)})

    class HumanReadableFormatter(logging.Formatter):  # type: ignore[name-defined]
        def format(self, record):
            fields = getattr(record, "with", None)
            return "Python> %s [%s] %s%s" % (self.formatTime(record, self.datefmt), record.levelname.lower(),
                                             record.getMessage(), ": %s" % fields if fields else "")

    class SdkLogger:
        """Writes to files, by way of the module `logging`."""

        def __init__(self, level, name="nuclio_sdk"):
            self._logger = logging.getLogger(name)
            self._logger.setLevel(level)
            self._bound_variables = {}

        def set_handler(self, handler_name, file, formatter):
            for handler in self._logger.handlers:
                if handler.name == handler_name:
                    self._logger.removeHandler(handler)
                    break
            handler = logging.StreamHandler(file)
            handler.name = handler_name
            handler.setFormatter(formatter)
            self._logger.addHandler(handler)

        def bind(self, **kw_args):
            self._bound_variables.update(kw_args)

        def _write(self, level, message, args, fields):
            fields.update(self._bound_variables)
            self._logger._log(level, message, args, **({"extra": {"with": fields}} if fields else {}))

    def add(name, level):
        def plain(self, message, *args):
            self._write(level, message, args, {})

        def with_fields(self, message, *args, **kw_args):
            self._write(level, message, args, kw_args)

        setattr(SdkLogger, name, plain)
        setattr(SdkLogger, name + "_with", with_fields)

    for name, level in (("debug", 10), ("info", 20), ("warn", 30), ("error", 40)):
        add(name, level)
    SdkLogger.__name__ = SdkLogger.__qualname__ = "Logger"
    try:
        Logger.__bases__ = SdkLogger, Root
    except TypeError:
        pass
    return {"Logger": SdkLogger, "JSONFormatter": JSONFormatter, "HumanReadableFormatter": HumanReadableFormatter}


def sdk_test():
    unittest, mock = std("unittest"), std("unittest.mock")

    class Platform:
        """Calls handlers in unit tests, and records what they call."""

        kind = "test"

        def __init__(self):
            self.call_function_mock = mock.MagicMock()
            self._logger = sdk_part("Logger")(10, "mock_platform")
            self._logger.set_handler("default", sys.stdout, sdk_part("logger").HumanReadableFormatter())
            self.context = Context(self._logger, self)
            self._contexts = {}

        def call_handler(self, handler, event):
            return handler(self._context_of(handler), event)

        def call_handler_with_context_mutation(self, handler, event, context_mutator):
            return handler(context_mutator(self._context_of(handler)), event)

        def call_function(self, name, event, node=None, timeout=None, service_name_override=None):
            return self.call_function_mock(name, event, node, timeout, service_name_override)

        def get_call_function_call_args(self, index):
            return self.call_function_mock.call_args_list[index][0]

        def _context_of(self, handler):
            if handler not in self._contexts:
                context = self._contexts[handler] = Context(self._logger, self)
                getattr(sys.modules[handler.__module__], "init_context", id)(context)
            return self._contexts[handler]

    class TestCase(unittest.TestCase):  # type: ignore[name-defined]
        def setUp(self):
            self._platform = Platform()
            self._environ = dict(os.environ)

        def tearDown(self):
            os.environ.clear()
            os.environ.update(self._environ)

    return {"Platform": Platform, "TestCase": TestCase}


SDK_PARTS = {
    "json_encoder": sdk_json_encoder, "logger": sdk_logger, "test": sdk_test, "helpers": dict,
    "context": sdk_names, "event": sdk_names, "platform": sdk_names, "response": sdk_names,
    "exceptions": sdk_names, "qualified_offset": sdk_names,
}


# ---------------------------------------------------------------------------------------------- start

def fail(code, text):
    """Tells the processor why this process is of no use, and ends it."""
    try:
        shim.channel.send(body_frame(FAILED, code, 0, text))
    except Closed:
        pass
    leave(1)


def leave(status):
    """Ends the process; threads that still run are not waited for."""
    try:
        shim.channel.flush()
    except Closed:
        pass
    try:
        if "atexit" in sys.modules:
            std("atexit")._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    os._exit(status)


def connect():
    """Our end of the socket; None if this process was not started for protocol 2."""
    descriptor = os.environ.pop("NUCLIO_SHIM_FD", "")
    path = os.environ.pop("NUCLIO_SHIM_SOCKET", "")
    if descriptor:
        sock = _socket.socket(fileno=int(descriptor))
        os.set_inheritable(sock.fileno(), False)
    elif path:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.connect(path)
    else:
        return None
    sock.setblocking(True)
    return sock


def protocol_1():
    """What stands in for the channel, and settings, where a Go processor has started us; else None."""
    if len(sys.argv) < 2:
        return None
    try:
        return std("_nuclio_v1").start(ProtocolFault, Closed)
    except ModuleNotFoundError as error:
        if error.name != "_nuclio_v1":
            raise
        sys.stderr.write("nuclio shim: protocol 1 is in _nuclio_v1.py, which belongs beside %s\n" % sys.argv[0])
        sys.exit(2)


def say_hello(channel):
    channel.send(b"NSH2" + pairs_frame(HELLO, 2, [
        ("language", "python"), ("version", "%d.%d.%d" % sys.version_info[:3]), ("sdk", sdk_version()),
        ("protocol_min", "2"), ("protocol_max", "2"),
        ("capabilities", "cancel,deadline,client-gone,batch,stream-in,stream-out,ack,control,web,preload"),
        ("max_inflight", str(IN_FLIGHT_MAX)),
        ("prefetch", str(PREFETCH)), ("pid", str(os.getpid()))]))


def read_init(channel):
    frame = channel.take()
    while frame is None:
        channel.fill()
        frame = channel.take()
    kind, _, code, _, data, at, _ = frame
    if kind != INIT or code != 2:
        raise ProtocolFault("want INIT of protocol 2, got a frame of kind 0x%02x, code %d" % (kind, code))
    texts = data[at:at + U32.unpack_from(data, at - 4)[0]].decode().split("\0")
    return dict(zip(texts[::2], texts[1::2]))


def greet():
    """HELLO, then INIT."""
    say_hello(shim.channel)
    return read_init(shim.channel)


def apply(settings):
    """Makes the shim what INIT says."""
    get = settings.get
    shim.channel.max_frame = int(get("max_frame") or 1 << 30)
    shim.decode = get("decode_strings", "1") != "0"
    shim.credit = int(get("credit") or 256 * 1024)
    shim.level = shim.log_level = int(get("log_level") or 0)
    shim.log_always = get("log_flush") == "always"
    shim.triggers = [(get("trigger.%d.kind" % i, ""), get("trigger.%d.name" % i, ""))
                     for i in range(int(get("triggers") or 0))]
    if not shim.decode:
        shim.triggers = [(kind.encode(), name.encode()) for kind, name in shim.triggers]
    shim.slots = int(get("max_inflight") or 1)
    worker = get("worker_id", "0")
    shim.logger = Logger(worker)
    shim.context = Context(shim.logger, Platform(get("platform_kind", "local"), get("namespace", "default")), worker,
                           TriggerInfo(get("trigger_kind", ""), get("trigger_name", "")))


def set_path(handler_dir):
    """The directory of this file stays in front, as with the reference; a file descriptor has none."""
    if sys.argv[0].startswith(("/proc/", "/dev/fd/")) and sys.path and sys.path[0] in (
            "", "/", os.path.dirname(sys.argv[0]), os.path.dirname(os.path.realpath(sys.argv[0]))):
        del sys.path[0]
    if handler_dir and handler_dir not in sys.path:
        sys.path.insert(0, handler_dir)


def load(text):
    """The handler that `module.sub:function` names, and the `init_context` beside it."""
    name, _, entry = text.partition(":")
    if not entry.isidentifier() or "/" in name or not all(name.split(".")):
        raise HandlerFault('handler "%s" does not have the form module:function; correct spec.handler' % text)
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise HandlerFault('no module "%s" (for handler "%s") in any of: %s; correct spec.handler, or name '
                               'the folder in NUCLIO_PYTHON_PATH' % (
                error.name, text, ", ".join(sys.path))) from None
        raise
    module = sys.modules[name]
    handler = getattr(module, entry, None)
    if handler is not None and not callable(handler):
        raise HandlerFault('"%s" in module "%s" (%s) is of type %s: neither a function handler(context, event) nor an '
                           'ASGI or WSGI application' % (entry, name, getattr(module, "__file__", "?"),
                                                         type(handler).__name__))
    if handler is None:
        found = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise HandlerFault('no function "%s" in module "%s" (%s); it has: %s; correct spec.handler' % (
            entry, name, getattr(module, "__file__", "?"), ", ".join(found) or "no function at all"))
    interface = interface_of(handler)
    # An application's class is of its framework.
    home = module if interface else sys.modules.get(getattr(handler, "__module__", None) or name, module)
    return handler, interface, getattr(home, "init_context", None)


def interface_of(handler):
    """What is called in its own way: "asgi" or "wsgi" for an application, else nothing. Its parameters tell."""
    names, required = parameters(handler)
    if names[:3] == ("scope", "receive", "send") or required == 3 and is_async(handler):
        return "asgi"
    if required == 2 and (names[1] == "start_response" or names[0] in ("environ", "env")) and not is_async(handler):
        return "wsgi"
    if required == 0 and isinstance(handler, FUNCTION) and not names and not hasattr(handler, "__wrapped__"):
        raise HandlerFault("%s() takes no arguments: it is neither a function handler(context, event) nor an ASGI or "
                           "WSGI application; if it makes one, name the variable that holds what it returns"
                           % handler.__qualname__)
    return ""


FUNCTION = type(std)


def parameters(called):
    """Names of the parameters that a call fills by place, and how many it must fill; -1: nobody knows."""
    filled = 0
    for _ in range(100):  # partials, methods, decorators that pass everything on
        if isinstance(called, type):
            break
        if hasattr(called, "func") and hasattr(called, "args"):
            filled += len(called.args)
            called = called.func
        elif hasattr(called, "__func__"):
            filled += 1
            called = called.__func__
        elif hasattr(called, "__code__"):
            code = called.__code__
            if not code.co_flags & 0x04:  # *args
                names = code.co_varnames[filled:code.co_argcount]
                return names, len(names) - len(called.__defaults__ or ())
            if not hasattr(called, "__wrapped__"):
                break
            called = called.__wrapped__
        else:
            call = getattr(called, "__call__", None)  # noqa: B004 - it is looked at, not called
            if not (hasattr(call, "__func__") or hasattr(call, "__code__")):
                break
            called = call
    return (), -1


def part(name, packed, wanted_by):
    """A part of the shim that few need: beside this file, or left by `bootstrap`."""
    code = globals().pop(packed, None)
    if code is None:
        try:
            return std(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise HandlerFault("%s: %s.py, which serves those, belongs beside %s" % (
                wanted_by, name, sys.argv[0])) from None
    module = type(sys)(name)
    sys.modules[name] = module
    exec(std("marshal").loads(code), module.__dict__)
    return module


def web_module():
    return part("_nuclio_web", "__web__", "the handler is a web application")


def fork_workers(settings):
    """Loads the handler once and is what workers are forked from; returns in each of them, with its socket."""
    handler, interface, _ = load(settings.get("handler", ""))
    preload = part("_nuclio_preload", "__preload__", "the function has spec.runtimeAttributes.preload")
    if interface:
        web_module()
    if is_async(handler) or interface == "asgi":
        std("asyncio")  # as each worker would
    if settings.get("event_loop") == "uvloop" or interface == "asgi" and settings.get("event_loop") == "auto":
        try:
            __import__("uvloop")
        except ImportError:
            pass
    channel = shim.channel
    try:
        return preload.fork_workers(channel.sock, std, shim.logger.warn,
                                    lambda: channel.send(pairs_frame(READY, 0, [])))
    except preload.Unfit as error:
        raise HandlerFault(message_of(error)) from None


def prepare(settings):
    """Loads the handler and makes the shim what it needs; returns the `init_context` beside it."""
    if settings.get("event_loop") == "uvloop":
        shim.use_uvloop(True)
    shim.handler, shim.interface, init_context = load(settings.get("handler", ""))
    if settings.get("max_inflight_for") == "web" and shim.interface != "asgi":
        shim.slots = 1
    if shim.interface == "asgi" and settings.get("event_loop") == "auto":
        shim.use_uvloop(False)
    if shim.interface:
        shim.application = web_module().serve(shim, shim.handler, shim.interface, settings)
    shim.sync_only = shim.application is None and not is_async(shim.handler)
    shim.streams = bool(shim.interface or getattr(shim.handler, "stream_body", False))
    return init_context


def or_fail(step, settings):
    """What that step of the start returns; its failure is told, and ends this process."""
    try:
        return step(settings)
    except HandlerFault as error:
        fail(LOAD_FAILED, message_of(error))
    except BaseException as error:
        fail(LOAD_FAILED, 'failed to load handler "%s": %s: %s\n%s' % (
            settings.get("handler"), type(error).__name__, message_of(error), traceback_of(error)))


def terminate(number, frame):
    shim.stopping = True
    waiter = shim.waiter
    if shim.several is not None:
        return shim.loop.call_soon_threadsafe(shim.several.wake_serve)
    if shim.waiting and waiter is not None and not waiter.done():
        # Not raised: other kinds of loops keep what signal handlers raise.
        shim.loop.call_soon_threadsafe(lambda: waiter.done() or waiter.set_result(None))
    elif shim.waiting:
        raise Stop


def set_signals():
    _signal.signal(_signal.SIGTERM, terminate)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    faulthandler.enable(2)  # SIGABRT: the stacks of all threads go to stderr


def leave_parent():
    """In a forked child: the socket is the parent's, and SIGTERM ends the child."""
    global IMPORTING
    shim.channel.sock.close()
    shim.channel.held.clear()
    # Another thread may have had them, and it is not here.
    shim.channel.lock, IMPORTING = _thread.RLock(), _thread.RLock()
    try:
        if _signal.getsignal(_signal.SIGTERM) is terminate:
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    except ValueError:
        pass  # forked by a thread that does not count as the main one
    accept_termination()


def defer_termination():
    """Before a fork: a SIGTERM that comes to the child before `leave_parent` would be lost."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])


def accept_termination():
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGTERM])


def main():
    global shim
    sock = connect()
    lines = protocol_1() if sock is None else None
    if sock is None and lines is None:
        sys.stderr.write("nuclio shim: neither NUCLIO_SHIM_FD nor NUCLIO_SHIM_SOCKET is set, nor is it started with "
                         "the arguments of protocol 1 (--event-socket-path, --control-socket-path)\n")
        sys.exit(2)
    shim = Shim(Channel(sock) if lines is None else lines[0])
    try:
        set_signals()
        os.register_at_fork(before=defer_termination, after_in_parent=accept_termination, after_in_child=leave_parent)
        settings = greet() if lines is None else lines[1]
        apply(settings)
        set_path(settings.get("handler_dir"))
        sys.meta_path.insert(0, Finder)
        if "nuclio_sdk" in sys.modules:
            adopt(sys.modules["nuclio_sdk"])
        if settings.get("preload") == "1":
            sock, response = or_fail(fork_workers, settings), shim.context.Response
            shim = Shim(Channel(sock))
            set_signals()
            settings = greet()
            apply(settings)
            shim.context.Response = response  # the SDK's, where the import has brought that
        shim.run(shim.live(or_fail(prepare, settings)))
    except (Closed, Stop):
        leave(0)
    except ProtocolFault as fault:
        fail(PROTOCOL_FAULT, message_of(fault))


if __name__ == "__main__":
    main()
