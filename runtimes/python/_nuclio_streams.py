"""Bodies in pieces: of requests while they arrive, of answers while they are made."""

from time import monotonic_ns

import _nuclio_shim as core  # type: ignore[import-not-found]
from _nuclio_shim import (
    ABORT, ASYNC_GENERATOR, CREDIT_BACK, DATA, END, HEADER, MORE, PIECE_BYTES_MAX, U32, Closed, ProtocolFault,
    Response, Stop, Suspend, convert, message_of, part, traceback_of, utf8)

more = part("_nuclio_more")
uncancel = more.uncancel


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
        return Response(headers=response.headers, body=item.body if isinstance(item, core.RESPONSES) else item,
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
    if isinstance(item, core.RESPONSES):
        item = item.body
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    return utf8(item if isinstance(item, str) else str(item))
