"""Several events in work at once: what differs from `Shim.serve`."""

from time import monotonic_ns

import _thread

from _nuclio_shim import (  # type: ignore[import-not-found]
    ABORT, CANCELLED_ANSWER, CLIENT_GONE, CONTROL, DEADLINE, DEBUG, END_SECONDS, EVENT, GIVEN_UP_MAX,
    GIVE_UP_SECONDS, LOGS_HELD_NS_MAX, PLAIN, WARN, Closed, Logger, ProtocolFault, Stop, fields_json, is_stream,
    message_of, part, std, traceback_of)

MYPY = False
if MYPY:
    from typing import Any

more = part("_nuclio_more")
drive, stack_of = more.drive, more.stack_of


class Several:
    """The calls of a handler that may have several events at once: each is a task of the one loop."""

    behind: "Any" = ()  # calls that go on after their answers, which only those of applications do
    behind_max = 1

    def __init__(self, shim):
        contextvars = std("contextvars")
        self.shim = shim
        self.calls = {}        # in work, by id
        self.waiting = []      # calls that came ahead
        self.given_up = set()  # calls whose handlers go on although they have been answered
        self.call_of_task = contextvars.ContextVar("nuclio_event")
        self.logger_of_task = contextvars.ContextVar("nuclio_logger")
        self.tasks = set()     # of control frames
        self.fresh = 0         # tasks that have not run yet
        self.flushing = self.beginning = False

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
            self.waiting.append(call)  # `poll` begins all that have come together
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
        """Begins the calls that wait, as far as there are places."""
        if self.waiting and not self.beginning:  # A task that runs at once may come here before it is made.
            self.beginning = True
            try:
                self.shim.base.run(self.begin_waiting)  # In a context of its own, which each task copies.
            finally:
                self.beginning = False

    def begin_waiting(self):
        waiting, calls, slots, create_task = self.waiting, self.calls, self.shim.slots, self.shim.loop.create_task
        made = []
        while waiting and len(calls) < slots and len(self.behind) < self.behind_max:
            call = waiting.pop(0)
            calls[call.ident] = call
            self.fresh += 1
            call.task = create_task(self.one(call))
            made.append(call)
        if made:
            self.shim.loop.call_soon(self.see_begun, made)  # behind the first steps of all of them

    def see_begun(self, calls):
        """Answers calls whose tasks somebody has cancelled before they ran: of those nothing has run, no `finally`."""
        for call in calls:
            if not call.begun:
                self.fresh -= 1
                call.begun, call.started = True, monotonic_ns()
                try:
                    if not call.over:
                        token = self.call_of_task.set(call)
                        self.unbegun(call)
                        self.call_of_task.reset(token)
                except Closed as fault:
                    self.end(fault)
                self.leave(call)

    def unbegun(self, call):
        self.failed(call, std("asyncio").CancelledError("the event's task was cancelled before it ran"))

    async def one(self, call):
        self.fresh -= 1
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
            call.stream = call.task = None  # Else they would wait for the collector, as each knows the other.

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
