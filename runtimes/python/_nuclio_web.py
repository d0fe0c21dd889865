"""ASGI and WSGI applications as handlers. The shim loads this file where its handler is one, and only there.

A request comes as the processor got it: path and query as sent, header names in lower case, all values in order. What
the shim knows already is not repeated here: `Asgi` is its `Several`, with other answers; `Wsgi` is called where a
function would be. Reading order: `serve`, `Asgi.one`, `Exchange.send`; `Wsgi.__call__`.
"""

import asyncio
import io
import logging
import sys
from time import monotonic_ns
from urllib.parse import unquote_to_bytes

import _struct

MYPY = False
if MYPY:
    from typing import Any

# The shim is the program of this process, also where it has been read from a descriptor.
shim_module: "Any" = sys.modules["__main__"]

HELD_NS_MAX = 4_000_000   # an answer waits no longer for others to go with it
PIECES_NS_MAX = 1_000_000  # nor a piece for the next
HELD_BYTES_MAX = 65536    # of pieces of one answer that go out together
LOOK_NS = 5_000_000       # so often a WSGI application that streams looks whether its client is there
IGNORED_MAX, IGNORED_NS = 1000, 5_000_000_000  # messages to a client that has left, and for how long
BEHIND_MAX = 1000         # applications that go on after their answers; beyond, no further request begins
NAMES_MAX = 1000          # of headers and of clients that are remembered in decoded form
PLAIN_TEXT = b"\0content-type\0text/plain; charset=utf-8"
# Texts that are the same in nearly all requests.
KNOWN = {text.encode(): text for text in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "1.0", "1.1")}
# Of EVENT: the length of the head, its last field but one: the number of headers.
LENGTH_AND_COUNT = _struct.Struct("<I28xH")
NOT_STARTED, STARTED, STREAMING, FINISHED = range(4)

std, part, message_of, traceback_of = (
    shim_module.std, shim_module.part, shim_module.message_of, shim_module.traceback_of)
wake = part("_nuclio_more").wake
Several: "Any" = part("_nuclio_several").Several
StreamCancelled, RequestBodyError = part("_nuclio_streams").StreamCancelled, part("_nuclio_streams").RequestBodyError
FAULTS = shim_module.Closed, shim_module.Stop, shim_module.ProtocolFault
EVENT, HEADER, ANSWER_HEAD = shim_module.EVENT, shim_module.HEADER, shim_module.ANSWER_HEAD
ANSWER, JOIN_BYTES_MAX = shim_module.ANSWER, shim_module.JOIN_BYTES_MAX
DATA, MORE, END, ABORT = shim_module.DATA, shim_module.MORE, shim_module.END, shim_module.ABORT


def serve(shim, application, interface, settings):
    """Makes the shim serve an application."""
    if not logging.getLogger().handlers:  # else the application has said where its records go
        logging.getLogger().addHandler(Records(shim))
    shim.streams = True
    root = settings.get("root_path", "")
    if interface == "wsgi":
        shim.handler = Wsgi(shim, application, root)
        return None
    return Asgi(shim, application, root, int(settings.get("stop_timeout_ms") or 10_000) / 1000)


class Records(logging.Handler):
    """What the application logs becomes a record like those of functions, at its level and with its event."""

    def __init__(self, shim):
        super().__init__()
        self.shim = shim

    def emit(self, record):
        try:
            fields = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields.update(exc=message_of(record.exc_info[1]), traceback=traceback_of(record.exc_info[1]))
            level = max(min(record.levelno // 10 - 1, shim_module.ERROR), shim_module.DEBUG)
            self.shim.logger._log(level, record.getMessage(), (), fields)
        except Exception:
            self.handleError(record)


# ---------------------------------------------------------------------------------------------- requests

ADDRESSES: "dict[bytes, Any]" = {b"": None}


def address(text):
    """An end of a connection as (host, port)."""
    try:
        return ADDRESSES[text]
    except KeyError:
        if len(ADDRESSES) > NAMES_MAX:
            ADDRESSES.clear()
            ADDRESSES[b""] = None
        host, _, port = text.decode().rpartition(" ")
        pair = ADDRESSES[text] = host, int(port)
        return pair


def texts_of(frame):
    """The texts of a frame, and where those behind its headers begin."""
    data, at = frame[4], frame[5]
    head, count = LENGTH_AND_COUNT.unpack_from(data, at - 4)
    return data[at + 32:at + head].split(b"\0"), 12 + 2 * count


class LengthFault(RuntimeError):
    """More or less of a body than its Content-Length says."""


class ClientLeft(OSError):
    """Nobody takes the answer, and the application does not stop sending it."""


def is_of_leaving(error):
    """Whether an error is what came of `ClientLeft`."""
    for _ in range(100):
        if error is None or isinstance(error, ClientLeft):
            break
        if any(is_of_leaving(one) for one in getattr(error, "exceptions", ())):
            return True
        error = error.__cause__ or error.__context__
    return isinstance(error, ClientLeft)


def length_of(value):
    """What a Content-Length says."""
    if not value.isdigit():
        raise ValueError("the Content-Length is no number: %r" % value)
    return int(value)


def check_head(status, table, pairs, nul, line_ends):
    if table.count(nul) != 2 * pairs or line_ends[0] in table or line_ends[1] in table:
        raise ValueError("a header has a NUL or the end of a line in it")
    if not 200 <= status <= 999:
        raise ValueError("the status %d is not one of a final response" % status)


# ---------------------------------------------------------------------------------------------- ASGI


class Asgi(Several):
    """Requests to an ASGI application, each a task of the one loop."""

    behind_max = BEHIND_MAX

    def __init__(self, shim, application, root, stop_seconds):
        super().__init__(shim)
        self.application = application
        self.root = root
        self.holding = 0        # since when answers and pieces are held
        self.streams = []       # exchanges whose pieces are held
        self.behind = set()     # calls whose applications go on after their answers
        self.stop_seconds = stop_seconds
        self.lifespan = Lifespan(self)

    async def start(self):
        """Before the first request. Says why, and ends the process, if the application cannot start."""
        platform = self.shim.context.platform
        before: "Any" = platform._termination_callback

        async def terminate():
            await self.settle(self.stop_seconds / 2)
            await self.lifespan.stop()
            done: "Any" = before() if before is not None else None
            if hasattr(done, "__await__"):
                await done

        platform._termination_callback = terminate
        await self.lifespan.start()

    async def serve(self):
        try:
            await super().serve()
        finally:
            # The processor is gone, or somebody has sent SIGTERM; else this has happened already.
            ending = self.shim.loop.create_task(self.lifespan.stop())
            await asyncio.wait([ending], timeout=shim_module.END_SECONDS)

    async def settle(self, seconds):
        """Waits for what goes on behind answers."""
        tasks = [call.task for call in self.behind]
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=seconds)
            if left:
                self.shim.logger.warn("%d background tasks have not ended within %g s" % (len(left), seconds))

    # -- calls

    async def one(self, call):
        self.fresh -= 1
        shim = self.shim
        self.call_of_task.set(call)
        call.started = shim.written = monotonic_ns()
        call.begun = True
        exchange = call.stream = Exchange(self, call)
        try:
            if call.cancelled:
                return exchange.give_up()
            exchange.returned(await self.application(exchange.scope(), exchange.receive, exchange.send))
        except FAULTS as fault:
            self.end(fault)
        except BaseException as error:
            try:
                exchange.raised(error)
            except FAULTS as fault:
                self.end(fault)
        finally:
            if exchange.pending is not None:
                exchange.deliver()
            self.leave(call)
            call.stream = call.task = None  # Else they would wait for the collector, as each knows the other.

    def unbegun(self, call):
        Exchange(self, call).fail("The request's task was cancelled before it ran")

    def leave(self, call):
        if call in self.behind:
            self.behind.discard(call)
            if self.waiting:
                self.begin()
        else:
            super().leave(call)

    def answered(self, call):
        """Nothing is owed for the call any more, but it may go on."""
        call.over = True
        if self.calls.pop(call.ident, None) is None:
            return  # given up
        self.behind.add(call)
        if call.waiters:
            wake(call)
        if self.waiting:
            self.begin()
        if self.shim.stopping and not self.calls:
            self.wake_serve()

    def cancel(self, ident, code, flags=0):
        call = self.calls.get(ident)
        if code == shim_module.CLIENT_GONE and call is not None and call.begun:
            call.cancelled = True  # The application is told, and ends as it sees fit.
            return wake(call)
        super().cancel(ident, code, flags)

    # -- answers

    def holds(self, now):
        """Whether a whole answer waits for those of requests that came with it, and have not begun yet."""
        return bool(self.fresh) and self.waits(now, HELD_NS_MAX)

    def waits(self, now, most):
        """Whether something is held until the loop comes round; False: it is time to write what is held."""
        if not self.holding:
            self.holding = now
            self.shim.loop.call_soon(self.flush_answers)
        elif now - self.holding >= most:
            self.holding = now
            return False
        return True

    def flush_answers(self):
        """The loop has come round."""
        self.holding = 0
        self.flush_held()

    def flush_held(self):
        streams, self.streams = self.streams, []
        try:
            for exchange in streams:
                if exchange.pieces and not exchange.call.over:
                    exchange.flush_pieces()
        except FAULTS as fault:
            self.end(fault)
        self.flush()


class Exchange:
    """One request and its answer, as an application sees them."""

    __slots__ = ("asgi", "call", "frame", "state", "bodiless", "status", "pairs", "table", "left", "read", "pending",
                 "begun", "pieces", "held", "ignored", "left_at", "broken_off")
    source = None  # see `stack_of`

    def __init__(self, asgi, call):
        self.asgi, self.call = asgi, call
        self.frame = call.argument._frame
        self.state = NOT_STARTED
        self.begun = self.bodiless = self.read = False
        self.broken_off = False  # the request's body, which the application has been told
        self.left = self.pending = None
        self.pieces: "Any" = []  # of the body, not sent yet
        self.held = 0            # bytes of them
        self.ignored = self.left_at = 0
        call.credit = asgi.shim.credit

    def scope(self):
        texts, tail = texts_of(self.frame)
        raw, version = texts[2], texts[tail]
        method = KNOWN.get(texts[1]) or texts[1].decode("latin-1")
        path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8", "replace")
        root = self.asgi.root
        if root and path != root and not path.startswith(root + "/"):
            path = root + path  # taken off on the way here
        self.bodiless = method == "HEAD"
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": KNOWN.get(version) or version.decode(), "scheme": "http",
            "server": address(texts[tail + 2]), "client": address(texts[tail + 1]),
            "method": method or ("POST" if self.frame[6] else "GET"), "path": path or "/", "raw_path": raw,
            "query_string": texts[3], "root_path": root,
            "headers": list(zip(texts[12:tail:2], texts[13:tail:2])), "state": self.asgi.lifespan.state.copy()}

    async def receive(self):
        call = self.call
        if not self.read:
            body = call.body
            if body is None:
                self.read = True
                return {"type": "http.request", "body": self.frame[6], "more_body": False}
            try:
                piece = await body.next_piece_async()
            except RequestBodyError:
                self.broken_off = True
                return {"type": "http.disconnect"}
            more = body.more or bool(body.pieces)
            self.read = not more
            return {"type": "http.request", "body": piece, "more_body": more}
        while not (call.over or call.cancelled):
            await self.asgi.shim.news(call)
        return {"type": "http.disconnect"}

    async def send(self, message):
        kind, state, call = message["type"], self.state, self.call
        if state == FINISHED:
            raise RuntimeError("Unexpected ASGI message '%s' sent, after response already completed." % kind)
        if call.over or call.cancelled:
            return await self.ignore()
        if state == NOT_STARTED:
            if kind != "http.response.start":
                raise RuntimeError("Expected ASGI message 'http.response.start', but got '%s'." % kind)
            return self.start(message)
        if kind != "http.response.body":
            raise RuntimeError("Expected ASGI message 'http.response.body', but got '%s'." % kind)
        body, more = message.get("body", b""), message.get("more_body", False)
        if type(body) is not bytes:
            body = bytes(memoryview(body))
        size = len(body)
        if self.bodiless:
            self.state = FINISHED if not more else STREAMING
            return self.finish(b"")
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise LengthFault("Response content longer than Content-Length")
            if self.left and not more:
                raise LengthFault("Response content shorter than Content-Length")
        fits = self.held + size <= HELD_BYTES_MAX
        if not more and not self.begun and (fits or not self.pieces):
            self.state = FINISHED
            if self.pieces:
                self.pieces.append(body)
                body, self.pieces = b"".join(self.pieces), []
            return self.finish(body)
        self.state = STREAMING
        if not fits or size > call.credit:
            return await self.stream(body, more)
        call.credit -= size
        self.held += size
        self.pieces.append(body)
        if not more:
            self.flush_pieces(END)
            self.end(self.asgi.holds(monotonic_ns()))
        else:
            if len(self.pieces) == 1:
                self.asgi.streams.append(self)
            if not self.asgi.waits(monotonic_ns(), PIECES_NS_MAX):
                self.asgi.flush_held()

    async def ignore(self):
        """A message that nobody gets. An application that looks for nothing is told so in the end, by an error."""
        self.ignored += 1
        if not self.left_at:
            self.left_at = monotonic_ns()
        if self.ignored > IGNORED_MAX or monotonic_ns() - self.left_at > IGNORED_NS:
            raise ClientLeft("the client has left")
        await shim_module.Suspend()  # Others get their turn.

    def start(self, message):
        status, headers, length = message.get("status"), message.get("headers", ()), None
        if not isinstance(status, int):
            raise TypeError("the status of a response must be an int, not %r" % (status,))
        texts = [b""]
        try:
            for name, value in headers:
                texts += name, value
                if len(name) == 14 and name.lower() == b"content-length":
                    length = value
            pairs = len(texts) // 2
            table = b"\0".join(texts) if pairs else b""
        except (TypeError, ValueError):
            raise TypeError("names and values of headers must be bytes: %r" % (headers,)) from None
        check_head(status, table, pairs, b"\0", (b"\r", b"\n"))
        self.left = None if length is None else length_of(length)
        self.status, self.pairs, self.table = int(status), pairs, table
        self.bodiless = self.bodiless or status == 204 or status == 304
        self.state = STARTED

    def finish(self, body):
        """The whole answer."""
        if self.status >= 500 and self.pending is None:
            # What is logged of it comes first, so that it still belongs to the event.
            self.pending = body
            self.asgi.shim.loop.call_soon(self.deliver)
        else:
            asgi, call, now, table = self.asgi, self.call, monotonic_ns(), self.table
            if len(body) > JOIN_BYTES_MAX or not asgi.holds(now):
                self.answer(body, 0, False)
            else:  # As `Shim.send_answer`, for the many.
                head = 8 + len(table)
                frame = ANSWER_HEAD.pack(head + len(body), ANSWER, 0, self.status, call.ident, head,
                                         min((now - call.started) // 1000, 0xFFFFFFFF), self.pairs, 0) + table + body
                channel = asgi.shim.channel
                with channel.lock:
                    channel.hold(frame)
            asgi.answered(call)

    def deliver(self):
        """Sends an answer that waits for what is logged of it."""
        body, self.pending = self.pending, None
        if body is not None and not self.call.over:
            try:
                self.answer(body, 0, False)
            except FAULTS as fault:
                self.asgi.end(fault)
            self.asgi.answered(self.call)

    def answer(self, body, more, hold):
        call = self.call
        self.asgi.shim.send_answer(call.ident, monotonic_ns() - call.started,
                                   (self.status, 0, b"", self.pairs, self.table, body), more, hold)

    async def stream(self, body, more):
        """Passes a piece on as far as the processor's credit goes."""
        call, shim = self.call, self.asgi.shim
        if self.pieces or not self.begun:
            self.flush_pieces()
        view = memoryview(body)
        while view:
            while call.credit <= 0 and not (call.cancelled or call.over):
                shim.channel.flush()
                await shim.news(call)
            if call.cancelled or call.over:
                return
            count = min(len(view), shim_module.PIECE_BYTES_MAX, call.credit)
            call.credit -= count
            last = not more and count == len(view)
            self.frame_out(END if last else 0, view[:count])
            view = view[count:]
        if not more:
            if not body:
                self.frame_out(END, b"")
            self.end(False)
        elif not body:
            shim.channel.flush()

    def end(self, held):
        """The last piece has been sent, or goes out with others."""
        self.state = FINISHED
        if not held:
            self.asgi.shim.channel.flush()
        self.asgi.answered(self.call)

    def flush_pieces(self, flags=0):
        """What is held becomes frames that go out with the next write, behind the head if that has not gone yet."""
        pieces, self.pieces, self.held = self.pieces, [], 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if not self.begun:
            self.begun = True
            self.answer(body, MORE, True)
            body = b""
        if body or flags:
            shim = self.asgi.shim
            shim.written = monotonic_ns()
            with shim.channel.lock:
                shim.channel.hold(HEADER.pack(len(body), DATA, flags, 0, self.call.ident, 0) + body)

    def frame_out(self, flags, body):
        shim = self.asgi.shim
        shim.written = monotonic_ns()
        shim.channel.send(HEADER.pack(len(body), DATA, flags, 0, self.call.ident, 0) + body)

    # -- ends

    def returned(self, _):
        if self.call.over or self.pending is not None:
            return
        if self.call.cancelled:
            return self.give_up()
        if self.broken_off:
            return self.abandon()  # As it may; that the client has left is often said later than that its body ends.
        self.fail("ASGI callable returned without %s response."
                  % ("starting" if self.state == NOT_STARTED else "completing"))

    def raised(self, error):
        call, shim = self.call, self.asgi.shim
        cancelled = call.cancelled and isinstance(error, asyncio.CancelledError)
        if shim.fault is not None or cancelled and call.over:
            return
        if cancelled:
            return self.give_up()
        if (call.cancelled or call.over) and is_of_leaving(error):
            return None if call.over else self.give_up()
        shim.logger.error_with("Exception in ASGI application", exc=message_of(error), traceback=traceback_of(error))
        if not call.over and self.pending is None:
            self.abandon()

    def fail(self, text):
        self.asgi.shim.logger.error(text)
        self.abandon()

    def abandon(self):
        """The application will not answer, or not to the end."""
        if self.call.cancelled:
            self.give_up()
        elif self.begun:
            if self.pieces:
                self.flush_pieces()
            self.frame_out(ABORT, b"")  # The log has said why.
            self.asgi.answered(self.call)
        else:
            self.pieces = []
            self.status, self.pairs, self.table = 500, 1, PLAIN_TEXT
            self.answer(b"Internal Server Error", 0, False)
            self.asgi.answered(self.call)

    def give_up(self):
        """Nobody waits for an answer."""
        if self.begun:
            self.frame_out(ABORT, b"cancelled")
        else:
            nanos = monotonic_ns() - self.call.started
            self.asgi.shim.send_answer(self.call.ident, nanos, shim_module.CANCELLED_ANSWER)
        self.asgi.answered(self.call)


class Lifespan:
    """The application's start and stop."""

    def __init__(self, asgi):
        self.asgi = asgi
        self.state: "dict[str, Any]" = {}
        self.events: "Any" = None
        self.task: "Any" = None
        self.started: "Any" = None
        self.stopped: "Any" = None
        self.failure: "Any" = None  # what startup.failed or shutdown.failed says

    async def start(self):
        loop = asyncio.get_running_loop()
        self.events, self.started, self.stopped = asyncio.Queue(), loop.create_future(), loop.create_future()
        self.events.put_nowait({"type": "lifespan.startup"})
        self.task = loop.create_task(self.run())
        await self.started
        if self.failure is not None:
            if not self.failure.strip():
                await asyncio.wait([self.task], timeout=0.1)  # It raises what it does not say, as a rule.
            shim_module.fail(shim_module.INIT_FAILED, "the application's lifespan startup failed: %s" % self.failure)

    async def stop(self):
        if self.task is None or self.task.done() or self.stopped.done():
            return
        self.events.put_nowait({"type": "lifespan.shutdown"})
        await self.stopped
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise RuntimeError("the application's lifespan shutdown failed: %s" % failure)

    async def run(self):
        logger = self.asgi.shim.logger
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self.asgi.application(scope, self.events.get, self.send)
        except BaseException as error:
            if not self.started.done():
                # An application may refuse this scope (ASGI, "Lifespan protocol"); its requests are served.
                logger.info_with("The application has no lifespan events", exc=message_of(error))
            elif self.failure is None:
                logger.error_with("Exception in the application's lifespan", exc=message_of(error),
                                  traceback=traceback_of(error))
            elif not self.failure.strip():
                self.failure = traceback_of(error)
        finally:
            for future in (self.started, self.stopped):
                future.done() or future.set_result(None)

    async def send(self, message):
        kind = message["type"]
        future = self.started if kind.startswith("lifespan.startup.") else self.stopped
        if kind not in ("lifespan.startup.complete", "lifespan.startup.failed", "lifespan.shutdown.complete",
                        "lifespan.shutdown.failed") or future.done():
            raise RuntimeError("Unexpected ASGI message '%s' in a lifespan." % kind)
        if kind.endswith(".failed"):
            self.failure = message.get("message", "")
        future.set_result(None)


# ---------------------------------------------------------------------------------------------- WSGI


class Wsgi:
    """Requests to a WSGI application, one at a time (PEP 3333)."""

    def __init__(self, shim, application, root):
        self.shim, self.application = shim, application
        self.root = root
        self.names: "dict[bytes, Any]" = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
        self.base = {
            "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr, "wsgi.multithread": False,
            "wsgi.multiprocess": True, "wsgi.run_once": False, "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True, "SERVER_SOFTWARE": "nuclio", "SCRIPT_NAME": root}

    def __call__(self, context, event):
        call = self.shim.call
        answer = call.stream = WsgiAnswer(self.shim, call)
        result: "Any" = None
        try:
            try:
                result = self.application(self.environ(event._frame, call, answer), answer.start_response)
                answer.send(result)
            finally:
                if hasattr(result, "close"):
                    result.close()
        except FAULTS:
            raise
        except BaseException as error:
            answer.raised(error)
        call.stream = None  # Else both would wait for the collector, as each knows the other.
        return call

    def environ(self, frame, call, answer):
        texts, tail = texts_of(frame)
        raw, query = texts[2], texts[3].decode("latin-1")
        path = (unquote_to_bytes(raw) if b"%" in raw else raw).decode("latin-1")
        environ = self.base.copy()
        root = self.root
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root):]
        client, server = address(texts[tail + 1]) or ("", ""), address(texts[tail + 2]) or ("localhost", 80)
        method = texts[1].decode("latin-1")
        target = raw.decode("latin-1") + ("?" + query if query else "")
        answer.to_head = method == "HEAD"
        body = frame[6] if call.body is None else None
        environ.update({
            "REQUEST_METHOD": method or ("POST" if body else "GET"), "PATH_INFO": path, "QUERY_STRING": query,
            "RAW_URI": target, "REQUEST_URI": target, "SERVER_PROTOCOL": "HTTP/" + texts[tail].decode(),
            "SERVER_NAME": server[0], "SERVER_PORT": str(server[1]), "REMOTE_ADDR": client[0],
            "REMOTE_PORT": str(client[1]),
            "wsgi.input": io.BytesIO(body) if body is not None else io.BufferedReader(Input(call.body))})
        names = self.names
        for at in range(12, tail, 2):
            name = texts[at]
            key = names.get(name, 0)
            if key == 0:
                key = self.key_of(name)
            if key is None:
                continue
            value = texts[at + 1].decode("latin-1")
            environ[key] = environ[key] + "," + value if key in environ else value
        return environ

    def key_of(self, name):
        """The variable of a header. There is none for a name with an underscore: it would be that of another."""
        key = None if b"_" in name else "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
        if len(self.names) < NAMES_MAX:
            self.names[name] = key
        return key


class WsgiAnswer:
    """What a WSGI application answers to one request."""

    source = None  # see `stack_of`

    def __init__(self, shim, call):
        self.shim, self.call = shim, call
        self.head: "Any" = None  # status, number of headers, their table
        self.left: "Any" = None
        self.begun = self.finished = self.bodiless = self.to_head = False
        self.looked = call.started  # when the client was last looked for
        call.credit = shim.credit

    def start_response(self, status, headers, exc_info=None):
        if exc_info is not None:
            try:
                if self.begun or self.finished:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.head is not None:
            raise AssertionError("start_response() is called a second time, without exc_info")
        if not isinstance(status, str) or not status[:3].isdigit() or status[3:4].strip():
            raise ValueError("the status must be a str like '200 OK', not %r" % (status,))
        code, texts, length = int(status[:3]), [""], None
        try:
            for name, value in headers:
                texts += name, value
                if len(name) == 14 and name.lower() == "content-length":
                    length = value
            pairs, table = len(texts) // 2, "\0".join(texts)
        except (TypeError, ValueError):
            raise TypeError("names and values of headers must be str: %r" % (headers,)) from None
        check_head(code, table, pairs, "\0", "\r\n")
        self.left = None if length is None else length_of(length)
        self.head = code, pairs, table.encode("latin-1")
        self.bodiless = self.to_head or code == 204 or code == 304
        return self.write

    def send(self, result):
        """Sends what the application has returned: in one piece where its length is known, else as it comes."""
        if isinstance(result, (list, tuple)):
            body = b"".join(result)
            if not self.begun:
                return self.finish(body)
            result = (body,)
        elif isinstance(result, (str, bytes)) or not hasattr(result, "__iter__") and not hasattr(result, "__getitem__"):
            raise TypeError("the application must return an iterable of bytes, such as a list, not %s"
                            % type(result).__name__)
        for piece in result:
            if type(piece) is not bytes:
                piece = bytes(memoryview(piece))
            if not piece:
                self.look(0)
                continue
            if not self.begun and (self.bodiless or self.left == len(piece)):
                self.finish(piece)
                if self.bodiless:
                    return
            elif self.finished:
                raise LengthFault("the application yields more than its Content-Length")
            else:
                self.write(piece)
        if self.begun:
            if self.left:
                raise LengthFault("the application has yielded less than its Content-Length")
            self.finished = True
            self.frame(END, b"")
        elif not self.finished:
            self.finish(b"")

    def finish(self, body):
        """The whole answer."""
        if self.head is None:
            raise RuntimeError("the application answers before it has called start_response")
        if self.bodiless:
            body = b""
        elif self.left is not None and self.left != len(body):
            raise LengthFault("the answer has %d bytes, its Content-Length is %d" % (len(body), self.left))
        self.finished = True
        self.answer(self.head, bytes(body), 0)

    def answer(self, head, body, more):
        status, pairs, table = head
        self.shim.send_answer(self.call.ident, monotonic_ns() - self.call.started,
                              (status, 0, b"", pairs, table if pairs else b"", body), more)

    def write(self, piece):
        """Sends a piece now, as far as the processor's credit goes."""
        if self.head is None:
            raise RuntimeError("the application answers before it has called start_response")
        if self.finished:
            raise RuntimeError("write() is called after the end of the response")
        if type(piece) is not bytes:
            piece = bytes(memoryview(piece))
        size = len(piece)
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise LengthFault("the application yields more than its Content-Length")
        if self.bodiless:
            return
        if not self.begun:
            self.begun = True
            self.answer(self.head, b"", MORE)
        self.look(size)
        call = self.call
        if size <= call.credit and size <= shim_module.JOIN_BYTES_MAX:
            call.credit -= size
            return self.frame(0, piece)
        shim, view = self.shim, memoryview(piece)
        while view:
            while call.credit <= 0 and not call.cancelled:
                shim.channel.flush()
                shim.channel.fill()
                shim.poll()
            if call.cancelled:
                raise StreamCancelled("cancelled")
            count = min(len(view), shim_module.PIECE_BYTES_MAX, call.credit)
            call.credit -= count
            self.frame(0, view[:count])
            view = view[count:]

    def look(self, size):
        """Looks whether the client is still there: now and then, and when the credit does not suffice."""
        now = monotonic_ns()
        if size > self.call.credit or now - self.looked > LOOK_NS:
            self.looked = now
            self.shim.poll()
        if self.call.cancelled:
            raise StreamCancelled("cancelled")

    def frame(self, flags, body):
        self.shim.channel.send(HEADER.pack(len(body), DATA, flags, 0, self.call.ident, 0) + body)

    def raised(self, error):
        if not isinstance(error, (StreamCancelled, RequestBodyError)):  # The client's doing.
            self.shim.logger.error_with("Exception in WSGI application", exc=message_of(error),
                                        traceback=traceback_of(error))
        if self.finished:
            return
        self.finished = True
        if self.begun:
            self.frame(ABORT, b"")  # The log has said why.
        else:
            self.answer((500, 1, PLAIN_TEXT), b"Internal Server Error", 0)


class Input(io.RawIOBase):
    """The body of a request, while it arrives."""

    def __init__(self, body):
        self.body = body

    def readable(self):
        return True

    def readinto(self, buffer):
        piece = self.body.next_piece(len(buffer))
        buffer[:len(piece)] = piece
        return len(piece)


class FileWrapper:
    """A file as an answer (PEP 3333, "Optional Platform-Specific File Handling")."""

    def __init__(self, file, size=65536):
        self.file, self.size = file, size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self):
        return iter(lambda: self.file.read(self.size), b"")
