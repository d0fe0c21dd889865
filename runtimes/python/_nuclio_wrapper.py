# nuclio-shim-protocol: 2
"""Runs a user's Python handler for the processor, which started this file as a child process.

The two talk shim protocol 2 over one Unix stream socket: little-endian frames with a fixed header of 16 bytes.
Reading order: `main`, `Shim.serve` (the loop every event goes through), `Shim.answer` (what a returned value means).

Start-up time is a feature: only modules that cost nothing are imported here, everything else by `std` on first use.
The file is compiled at each start, so its length counts as well: it has what a plain function needs from the start to
its first answers, and `part` loads the others on first use. `_nuclio_more` is the rest of `Shim`, and what is done with
faults; `_nuclio_several` has several events in work at once, `_nuclio_streams` bodies that come and go in pieces,
`_nuclio_sdk` the names of `nuclio_sdk`, `_nuclio_web` applications.
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
UNUSUAL = MORE_IN | TYPED | NOT_UTF8 | BATCH

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
# Without an event for that long after the start there is time to load what faults need.
SETTLE_TIME, NO_TIME = _struct.pack("ll", 0, 200_000), _struct.pack("ll", 0, 0)

HEADER = _struct.Struct("<IBBHII")
EVENT_HEAD = _struct.Struct("<IqqiiIHH")  # from the last field of the frame header, the length of the head
PAIR_COUNTS = _struct.Struct("<HH")
ANSWER_HEAD = _struct.Struct("<IBBHIIIHH")
TEXT_HEAD = _struct.Struct("<IBBHIIIHH10s")  # of an answer that is only a text: with its type
MICROS = _struct.Struct("<q")
U32 = _struct.Struct("<I")
WAIT_ALL, DONT_WAIT = _socket.MSG_WAITALL, _socket.MSG_DONTWAIT
APART = 1 << 31              # beside a head's length: the body comes over the socket, although there is a pipe
write = os.write
TEXT, JSON = b"text/plain", b"application/json"
TEXT_HEAD_BYTES = TEXT_HEAD.size - HEADER.size

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


# Where the other parts are: beside this file, or their sources left by `bootstrap`.
HERE = sys.path[:1]
PARTS: "Any" = globals().pop("__parts__", None)
COMPILED: "Any" = globals().pop("__compiled__", None)
sys.modules["_nuclio_shim"] = sys.modules[__name__]  # This module, for them: the program may have another name.


def part(name):
    """Another part of the shim, loaded on first use."""
    module = IMPORTED.get(name)
    if module is None:
        with IMPORTING:
            module = sys.modules.get(name) or (load_beside(name) if PARTS is None else load_carried(name))
            IMPORTED[name] = module
            OURS.add(str(module.__file__))
    return module


def load_beside(name):
    path = sys.path
    sys.path = HERE + STANDARD_LIBRARY + path
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise HandlerFault("%s.py, a part of the shim, belongs beside %s" % (name, sys.argv[0])) from None
    finally:
        sys.path = path


def load_carried(name):
    module: "Any" = type(sys)(name)
    module.__file__ = "<nuclio shim: %s>" % name
    sys.modules[name] = module
    path = sys.path
    sys.path = STANDARD_LIBRARY + path
    try:
        for code in COMPILED(PARTS[name], module.__file__):
            exec(code, module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path = path
    return module


# ---------------------------------------------------------------------------------------------- frames


class Channel:
    """The socket: takes whole frames out of what it reads, writes whole frames. Those go through a pipe where the
    processor gives one, which costs half as much; large bodies do not."""

    start: "Any"
    large: "Any"
    pipe: "Any"

    def __init__(self, sock):
        self.sock, self.pipe = sock, None
        self.lock = _thread.RLock()
        # A fresh object of this size for each read would leave the heap in pieces: it grew for hours.
        self.room = memoryview(bytearray(READ_BYTES))
        self.data, self.at = b"", 0
        self.start, self.large, self.missing = None, None, 0  # a frame whose body is still coming
        self.max_frame = 1 << 30
        self.held, self.held_bytes = [], 0  # frames that go out with the next write
        self.writing = False  # a frame may be written in part: what a signal's handler logs meanwhile is held

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
                count = self.sock.recv_into(self.room, 0, flags)
                if not count:
                    raise Closed
                chunk = self.room[:count].tobytes()
                rest = self.data[self.at:]
                self.data, self.at = (rest + chunk if rest else chunk), 0
        except ConnectionError:
            raise Closed from None

    def fill_first(self):
        """As `fill`; a descriptor may come with it."""
        try:
            chunk, messages, flags, _ = self.sock.recvmsg(READ_BYTES, _socket.CMSG_LEN(U32.size),
                                                          _socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            raise Closed from None
        if not chunk:
            raise Closed
        for level, kind, data in messages:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS) and len(data) == U32.size:
                self.pipe, = U32.unpack(data)
        if flags & _socket.MSG_CTRUNC and self.pipe is None:
            # It is not known there that the pipe has not come: this is the only way left.
            sys.stderr.write("nuclio shim: no descriptor is left for the pipe that comes with INIT; raise the limit of "
                             "open files (ulimit -n)\n")
            raise Closed
        self.data += chunk

    def hold(self, frame):
        self.held.append(frame)
        self.held_bytes += len(frame)

    def send(self, frame, body=None):
        """Writes what is held, then this frame. The lock keeps other threads' log records out of it."""
        with self.lock:
            piped = self.pipe is not None
            if piped and (body is not None or len(frame) > JOIN_BYTES_MAX):
                frame, body = apart(frame, body)
            if self.held:
                self.held.append(frame)
                frame = b"".join(self.held)
                self.held.clear()
                self.held_bytes = 0
            self.writing = True
            try:
                if piped:
                    self.write_rest(frame, 0)
                    if body is not None:
                        self.sock.sendall(body)
                elif body is None:
                    self.sock.sendall(frame)
                else:
                    self.send_two(frame, body)
            except OSError:
                raise Closed from None
            finally:
                self.writing = False

    def write_rest(self, frame, count):
        """Into the pipe, what is behind the first so many bytes."""
        while count < len(frame):
            count += write(self.pipe, memoryview(frame)[count:])

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

    def abandon(self):
        """In a process that has been forked off: the other side is the parent's. What is written later fails."""
        self.held.clear()
        # Another thread may have had it, and that is not here.
        self.lock = _thread.RLock()
        # Forgotten before it is closed: the number may be a file of the child's next.
        pipe, self.pipe = self.pipe, None
        try:
            if pipe is not None:
                os.close(pipe)
            self.sock.close()
        except OSError:
            self.sock.detach()  # the user has closed all there was, and the number may be another file's


def apart(frame, body):
    """The frame without its body, and the body: whole frames may be given."""
    head, = U32.unpack_from(frame, 12)
    if body is None:
        frame, body = frame[:16 + head], memoryview(frame)[16 + head:]
    return frame[:12] + U32.pack(head | APART) + frame[16:], body


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
        return part("_nuclio_sdk").event_to_json(self)

    def compile_explicit_ack_message(self):
        return part("_nuclio_sdk").QualifiedOffset.from_event(self).compile_explicit_ack_message()

    @classmethod
    def deserialize(cls, data, kind=None):
        return part("_nuclio_sdk").event_from(data, kind)

    @staticmethod
    def from_json(data):
        return part("_nuclio_sdk").event_from(data, "json")

    @staticmethod
    def from_msgpack(data):
        return part("_nuclio_sdk").event_from(data, "msgpack")

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
        texts = part("_nuclio_more").typed_texts(data, at + 32, 12 + 2 * headers + 2 * fields, shim.decode)
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
        return shim.more().body_of(frame)
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
        return part("_nuclio_sdk").call_function(self, function_name, event, timeout, service_name_override)

    async def explicit_ack(self, qualified_offset):
        if self._control_callback is not None:
            await self._control_callback(qualified_offset.compile_explicit_ack_message())
        else:
            shim.more().ack(qualified_offset.topic, qualified_offset.partition, qualified_offset.offset)

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
                sys.stderr.write("--- Logging error ---\n%s: %r, arguments %s\n" % (
                    error, text, part("_nuclio_more").bounded_repr(args)))
        if fields:
            fields.update(self._bound)
        if self._handlers:
            part("_nuclio_more").log_to_files(self._handlers, level, text, fields or self._bound)
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


def fields_json(fields):
    """The fields of a record as a JSON object: whatever the values are, and however large."""
    try:
        encoded = encode_json(fields).encode()
        if len(encoded) <= LOG_FIELDS_MAX:
            return encoded
    except Exception:
        pass  # one of them is odd: one by one
    return part("_nuclio_more").safe_fields(fields)


def encode_json(value):
    """The JSON of returned values: NaN and infinities as texts, unknown objects by `__log__`, repr or str."""
    json = std("json")
    try:
        return json.dumps(value, allow_nan=False, default=loggable)
    except ValueError:
        return json.dumps(part("_nuclio_more").without_nan(value))


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


def text_answer(call, text):
    """As `Shim.send_answer`, for the many."""
    micros = (monotonic_ns() - call.started) // 1000
    return TEXT_HEAD.pack(TEXT_HEAD_BYTES + len(text), ANSWER, 0, 200, call.ident, TEXT_HEAD_BYTES,
                          micros if micros < 0xFFFFFFFF else 0xFFFFFFFF, 0, 0, TEXT) + text


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


def is_generator(function):
    code = getattr(function, "__code__", None)
    return bool(code is not None and code.co_flags & 0x220)  # also an asynchronous one


OURS = {std.__code__.co_filename}  # files whose frames are left out of what users are shown


def traceback_of(error):
    return part("_nuclio_more").traceback_of(error)


def message_of(error):
    try:
        return str(error)
    except BaseException:  # Whatever the user's code raises there: the event has to be answered.
        return type(error).__name__


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
    value: "Any" = None    # what the handler has said, where it has been called already
    # Where several are in work:
    begun = False      # the handler has been called
    over = False       # answered: nothing is sent for it any more
    logger: "Any" = None
    log_level = DEBUG

    def __init__(self, ident, argument):
        self.ident = ident
        self.argument = argument


ANSWERED = object()  # the value of a call that nothing is left to do for
new = object.__new__  # without `__init__`, which would be one more function that is called


class Shim:
    """Serves one event after the other. `more` makes it one that also does what few functions need."""

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
    # Methods that it has once it is whole.
    idle: "Any"
    undisturbed: "Any"
    readable_again: "Any"

    sources = ""  # the file in which loaded sources are listed, for `processor dev`
    listed = 0    # that many modules have been looked at

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

    def more(self):
        """The same shim with all its methods."""
        self.__class__ = part("_nuclio_more").WholeShim
        return self

    # -- life

    async def live(self, init_context):
        self.serving = True
        if init_context is not None:
            try:
                done = init_context(self.context)
                if hasattr(done, "__await__"):
                    await self.more().whole(done)
            except BaseException as error:
                fail(INIT_FAILED, "init_context failed: %s\n%s" % (message_of(error), traceback_of(error)))
        if self.application is not None:
            await self.application.start()
        if self.slots > 1 and self.sync_only:
            self.more().only_one()
        if self.slots > 1:  # What the first event needs is there when it comes.
            part("_nuclio_several")
        if self.streams or is_generator(self.handler):
            part("_nuclio_streams")
        self.list_sources()
        self.channel.send(pairs_frame(READY, 0, [
            ("handler_async", "0" if self.sync_only else "1"), ("max_inflight", str(self.slots)),
            ("stream_in", "1" if self.streams else "0")] + ([("web", self.interface)] if self.interface else [])))
        if self.slots > 1 or "asyncio" in sys.modules and self.interface != "wsgi":
            await self.enter_loop()
        if self.looping:
            self.base = std("contextvars").copy_context()
        if self.slots > 1 or self.application is not None:
            self.several = self.application or part("_nuclio_several").Several(self)
            await self.several.serve()
        if PARTS is None and not self.looping and type(self.channel) is Channel:
            self.settle()
        await self.serve()

    def serve_usual(self):
        """Serves events as long as they are as most are: whole, alone, answered at once. What such an event costs are
        the functions that are called for it, so none is that can be left out. Returns None where something else has
        come, or a call with a value that `serve` has to go on with. Raises what the handler does, in `self.call`."""
        channel, handler, context = self.channel, self.handler, self.context
        receive, room, max_frame = channel.sock.recv_into, channel.room, channel.max_frame
        while not self.queue:
            data, at = channel.data, channel.at
            if at == len(data):
                if channel.start is not None:  # a handler has read on, as far as into a body
                    return None
                event = call = value = text = frame = None  # not kept until the next one comes
                if channel.held or self.sources:
                    self.before_waiting()
                self.waiting = True
                if self.stopping:
                    raise Stop
                try:
                    count = receive(room)
                except ConnectionError:
                    raise Closed from None
                self.waiting = False
                if not count:
                    raise Closed
                data, at = channel.data, channel.at = room[:count].tobytes(), 0
            if len(data) - at < 16:
                return None
            size, kind, flags, code, ident, head = HEADER.unpack_from(data, at)
            at += 16
            end = at + size
            if kind != EVENT or flags & UNUSUAL or end > len(data) or not head <= size <= max_frame:
                return None
            channel.at = end
            event = new(FrameEvent)
            event._frame = kind, flags, code, ident, data, at, data[at + head:end]
            self.call = call = new(Call)
            call.ident, call.argument = ident, event
            self.log_level = (code >> 12) - 1 if code >> 12 else self.level
            call.started = self.written = monotonic_ns()
            value = handler(context, event)
            kind = type(value)
            if kind is str:
                text = value.encode() if value.isascii() else utf8(value)
            elif kind is bytes:
                text = value
            elif kind in PLAIN or not hasattr(kind, "__await__") and not is_stream(value):
                text = None
            else:
                call.value = value
                return call
            pipe = channel.pipe  # looked at again: the handler may have forked, and this be the child
            if text is None or pipe is None or len(text) > JOIN_BYTES_MAX:
                if value is not call:
                    self.answer(call, value if text is None else text)
            else:
                frame = text_answer(call, text)
                with channel.lock:
                    if channel.held:
                        channel.send(frame)
                    else:
                        channel.writing = True
                        try:
                            count = write(pipe, frame)
                            if count < len(frame):
                                channel.write_rest(frame, count)
                        except OSError:
                            raise Closed from None
                        finally:
                            channel.writing = False
            if self.stopping or self.loop is not None:
                call.value = ANSWERED
                return call
            self.call = None
            self.log_level = self.level
        return None

    async def serve(self):
        """Every frame goes through here. Returns only to be started again in a fresh context."""
        channel, handler, context = self.channel, self.handler, self.context
        take, usual = channel.take, type(channel) is Channel
        call: "Any"
        while True:
            frame = call = value = None  # not kept for as long as those of others do
            try:
                if usual and self.loop is None and channel.start is None:
                    call = self.serve_usual()
                if call is not None:
                    value = call.value
                else:
                    frame = self.queue.pop(0) if self.queue else take()
                    if frame is None:
                        if self.looping and not self.idle():
                            await self.readable_again()
                        else:
                            self.read()
                        continue
                    if frame[0] != EVENT:
                        await self.more().other(frame)
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
                    value = handler(context, call.argument)
                if type(value) not in PLAIN:
                    if hasattr(type(value), "__await__"):
                        value = await self.more().wait_for(call, value)
                    if is_stream(value):
                        await self.more().stream(call, value)
                        value = call
                if value is not call and value is not ANSWERED:
                    self.answer(call, value)
            except (Closed, Stop, ProtocolFault):
                raise
            except BaseException as error:
                if self.call is None:
                    raise  # no handler's
                self.more().failed(self.call, error)
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

    def list_sources(self):
        """Lists the user's modules that have been loaded since the last time, where somebody wants to know them."""
        if not self.sources or self.listed == len(sys.modules):
            return
        modules = list(sys.modules.values())[self.listed:]
        self.listed += len(modules)
        files = [str(getattr(module, "__dict__", {}).get("__file__") or "") for module in modules]
        library = os.path.dirname(os.__file__) + "/"
        ours = [file for file in files if file.startswith("/") and not file.startswith((library, "/proc/"))
                and "/site-packages/" not in file and "/dist-packages/" not in file and "\n" not in file]
        if ours:
            with open(self.sources, "a", encoding="utf-8", errors="surrogateescape") as out:
                out.write("\n".join(ours) + "\n")

    def before_waiting(self):
        self.channel.flush()
        if self.sources:
            self.list_sources()
        if self.fault is not None:
            raise self.fault
        self.waiting = True
        if self.stopping:
            raise Stop

    def settle(self):
        """Waits for the first event. If none comes, there is time to read what is needed when something goes wrong:
        then there may be no descriptor left to read it from."""
        sock = self.channel.sock
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, SETTLE_TIME)
        try:
            self.read()
        except BlockingIOError:
            self.waiting = False
            self.more()
        finally:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, NO_TIME)

    def read(self):
        """Blocks until something has been read."""
        self.before_waiting()
        self.channel.fill()
        self.waiting = False

    def receive(self, frame):
        """Makes a call of an EVENT frame; None if the batch is not complete or the event cannot be read."""
        flags, code = frame[1], frame[2]
        self.log_level = (code >> 12) - 1 if code >> 12 else self.level
        call = Call(frame[3], FrameEvent(frame))
        return call if not flags & UNUSUAL else self.more().receive_unusual(frame, call)

    # -- the event loop, where there is one

    def run(self, coroutine):
        """Drives `serve`: by hand until an event loop is wanted, then inside it."""
        if self.sync_only and (self.interface == "wsgi" or "asyncio" not in sys.modules):
            coroutine.send(None)  # comes back only when it wants a loop
        self.more().run_loop(coroutine)

    async def enter_loop(self):
        if not self.looping:
            await Suspend()

    # -- answers

    def answer(self, call, value):
        if call.members is not None:
            return part("_nuclio_more").answer_batch(self, call, value)
        kind = type(value)
        if kind is str or kind is bytes:
            value = value if kind is bytes else utf8(value)
            if len(value) <= JOIN_BYTES_MAX:
                return self.channel.send(text_answer(call, value))
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
            if not channel.writing and (
                    level >= WARN or ident == 0 or self.log_always or channel.held_bytes > LOGS_HELD_BYTES_MAX
                    or now - self.written > LOGS_HELD_NS_MAX):
                self.written = now
                channel.flush()
            elif self.several is not None:
                self.several.flush_later()


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
        if name == "nuclio_sdk" or (name.startswith("nuclio_sdk.") and part("_nuclio_sdk").is_ours()):
            return part("_nuclio_sdk").sdk_spec(name)
        return None

    @staticmethod
    def watch(spec):
        loader = spec.loader
        execute = loader.exec_module

        def exec_module(module):
            execute(module)
            if module.__name__ == "asyncio":
                shim.more().asyncio_came()
            else:
                part("_nuclio_sdk").adopt(module)

        loader.exec_module = exec_module
        return spec


def sdk_version():
    """Version of the installed SDK, found without importing it."""
    for path in sys.path:
        if os.path.isdir(path + "/nuclio_sdk"):
            for name in os.listdir(path):
                if name.startswith("nuclio_sdk-"):
                    return name[len("nuclio_sdk-"):].rpartition(".")[0]
            return "unknown"
    return "builtin"


# ---------------------------------------------------------------------------------------------- start

def fail(code, text):
    """Tells the processor why this process is of no use, and ends it."""
    shim.list_sources()
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


def say_hello(channel):
    channel.send(b"NSH2" + pairs_frame(HELLO, 2, [
        ("language", "python"), ("version", "%d.%d.%d" % sys.version_info[:3]), ("sdk", sdk_version()),
        ("protocol_min", "2"), ("protocol_max", "2"),
        ("capabilities", "cancel,deadline,client-gone,batch,stream-in,stream-out,ack,control,web,preload,pipe"),
        ("max_inflight", str(IN_FLIGHT_MAX)),
        ("prefetch", str(PREFETCH)), ("pid", str(os.getpid()))]))


def read_init(channel):
    frame = channel.take()
    while frame is None:
        channel.fill_first() if channel.start is None else channel.fill()
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
    shim.sources = get("source_list", "")
    if shim.sources:
        # A source that is saved twice within a second would be taken for the first one's compiled form.
        sys.dont_write_bytecode = True
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
            part("_nuclio_more").refuse_module(text, error.name)
        raise
    module = sys.modules[name]
    handler = getattr(module, entry, None)
    if not callable(handler):
        part("_nuclio_more").refuse_entry(module, name, entry, handler)
    interface = interface_of(handler)
    # An application's class is of its framework.
    home = module if interface else sys.modules.get(getattr(handler, "__module__", None) or name, module)
    return handler, interface, getattr(home, "init_context", None)


FUNCTION = type(std)


def interface_of(handler):
    """What is called in its own way: "asgi" or "wsgi" for an application, else nothing. Its parameters tell."""
    if type(handler) is FUNCTION:
        code = handler.__code__
        names = code.co_varnames[:code.co_argcount]
        if (len(names) == 2 and not code.co_flags & 0x04 and names[0] not in ("environ", "env")
                and names[1] != "start_response"):
            return ""  # as nearly all are
    return part("_nuclio_more").interface_of(handler)


def fork_workers(settings):
    """Loads the handler once and is what workers are forked from; returns in each of them, with its socket."""
    handler, interface, _ = load(settings.get("handler", ""))
    preload = part("_nuclio_preload")
    part("_nuclio_more")  # each worker has it at no cost then
    if interface:
        part("_nuclio_web")
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
        shim.more().use_uvloop(True)
    shim.handler, shim.interface, init_context = load(settings.get("handler", ""))
    if settings.get("max_inflight_for") == "web" and shim.interface != "asgi":
        shim.slots = 1
    if shim.interface == "asgi" and settings.get("event_loop") == "auto":
        shim.more().use_uvloop(False)
    if shim.interface:
        shim.application = part("_nuclio_web").serve(shim.more(), shim.handler, shim.interface, settings)
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
    shim.channel.abandon()
    IMPORTING = _thread.RLock()  # Another thread may have had it, and that is not here.
    try:
        if _signal.getsignal(_signal.SIGTERM) is terminate:
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
    except ValueError:
        pass  # forked by a thread that does not count as the main one
    finally:
        accept_termination()


def defer_termination():
    """Before a fork: a SIGTERM that comes to the child before `leave_parent` would be lost."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])


def accept_termination():
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGTERM])


def main():
    global shim
    sock = connect()
    lines = part("_nuclio_more").protocol_1() if sock is None else None
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
            part("_nuclio_sdk").adopt(sys.modules["nuclio_sdk"])
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
    except HandlerFault as fault:  # A part is missing.
        fail(LOAD_FAILED, message_of(fault))


if __name__ == "__main__":
    main()
