"""Lets the shim beside this file serve a Go processor, which starts it with arguments and speaks shim protocol 1.

The shim itself knows frames of protocol 2 only: a `Lines` stands in for its channel. What comes, msgpack, becomes
frames; frames that the shim sends become lines of a letter and JSON. A connection has one event in work at a time: one
connection that we make, or, where the processor says an address to listen on, many that it makes.
"""

import base64
import datetime
import json
import os
import select
import signal
import socket
import struct
import sys
import threading

# Kinds of frames and flags, as in the shim.
EVENT, CONTROL = 0x02, 0x06
READY, ANSWER, DATA, LOG, CONTROL_DONE, ACK, FAILED = 0x82, 0x83, 0x84, 0x86, 0x87, 0x88, 0x8F
NO_BODY, BODY_JSON, BATCH, BATCH_END, TYPED = 0x02, 0x04, 0x08, 0x10, 0x20
MORE, NO_ACK, NONE = 0x01, 0x04, 0x08
END, ABORT = 0x01, 0x02
DRAIN, CONTINUE, TERMINATE = 1, 2, 3
SIGNALS = {signal.SIGUSR1: TERMINATE, signal.SIGUSR2: DRAIN, signal.SIGCONT: CONTINUE}
CALLBACKS = {DRAIN: "Calling platform drain handler", TERMINATE: "Calling platform termination handler"}
LEVELS = "debug", "info", "warning", "error"

HEADER = struct.Struct("<IBBHII")
EVENT_HEAD = struct.Struct("<IqqiiIHH")
ANSWER_HEAD = struct.Struct("<IBBHIIIHH")
LENGTH = struct.Struct(">i")
READ_BYTES = 64 * 1024
PIECE_BYTES = 1 << 20        # of one read of a large event
EVENTS_AT_ONCE = 32768
CREDIT = str(1 << 62)        # protocol 1 has no flow control but the socket's
DISCARDED = "Event discarded: worker draining"
# A Go processor before 1.15 waits for ever for the end of an answer in pieces; newer ones come with this file.
NEWER_FILE = "wrapper_common.py"

MYPY = False
if MYPY:
    from typing import Any


# ---------------------------------------------------------------------------------------------- msgpack


class Unpacker:
    """As much of msgpack as events need. Texts that are not UTF-8 come with lone surrogates."""

    def __init__(self, data):
        self.data, self.at = memoryview(data), 0

    def take(self, count):
        at, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise ValueError("msgpack data ends too early")
        return bytes(self.data[at:self.at])

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def text(self, count):
        return self.take(count).decode("utf-8", "surrogateescape")

    def list(self, count):
        return [self.value() for _ in range(count)]

    def map(self, count):
        return {self.value(): self.value() for _ in range(count)}

    def extension(self, count):
        kind, data = self.number("b"), self.take(count)
        return seconds(data) if kind == -1 else data

    def value(self):
        head = self.number("B")
        if head < 0x80:
            return head
        if head < 0x90:
            return self.map(head & 0x0F)
        if head < 0xA0:
            return self.list(head & 0x0F)
        if head < 0xC0:
            return self.text(head & 0x1F)
        if head >= 0xE0:
            return head - 0x100
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if 0xCA <= head <= 0xD3:
            return self.number("fdBHIQbhiq"[head - 0xCA])
        if 0xD4 <= head <= 0xD8:
            return self.extension(1 << head - 0xD4)
        sized = {0xC4: self.take, 0xC7: self.extension, 0xD9: self.text}
        for first, read in sized.items():
            if first <= head < first + 3:
                return read(self.number("BHI"[head - first]))
        for first, read in {0xDC: self.list, 0xDE: self.map}.items():
            if first <= head < first + 2:
                return read(self.number("HI"[head - first]))
        raise ValueError("no msgpack type 0x%02x" % head)


def seconds(data):
    """A time of msgpack, as seconds since 1970."""
    if len(data) == 4:
        return float(struct.unpack(">I", data)[0])
    if len(data) == 8:
        both = struct.unpack(">Q", data)[0]
        return (both & (1 << 34) - 1) + (both >> 34) / 1e9
    nanos, whole = struct.unpack(">Iq", data)
    return whole + nanos / 1e9


def unpack_here(data):
    unpacker = Unpacker(data)
    value = unpacker.value()
    if unpacker.at != len(data):
        raise ValueError("%d bytes follow the msgpack value" % (len(data) - unpacker.at))
    return value


def unpacker():
    """The decoder of the package, where images have it, else the one above."""
    try:
        import msgpack  # type: ignore[import-not-found, import-untyped, unused-ignore]

        def unpack(data):
            return msgpack.unpackb(data, raw=False, unicode_errors="surrogateescape", strict_map_key=False,
                                   ext_hook=lambda kind, data: data, timestamp=1)

        unpack(b"\x81\xa1a\xc0")
        return unpack
    except Exception:
        return unpack_here


# ---------------------------------------------------------------------------------------------- events


def event_frame(event, ident, flags):
    """The frame of protocol 2 for an event of protocol 1, as the shim's channel would have read it."""
    get = event.get
    trigger, headers, fields = get("trigger") or {}, get("headers") or {}, get("fields") or {}
    texts = [get(name) or "" for name in ("id", "method", "path")]
    texts.append("")  # the query, which protocol 1 leaves out
    texts += [get(name) or "" for name in ("url", "content_type", "topic", "type", "type_version", "version")]
    texts += [trigger.get("kind") or "", trigger.get("name") or ""]
    for pairs in (headers, fields):
        for name, value in pairs.items():
            texts += name, value
    body = get("body")
    if body is None:
        flags, body = flags | NO_BODY, b""
    elif isinstance(body, str):
        body = raw(body)
    elif not isinstance(body, bytes):
        flags, body = flags | BODY_JSON, json.dumps(body).encode()
    try:
        # Bytes, numbers, texts with a NUL and texts that are not UTF-8 need the longer form.
        joined = "\0".join(texts)
        table = joined.encode()
        if joined.count("\0") != len(texts) - 1:
            raise ValueError
    except (TypeError, ValueError):
        flags, table = flags | TYPED, b"".join(map(typed, texts))
    head = EVENT_HEAD.pack(32 + len(table), int(get("timestamp") or 0) * 1_000_000, get("offset") or 0,
                           number(get("shard_id"), -1), number(get("num_shards"), 0), 0, len(headers), len(fields))
    return EVENT, flags, 0, ident, head + table, 4, body


def number(value, default):
    return default if value is None else value


def raw(text):
    return text.encode("utf-8", "surrogateescape")


def typed(value):
    if isinstance(value, str):
        kind, data = b"s", raw(value)
    elif isinstance(value, bool):
        kind, data = b"t", bytes([value])
    elif isinstance(value, int):
        kind, data = b"i", struct.pack("<q", value)
    elif isinstance(value, float):
        kind, data = b"f", struct.pack("<d", value)
    elif isinstance(value, (list, tuple)):
        kind, data = b"l", b"".join(map(typed, value))
    elif isinstance(value, dict):
        kind, data = b"m", b"".join([typed(one) for pair in value.items() for one in pair])
    else:
        kind, data = (b"n", b"") if value is None else (b"b", bytes(value))
    return kind + struct.pack("<I", len(data)) + data


# ---------------------------------------------------------------------------------------------- lines


class Connection:
    """Brings events, takes lines. One that we gave up is `ended`: nothing is written to it."""

    def __init__(self, sock):
        self.sock = sock
        self.chunks, self.size = [], 0  # read so far
        self.missing = 4                # until something can be done with it
        self.ended = self.leaving = False

    def read(self):
        """Reads once; False at the end."""
        try:
            chunk = self.sock.recv(max(READ_BYTES, min(self.missing, PIECE_BYTES)), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.chunks.append(chunk)
        self.size += len(chunk)
        return bool(chunk)

    def payload(self):
        """The next event, if all of it has been read."""
        if self.size < self.missing:
            return None
        data = b"".join(self.chunks)
        length = LENGTH.unpack_from(data)[0]
        if length <= 0:
            raise ValueError("event of %d bytes" % length)
        end = 4 + length
        if len(data) < end:
            self.chunks, self.missing = [data], end
            return None
        rest = data[end:]
        self.chunks, self.size, self.missing = [rest], len(rest), 4
        return data[4:end]


class Batch:
    """Events that are answered together."""

    def __init__(self, count):
        self.missing, self.answers, self.micros = count, [], 0


class Work:
    """An event in work."""

    def __init__(self, connection, event_id, batch):
        self.connection, self.event_id, self.batch = connection, event_id, batch
        self.head, self.pieces, self.micros = None, [], 0  # of an answer in pieces


class Descriptor:
    """What the shim takes for its socket: ready when anything of ours is."""

    def __init__(self, lines):
        self.lines = lines

    def fileno(self):
        return self.lines.epoll.fileno()

    def setblocking(self, flag):
        pass


class Lines:
    """In the place of the shim's channel."""

    max_frame = 1 << 30
    writing = False  # what is logged is translated at once, and goes out whole

    def __init__(self, fault, closed, arguments):
        self.fault, self.closed = fault, closed  # what the shim wants raised
        self.lock = threading.RLock()
        self.sock = Descriptor(self)
        self.unpack = unpacker()
        self.worker = arguments.get("worker-id", "0")
        self.pieces = os.environ.pop("NUCLIO_SHIM_STREAM_LINES", "") == "1" or os.path.exists(
            os.path.join(os.path.dirname(os.path.abspath(__file__)), NEWER_FILE))
        self.held, self.held_bytes = [], 0      # (connection, line)
        self.frames, self.signals = [], []      # that have come
        self.work, self.ident = {}, 0
        self.discarding, self.calling = False, 0
        self.epoll = select.epoll()
        self.connections = {}                   # by descriptor
        self.listener: "Any" = None
        self.address = None
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.epoll.register(self.wake_read, select.EPOLLIN)
        self.control = connect(arguments["control-socket-path"])
        self.epoll.register(self.control.fileno(), select.EPOLLIN)
        self.only = None
        path = arguments["event-socket-path"].split(", ")[0]
        host, _, port = path.rpartition(":")
        if "/" not in path and port.isdigit():
            self.address = host, int(port)
        else:
            self.only = self.add(connect(path))
        for number in SIGNALS:
            signal.signal(number, self.signalled)

    def add(self, sock):
        connection = self.connections[sock.fileno()] = Connection(sock)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        return connection

    def signalled(self, number, _):
        self.signals.append(number)
        try:
            os.write(self.wake_write, b"!")
        except OSError:
            pass  # it is awake, or this is a child that has no part in it

    def abandon(self):
        """In a process that has been forked off: the other side is the parent's."""
        self.held.clear()
        self.lock = threading.RLock()  # Another thread may have had it, and that is not here.
        if self.wake_write < 0:
            return  # one that has been forked off by such a process
        for sock in [connection.sock for connection in self.connections.values()] + [self.control, self.listener]:
            if sock is not None:
                sock.close()
        self.epoll.close()
        os.close(self.wake_read)
        os.close(self.wake_write)
        self.wake_write = -1

    # -- what comes

    def fill(self, flags=0):
        """Reads what is there; waits for something unless told not to."""
        ready = self.epoll.poll(0 if flags else -1)
        if not ready:
            raise BlockingIOError
        for descriptor, _ in ready:
            if descriptor == self.wake_read:
                os.read(self.wake_read, 4096)
            elif descriptor == self.control.fileno():
                self.read_control()
            elif self.listener is not None and descriptor == self.listener.fileno():
                self.accept()
            else:
                self.read(self.connections[descriptor])

    def read_control(self):
        """Nothing is ever written there, so that it has ended."""
        try:
            going_on = self.control.recv(READ_BYTES)
        except OSError:
            going_on = b""  # the processor has left without reading all that we said
        if not going_on:
            raise self.closed

    def accept(self):
        try:
            sock, _ = self.listener.accept()
        except OSError:
            return  # gone again
        sock.setblocking(True)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.say(self.add(sock), "s")
        self.flush()

    def read(self, connection):
        going_on = connection.read()
        try:
            payload = connection.payload()
            while payload is not None:
                self.came(connection, payload)
                payload = connection.payload()
        except ValueError as error:
            raise self.fault("cannot go on after an %s" % error) from None
        if not going_on:
            if connection is self.only:
                raise self.closed
            self.epoll.unregister(connection.sock.fileno())
            connection.leaving = True
            self.leave(connection)

    def leave(self, connection):
        """Closes a connection of many, once nobody waits for anything on it any more."""
        if self.calling or connection.ended:
            return  # The processor takes its end for the end of the callback.
        del self.connections[connection.sock.fileno()]
        connection.ended = True
        connection.sock.close()

    def came(self, connection, payload):
        try:
            value = self.unpack(payload)
            events = value if isinstance(value, list) else [value]
            batch = Batch(len(events)) if isinstance(value, list) else None
            frames = []
            for place, event in enumerate(events, 1):
                flags = 0 if batch is None else BATCH | (BATCH_END if place == len(events) else 0)
                ident = (self.ident + place) % 0x7FFFFFFF
                frames.append((event_frame(event, ident, flags), Work(connection, event.get("id") or "", batch)))
            self.ident += len(frames)
            self.work.update({frame[3]: work for frame, work in frames})
            self.frames += [frame for frame, _ in frames]
        except Exception as error:
            text = 'Exception caught while serving - "%s"' % error
            self.log(connection, 3, text, {"worker_id": self.worker})
            self.answer_text(connection, text)

    def take(self):
        """The next frame, or None."""
        while self.signals:
            frame = self.obey(self.signals.pop(0))
            if frame is not None:
                return frame
        while self.frames:
            frame = self.frames.pop(0)
            if not self.discarding:
                return frame
            work = self.work.pop(frame[3])
            if work.batch is None or frame[1] & BATCH_END:
                self.log(work.connection, 2, "Event has been discarded", {"worker_id": self.worker})
                self.answer_text(work.connection, DISCARDED)
        return None

    def obey(self, number):
        """A frame for what a signal asks."""
        code = SIGNALS[number]
        self.log(None, 0, "Received signal", {"signal": signal.Signals(number).name, "worker_id": self.worker})
        again, self.discarding = self.discarding and code == DRAIN, code != CONTINUE
        if code == CONTINUE or again:
            self.flush()
            return None
        self.log(None, 0, CALLBACKS[code], {"worker_id": self.worker})
        self.flush()
        self.calling += 1
        return CONTROL, 0, code, code, b"", 0, b""

    # -- what goes

    def hold(self, frame):
        self.translate(frame, b"")

    def send(self, frame, body=None):
        """Writes what is held, then this frame. The lock keeps other threads' log records out of it."""
        with self.lock:
            if frame:
                self.translate(frame, body or b"")
            self.flush()

    def flush(self):
        with self.lock:
            held, self.held, self.held_bytes = self.held, [], 0
            start = 0
            for end in range(1, len(held) + 1):
                connection = held[start][0]
                if end == len(held) or held[end][0] is not connection:
                    self.write(connection, b"".join([line for _, line in held[start:end]]))
                    start = end

    def write(self, connection, data):
        if connection is not None and connection.ended:
            return
        try:
            (self.control if connection is None else connection.sock).sendall(data)
        except OSError:
            if connection is None or connection is self.only:
                raise self.closed from None
            # Its end is read, too.

    def say(self, connection, letter, text=""):
        """Holds a line; without a connection one of the control connection."""
        line = (letter + text + "\n").encode("utf-8", "replace")
        with self.lock:  # Another thread may be writing what is held.
            self.held.append((connection, line))
            self.held_bytes += len(line)

    def tell(self, kind, **attributes):
        self.say(None, "", json.dumps({"kind": kind, "attributes": attributes}))

    def log(self, connection, level, message, fields, micros=None):
        when = datetime.datetime.now() if micros is None else datetime.datetime.fromtimestamp(micros / 1e6)
        record = {"datetime": "%s,%03d" % (when.strftime("%Y-%m-%d %H:%M:%S"), when.microsecond // 1000),
                  "level": LEVELS[level], "message": message, "with": fields}
        connection = connection or self.only
        if connection is None:
            self.tell("log", **record)
        else:
            self.say(connection, "l", json.dumps(record))

    def answer_text(self, connection, text):
        self.say(connection, "r", json.dumps({
            "body": text, "body_encoding": "text", "content_type": "text/plain", "headers": {}, "status_code": 500}))
        self.flush()

    def translate(self, frame, body):
        size, kind, flags, code, ident, head = HEADER.unpack_from(frame)
        head, body = frame[16:16 + head], frame[16 + head:] + bytes(body)
        work = self.work.get(ident)
        if kind == ANSWER and work is not None:
            self.translate_answer(work, ident, flags, code, frame, head[8:], body)
        elif kind == DATA and work is not None:
            self.translate_piece(work, ident, flags, body)
        elif kind == LOG:
            micros = struct.unpack_from("<q", head)[0]
            fields = json.loads(body) if body else {}
            self.log(work and work.connection, code, head[8:].decode("utf-8", "replace"), fields, micros)
        elif kind == ACK:
            partition, offset = struct.unpack_from("<iq", head)
            self.tell("streamMessageAck", topic=head[12:].decode(), partition=partition, offset=offset)
        elif kind == CONTROL_DONE:
            self.called(ident)
        elif kind == READY:
            self.ready()
        elif kind == FAILED:
            sys.stderr.write(body.decode("utf-8", "replace") + "\n")

    def ready(self):
        if self.only is not None:
            self.say(self.only, "s")
        self.tell("wrapperInitialized", ready="true")
        if self.address is not None:
            self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(self.address)
            self.listener.listen(EVENTS_AT_ONCE)
            self.listener.setblocking(False)
            self.epoll.register(self.listener.fileno(), select.EPOLLIN)

    def called(self, code):
        """A callback has ended."""
        self.calling -= 1
        if code == DRAIN:
            self.tell("drain", workerId=self.worker)
        for connection in list(self.connections.values()):
            if connection.leaving:
                self.leave(connection)

    def translate_answer(self, work, ident, flags, code, frame, table, body):
        work.micros = ANSWER_HEAD.unpack_from(frame)[6]
        answer = answer_of(code, flags, table.decode("utf-8", "replace").split("\0"), body)
        if flags & MORE:
            if self.pieces:
                self.say(work.connection, "c", json.dumps(answer))
            work.head = answer
            return
        del self.work[ident]
        if work.batch is None:
            return self.answered(work, answer)
        batch = work.batch
        batch.micros = max(batch.micros, work.micros)
        if not flags & NONE:
            answer["event_id"] = work.event_id
            batch.answers.append(answer)
        batch.missing -= 1
        if batch.missing == 0:
            work.micros = batch.micros
            self.answered(work, batch.answers)

    def answered(self, work, answer):
        self.metric(work)
        self.say(work.connection, "r", json.dumps(answer))

    def metric(self, work):
        self.say(work.connection, "m", json.dumps({"duration": max(work.micros, 1) / 1e6}))

    def translate_piece(self, work, ident, flags, body):
        if flags & ABORT:
            del self.work[ident]
            return self.say(work.connection, "r", json.dumps(answer_of(500, 0, ["text/plain"], body)))
        if body:
            if self.pieces:
                self.say(work.connection, "b", base64.b64encode(body).decode())
            else:
                work.pieces.append(body)
        if not flags & END:
            return
        del self.work[ident]
        if self.pieces:
            self.say(work.connection, "e")
            self.metric(work)
        else:
            work.head.update(encoded(b"".join(work.pieces)))
            self.answered(work, work.head)


def answer_of(status, flags, texts, body):
    headers: "dict[str, Any]" = {}
    for name, value in zip(texts[1::2], texts[2::2]):
        before = headers.get(name)
        headers[name] = value if before is None else [*before, value] if isinstance(before, list) else [before, value]
    if flags & NO_ACK:
        headers["X-Nuclio-Stream-No-Ack"] = True
    return {**encoded(body), "content_type": texts[0], "headers": headers, "status_code": status or 200}


def encoded(body):
    try:
        return {"body": body.decode(), "body_encoding": "text"}
    except UnicodeDecodeError:
        return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}


def connect(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def start(fault, closed):
    """Lines and settings, by the arguments of this process; None: they are not those of a Go processor."""
    words, arguments = sys.argv[1:], {}
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            arguments[word[2:]] = words.pop(0) if words and not words[0].startswith("--") else ""
    if not arguments.get("event-socket-path") or not arguments.get("control-socket-path"):
        return None
    lines = Lines(fault, closed, arguments)
    settings = {
        "handler": arguments.get("handler", ""), "platform_kind": arguments.get("platform-kind") or "local",
        "namespace": arguments.get("namespace") or "default", "worker_id": lines.worker,
        "trigger_kind": arguments.get("trigger-kind", ""), "trigger_name": arguments.get("trigger-name", ""),
        "decode_strings": "1" if "decode-event-strings" in arguments else "0", "credit": CREDIT,
        "max_inflight": str(EVENTS_AT_ONCE if lines.only is None else 1),
    }
    return lines, settings
