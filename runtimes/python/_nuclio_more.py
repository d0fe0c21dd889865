"""The rest of the shim: the methods of `Shim` that plain functions seldom need, and what is done with faults."""

import sys
from time import monotonic_ns

import _struct
import _thread

import _nuclio_shim as core  # type: ignore[import-not-found]
from _nuclio_shim import (
    ACK, ASYNC_GENERATOR, BATCH, BATCH_END, CANCEL, CANCELLED_ANSWER, CLIENT_GONE, CONTROL, CONTROL_DONE, CREDIT,
    DATA_IN, DEADLINE, DONT_WAIT, EVENT, FUNCTION, HEADER, LOG_FIELDS_MAX, LOG_FIELD_MAX, MORE_IN, NONE, NOT_UTF8,
    OPTIONAL, OURS, PING, PONG, TAKEN_BACK, TEXT, TYPED, U32, WARN, Call, Closed, HandlerFault, ProtocolFault,
    body_frame, convert, encode_json, fields_json, is_async, is_stream, loggable, message_of, part, std, utf8)

MYPY = False
if MYPY:
    from typing import Any


ABOUT_CALLS = frozenset((DATA_IN, CREDIT, CANCEL, PING))  # frames about calls in work


class WholeShim(core.Shim):
    """A `Shim` with all its methods, which it becomes once it needs one of these."""

    early: "Any"
    batch: "Any"

    def more(self):
        return self

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
        take, several = self.channel.take, self.several
        frame = take()
        while frame is not None:
            if frame[0] in ABOUT_CALLS:
                drive(self.other(frame))
            elif several is not None:
                several.take(frame)
            else:
                self.queue.append(frame)
            frame = take()
        if several is not None and several.waiting:
            several.begin()

    def body_of(self, frame):
        """The body of the event with this frame, for a handler that takes bodies as they come."""
        call = self.find(frame[3])
        if call is not None and call.body is not None:
            return call.body
        return part("_nuclio_streams").RequestBody(self, call, frame[6], False)

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
        response, source = (value, value.body) if isinstance(value, core.RESPONSES) else (None, value)
        if type(source) is ASYNC_GENERATOR:
            await self.enter_loop()
        stream = call.stream = part("_nuclio_streams").Stream(self, call, source)
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

    # -- the event loop, where there is one

    def run_loop(self, coroutine):
        """The second half of `run`: drives it inside the loop."""
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

    # -- what is not a plain event

    def receive_unusual(self, frame, call):
        """What is left of `receive` for an event that came with certain flags."""
        flags = frame[1]
        if flags & MORE_IN:
            if not self.streams:
                raise ProtocolFault("event %d: the handler does not read request streams" % call.ident)
            call.body = part("_nuclio_streams").RequestBody(self, call, frame[6], True)
            self.early = [frame for frame in self.early if not self.arrived(frame, call)]
        if flags & (TYPED | NOT_UTF8):
            try:
                call.argument.method  # noqa: B018 - decodes all texts
            except Exception as error:
                call.started = monotonic_ns()
                self.unreadable(call, error)
                call = None
        if flags & BATCH:
            return self.gather(call, flags & BATCH_END)
        return call

    def only_one(self):
        self.slots = 1
        self.logger.warn("The handler is a %s and gets one event at a time although the trigger's mode is async; "
                         "make it %s, or give the trigger more workers" % (
                             ("WSGI application", "an ASGI application") if self.interface
                             else ("plain function", "async def")))


def interface_of(handler):
    """As the core's, which knows the plain functions."""
    if isinstance(handler, type) and hasattr(handler, "__await__"):
        return "asgi"  # made for each request, and awaited
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


def traceback_of(error):
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in OURS:
        trace = trace.tb_next
    try:
        return "".join(std("traceback").format_exception(type(error), error, trace))
    except BaseException as second:
        return "%s (no traceback: %s)" % (type(error).__name__, type(second).__name__)


def stack_of(awaited, call):
    """Where a coroutine waits, as in a traceback; our own frames are left out."""
    frames = []
    source = None if call.stream is None else call.stream.source  # what is streamed: nothing leads to it from here
    for _ in range(1000):  # objects of others may lead on for ever
        if awaited is None or type(awaited).__name__ == "async_generator_asend":
            awaited, source = source, None
        for frame, then in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
            if hasattr(awaited, frame):
                frame, awaited = getattr(awaited, frame), getattr(awaited, then)
                if frame is not None and frame.f_code.co_filename not in OURS:
                    frames.append((frame, frame.f_lineno))
                break
        else:
            awaited = None
        if awaited is None and source is None:
            break
    traceback = std("traceback")
    return "".join(traceback.format_list(traceback.StackSummary.extract(iter(frames))))


def uncancel(task):
    """The task goes on although it has been cancelled. Python before 3.11 forgets that by itself."""
    while getattr(task, "cancelling", int)():
        task.uncancel()


def bounded_repr(value):
    try:
        text = repr(value)
    except Exception as error:
        text = "<%s whose repr failed: %s>" % (type(value).__name__, type(error).__name__)
    return text if len(text) <= LOG_FIELD_MAX else "%s... (%d characters)" % (text[:LOG_FIELD_MAX], len(text))


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
        event_id = getattr(item, "event_id", None) if isinstance(item, core.RESPONSES) else None
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
        core.shim.check_size(converted[5])
        return converted
    except Exception as error:
        message = message_of(error)
        core.shim.logger.error_with("Cannot send an answer of a batch", err=message)
        return 500, 0, TEXT, 0, b"", utf8(message)


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


def safe_fields(fields):
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


def refuse_module(text, missing):
    raise HandlerFault('no module "%s" (for handler "%s") in any of: %s; correct spec.handler, or name the folder in '
                       'NUCLIO_PYTHON_PATH' % (missing, text, ", ".join(sys.path))) from None


def refuse_entry(module, name, entry, handler):
    """What a handler's text names is nothing that can be called."""
    if handler is not None:
        raise HandlerFault('"%s" in module "%s" (%s) is of type %s: neither a function handler(context, event) nor an '
                           'ASGI or WSGI application' % (entry, name, getattr(module, "__file__", "?"),
                                                         type(handler).__name__))
    found = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
    raise HandlerFault('no function "%s" in module "%s" (%s); it has: %s; correct spec.handler' % (
        entry, name, getattr(module, "__file__", "?"), ", ".join(found) or "no function at all"))
