"""A worker inside the test: the shim itself, with a socket that is memory, handles real frames in this very thread.

What an event is and what a returned value means is decided by the shim; nothing of it is written again here. Reading
order: `Worker.__call__`, `Worker._handle`, `answers_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import json
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, Union

from . import _shim, events
from .answers import LEVELS, Answer, Headers, Record, Records
from .loading import HandlerError, Modules, locate

ANSWER, DATA, LOG, ACK = 0x83, 0x84, 0x86, 0x88
NONE, ABORT = 0x08, 0x02
ACK_HEAD = struct.Struct("<iq")
OWN = os.path.dirname(os.path.abspath(__file__))
Listener = Callable[[str, Records], None]


class Wire:
    """The socket of a shim that runs in the same thread as its processor."""

    def __init__(self) -> None:
        self.coming = bytearray()
        self.sent = bytearray()

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.coming:
            # Whatever the shim could wait for is here already.
            raise BlockingIOError if flags else RuntimeError("the handler waits for more of a body than there is")
        piece = bytes(self.coming[:size])
        del self.coming[:size]
        return piece

    def recv_into(self, buffer: memoryview, size: int = 0, flags: int = 0) -> int:
        piece = self.recv(size or len(buffer), flags)
        buffer[:len(piece)] = piece
        return len(piece)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def sendmsg(self, parts: Iterable[bytes]) -> int:
        data = b"".join(parts)
        self.sent += data
        return len(data)

    def fileno(self) -> int:
        return -1

    def frames(self) -> Iterator[tuple[int, int, int, int, bytes, bytes]]:
        """Takes out what the shim has written: kind, flags, code, id, head, body."""
        data, at = bytes(self.sent), 0
        self.sent.clear()
        while at < len(data):
            size, kind, flags, code, ident, head = events.HEADER.unpack_from(data, at)
            at += events.HEADER.size
            yield kind, flags, code, ident, data[at:at + head], data[at + head:at + size]
            at += size


class Worker:
    """A handler that has been loaded, as `nuclio.handler` gives it. Calling it is an event."""

    def __init__(
        self,
        handler: Union[str, Callable[..., Any]],
        folders: Sequence[str],
        *,
        trigger: tuple[str, str] = ("http", "http"),
        worker_id: int = 0,
        platform: str = "local",
        namespace: str = "nuclio",
        function: str = "",
        init_context: bool = True,
        fresh: bool = False,
        listener: Optional[Listener] = None,
    ) -> None:
        __tracebackhide__ = True
        self._wrapper = wrapper = _shim.carried()
        wrapper.OURS.add(__file__)
        self._listener = listener
        self.logs = Records()
        """Everything it has logged, also in `init_context` and between events."""
        self.acks: list[tuple[str, int, int]] = []
        """Explicit acknowledgements: topic, partition, offset."""
        self._faults: dict[int, BaseException] = {}
        self._next, self._closed = 1, False
        self._wire = Wire()
        self._shim = wrapper.Shim(wrapper.Channel(self._wire))
        self._loop = self._shim.loop = asyncio.new_event_loop()
        self._modules: Optional[Modules] = None
        self._settings = {
            "worker_id": str(worker_id), "namespace": namespace, "platform_kind": platform, "function_name": function,
            "trigger_kind": trigger[0], "trigger_name": trigger[1], "triggers": "1", "trigger.0.kind": trigger[0],
            "trigger.0.name": trigger[1], "max_inflight": str(wrapper.IN_FLIGHT_MAX), "log_flush": "always",
            "credit": str(1 << 62)}
        try:
            with self._active():
                wrapper.apply(self._settings)
                self._load(handler, folders, init_context, fresh)
        except BaseException as error:
            self.close()
            raise trimmed(error, wrapper)

    # -- start and end

    def _load(self, handler: Any, folders: Sequence[str], init_context: bool, fresh: bool) -> None:
        wrapper, shim = self._wrapper, self._shim
        getattr(shim, "more", int)()  # All its methods.
        shim.serving = shim.looping = True
        if wrapper.Finder not in sys.meta_path:
            sys.meta_path.insert(0, wrapper.Finder)
        if "nuclio_sdk" in sys.modules:
            _shim.find(wrapper, "adopt")(sys.modules["nuclio_sdk"])
        try:
            if isinstance(handler, str):
                folder, text = locate(handler, folders)
                self._modules = Modules(folder, fresh)
                shim.handler, interface, callback = wrapper.load(text)
            else:
                shim.handler, interface = handler, wrapper.interface_of(handler)
                home = sys.modules.get(getattr(handler, "__module__", None) or "")
                callback = getattr(home, "init_context", None)
        except wrapper.HandlerFault as fault:
            raise HandlerError(str(fault)) from None
        if interface:
            raise HandlerError(
                "%s is %s application: call it in this process with %s, or serve it by the fixture `processor`"
                % (handler, "an ASGI" if interface == "asgi" else "a WSGI",
                   "httpx.ASGITransport or its framework's test client (starlette.testclient.TestClient, "
                   "fastapi.testclient.TestClient)" if interface == "asgi"
                   else "its framework's test client (app.test_client() of Flask, django.test.Client)"))
        shim.sync_only = not wrapper.is_async(shim.handler)
        shim.streams = bool(getattr(shim.handler, "stream_body", False))
        shim.slots = 1 if shim.sync_only else wrapper.IN_FLIGHT_MAX
        shim.several = calls(wrapper)(shim, self._faults)
        if init_context and callback is not None:
            self._run(self._await(callback, shim.context))
        self._collect()

    def close(self) -> None:
        """Ends the worker as a processor would: its termination callback is called, its tasks are cancelled."""
        if self._closed:
            return
        self._closed = True
        context = self._shim.context
        with self._active(), contextlib.ExitStack() as stack:
            stack.callback(self._end_loop)
            if self._modules is not None:
                stack.callback(self._modules.close)
            callback = getattr(getattr(context, "platform", None), "_termination_callback", None)
            if callback is not None and self._shim.several is not None:
                self._run(self._await(callback))
            self._collect()

    def _end_loop(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._run(asyncio.wait(tasks, timeout=5))
        self._run(self._loop.shutdown_asyncgens())
        self._loop.close()
        asyncio.set_event_loop(None)

    @property
    def context(self) -> Any:
        """The worker's context, whose `user_data` and `platform` a test may look at and replace."""
        return self._shim.context

    # -- events

    def __call__(self, body: Any = None, **event: Any) -> Answer:
        """Handles one event and gives the answer; the arguments are those of `nuclio_handler.events.event`.

        What the handler raises is an answer with status 500, as for a client: see `Answer.exception`.
        """
        __tracebackhide__ = True
        return self._handle([events.event(body, **event)])[0]

    def batch(self, bodies: Iterable[Union[Mapping[str, Any], Any]]) -> list[Answer]:
        """Handles a batch. Each item is a body, or a dict of arguments as those of a call."""
        __tracebackhide__ = True
        return self._handle([as_event(item) for item in bodies], batch=True)

    def together(self, bodies: Iterable[Union[Mapping[str, Any], Any]]) -> list[Answer]:
        """Handles events at the same time, as `mode: async` does; a handler that is not `async` takes them in turn."""
        __tracebackhide__ = True
        return self._handle([as_event(item) for item in bodies])

    def _handle(self, frames: list[events.Frames], batch: bool = False) -> list[Answer]:
        __tracebackhide__ = True
        if self._closed:
            raise HandlerError("the worker has ended with the fixture that made it; "
                               "for tests that share one there are nuclio_module and nuclio_session")
        idents = list(range(self._next, self._next + len(frames)))
        self._next += len(frames)
        self._collect()
        for ident, frame in zip(idents, frames):
            flags = events.BATCH if batch else 0
            self._wire.coming += frame.encode(ident, flags | (events.BATCH_END if batch and ident == idents[-1] else 0))
        with self._active():
            self._run(self._settle())
            answers = self._answers(idents, batch)
        for answer in answers:
            # What ends a test must not become an answer.
            if answer.exception is not None and not isinstance(answer.exception, (Exception, SystemExit)) \
                    and type(answer.exception).__name__ not in ("CancelledError", "GeneratorExit"):
                raise answer.exception
        return answers

    async def _settle(self) -> None:
        """Reads everything and waits until all calls have been answered."""
        shim = self._shim
        several = shim.several
        shim.task = asyncio.current_task()
        shim.base = contextvars.copy_context()
        while self._wire.coming or shim.channel.start is not None or len(shim.channel.data) > shim.channel.at:
            shim.poll()
        while several.calls:
            await asyncio.wait([call.task for call in several.calls.values()])
        shim.channel.flush()
        if shim.fault is not None:
            raise RuntimeError("the shim has ended: %r" % shim.fault)

    def _answers(self, idents: list[int], batch: bool) -> list[Answer]:
        answers, logs = self._collect()
        found = []
        for ident in idents:
            answer = answers.get(ident)
            if answer is None:
                raise RuntimeError("the shim has not answered event %d" % ident)
            # A batch is one call: what is logged and raised there is of all its events.
            fault = self._faults.get(idents[0] if batch else ident)
            answer.exception = None if fault is None else trimmed(fault, self._wrapper)
            answer.logs = logs if batch or len(idents) == 1 else Records(
                record for owner, record in self._owned if owner in (ident, 0))
            found.append(answer)
        self._faults.clear()
        return found

    def _collect(self) -> tuple[dict[int, Answer], Records]:
        """Takes what the shim has written since the last time."""
        answers: dict[int, Answer] = {}
        logs = Records()
        self._owned: list[tuple[int, Record]] = []
        for kind, flags, code, ident, head, body in self._wire.frames():
            if kind == ANSWER:
                answers[ident] = answer_of(flags, code, head, body)
            elif kind == DATA and ident in answers:
                if flags & ABORT:
                    answers[ident].aborted = body.decode("utf-8", "replace")
                elif body:
                    answers[ident].chunks.append(body)
            elif kind == LOG:
                record = Record(LEVELS[code], head[8:].decode(), json.loads(body) if body else {})
                logs.append(record)
                self._owned.append((ident, record))
            elif kind == ACK:
                partition, offset = ACK_HEAD.unpack_from(head)
                self.acks.append((head[12:].decode(), partition, offset))
        self.logs += logs
        if logs and self._listener is not None:
            self._listener("nuclio handler", logs)
        return answers, logs

    # -- the loop

    async def _await(self, callback: Callable[..., Any], *arguments: Any) -> None:
        done = callback(*arguments)
        if inspect.isawaitable(done):
            await done

    def _run(self, coroutine: Any) -> Any:
        return self._loop.run_until_complete(coroutine)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """While it runs, the shim is this worker's, and so is the loop: a test may run in one of its own."""
        outer, self._wrapper.shim = self._wrapper.shim, self._shim
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        asyncio.set_event_loop(self._loop)
        try:
            yield
        finally:
            asyncio._set_running_loop(running)
            if outer is not None:
                self._wrapper.shim = outer


def as_event(item: Any) -> events.Frames:
    names = inspect.signature(events.event).parameters
    if isinstance(item, Mapping) and item and all(name in names for name in item):
        return events.event(**item)
    return events.event(item)


@functools.lru_cache(maxsize=None)
def calls(wrapper: Any) -> Any:
    """The shim's `Several`, which remembers what handlers raised."""

    several: Any = _shim.find(wrapper, "Several")
    home: Any = _shim.home(wrapper, "Stream")
    stream: Any = home.Stream

    class Watched(several):  # type: ignore[misc]
        def __init__(self, shim: Any, faults: dict[int, BaseException]) -> None:
            super().__init__(shim)
            self.faults = faults

        def failed(self, call: Any, error: BaseException) -> None:
            self.faults[call.ident] = error
            super().failed(call, error)

    class Stream(stream):  # type: ignore[misc]
        def abort(self, error: BaseException) -> None:
            self.shim.several.faults[self.call.ident] = error
            super().abort(error)

    home.Stream = Stream
    return Watched


def answer_of(flags: int, status: int, head: bytes, body: bytes) -> Answer:
    """What the processor makes of the head of an answer."""
    texts = head[8:].decode("utf-8", "surrogateescape").split("\0")
    pairs = list(zip(texts[1::2], texts[2::2]))
    if flags & NONE:
        return Answer(500, Headers([]), [], Records())
    if texts[0]:
        pairs = [pair for pair in pairs if pair[0].lower() != "content-type"]
        pairs.append(("Content-Type", texts[0]))
    elif not any(name.lower() == "content-type" for name, _ in pairs):
        pairs.append(("Content-Type", "text/plain; charset=utf-8"))
    return Answer(status or 200, Headers(pairs), [body] if body else [], Records())


def trimmed(error: BaseException, wrapper: Any) -> BaseException:
    """The error without the frames of this package and the shim in front: what is left is the user's."""
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith(OWN + os.sep) or file in wrapper.OURS or file.startswith("<frozen importlib")
                or os.sep + "asyncio" + os.sep in file):
            break
        trace = trace.tb_next
    return error.with_traceback(trace)
