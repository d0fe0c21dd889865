"""Several events in work at once, as `mode: async` asks for: tasks of one loop over one connection. See `test_wrapper`.

SHIM_TEST_EVENT_LOOP=uvloop runs them in that loop.
"""

import os
import signal
import struct
import time
import unittest

from test_wrapper import CANCEL, CONTROL, CONTROL_DONE, CREDIT, DATA, FAILED, LOG, Shim, event, frame

DATA_IN, CREDIT_BACK, MORE_IN = 0x03, 0x85, 0x01
CLIENT_GONE, DEADLINE = 1, 2
TAKEN_BACK = 1  # flag
SLEEPS = "import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(float(e.body))\n    return e.id\n"


def several(source, slots=100, settings=None, **more):
    settings = {"event_loop": os.environ.get("SHIM_TEST_EVENT_LOOP", "asyncio"), **(settings or {})}
    return Shim(source, settings={"max_inflight": str(slots), "max_inflight_for": "any", **settings}, **more)


class Together(unittest.TestCase):
    def test_offered_and_agreed(self):
        with several(SLEEPS, 7) as shim:
            self.assertGreaterEqual(int(shim.hello["max_inflight"]), 1000)
            self.assertLessEqual({"cancel", "deadline", "client-gone"}, set(shim.hello["capabilities"].split(",")))
            self.assertEqual((shim.ready["handler_async"], shim.ready["max_inflight"]), ("1", "7"))

    def test_a_hundred_that_wait_take_as_long_as_one(self):
        with several(SLEEPS) as shim:
            begun = time.monotonic()
            shim.send(b"".join(event(n, body=b"0.1", text_id="i%d" % n) for n in range(1, 101)))
            answers = [shim.answer() for _ in range(100)]
            self.assertLess(time.monotonic() - begun, 5)  # one after the other they would take 10 s
            self.assertEqual({(a.ident, a.body) for a in answers}, {(n, b"i%d" % n) for n in range(1, 101)})
            self.assertTrue(shim.quiet())

    def test_answers_come_as_handlers_end(self):
        with several(SLEEPS) as shim:
            shim.send(event(1, body=b"0.3") + event(2, body=b"0.15") + event(3, body=b"0"))
            self.assertEqual([shim.answer().ident for _ in range(3)], [3, 2, 1])

    def test_no_more_than_agreed_begin(self):
        source = ("import asyncio\nrunning = 0\nasync def handler(c, e):\n    global running\n    running += 1\n"
                  "    most = running\n    await asyncio.sleep(0.02)\n    running -= 1\n    return str(most)\n")
        with several(source, 3) as shim:
            shim.send(b"".join(event(n) for n in range(1, 13)))
            self.assertEqual(max(int(shim.answer().body) for _ in range(12)), 3)

    def test_split_at_every_byte(self):
        with several("async def handler(c, e):\n    return e.body\n") as shim:
            data = event(1, body=b"split") + event(2, body=b"me")
            for cut in range(1, len(data)):
                shim.send(data[:cut])
                if cut % 8 == 0:
                    time.sleep(0.002)
                shim.send(data[cut:])
                self.assertEqual({shim.answer().body, shim.answer().body}, {b"split", b"me"})

    def test_every_kind_of_async_handler(self):
        sources = {
            "object": "class H:\n    async def __call__(self, c, e): return 'a'\nhandler = H()\n",
            "partial": "import functools\nasync def f(x, c, e): return 'a'\n"
                       "handler = functools.partial(functools.partial(f), 1)\n",
            "marked": "import inspect\nasync def f(c, e): return 'a'\ndef handler(c, e): return f(c, e)\n"
                      "getattr(inspect, 'markcoroutinefunction', lambda f: f)(handler)\n",
            "method": "class H:\n    async def run(self, c, e): return 'a'\nhandler = H().run\n",
        }
        for name, source in sources.items():
            with self.subTest(name), several(source) as shim:
                self.assertEqual(shim.call().body, b"a")

    def test_a_plain_function_has_one_at_a_time_and_it_is_said(self):
        with several("import time\ndef handler(c, e):\n    time.sleep(0.01)\n    return e.id\n") as shim:
            self.assertEqual(shim.ready["max_inflight"], "1")
            self.assertIn("make it async def", shim.logs[0][1])
            self.assertEqual(shim.call().body, b"e1")

    def test_failures_of_one_do_not_touch_the_others(self):
        source = ("import asyncio, sys\nasync def handler(c, e):\n    await asyncio.sleep(0.02)\n    exec(e.body.decode())\n"
                  "    return 'fine'\n")
        bodies = (b"1/0", b"sys.exit(3)", b"raise KeyboardInterrupt", b"raise asyncio.CancelledError", b"pass",
                  b"raise GeneratorExit", b"raise StopAsyncIteration")
        with several(source) as shim:
            shim.send(b"".join(event(n, body=body) for n, body in enumerate(bodies, 1)))
            found = {}
            for _ in bodies:
                answer = shim.answer()
                found[answer.ident] = answer.status
            self.assertEqual(found, {n: 200 if body == b"pass" else 500 for n, body in enumerate(bodies, 1)})
            self.assertEqual(shim.call(body=b"pass").body, b"fine")

    def test_an_event_that_cannot_be_read_fails_alone(self):
        with several("async def handler(c, e):\n    return e.path\n") as shim:
            shim.send(event(1, path=b"/\xff", flags=0x40) + event(2, path="/fine"))
            found = {answer.ident: answer for answer in (shim.answer(), shim.answer())}
            self.assertEqual((found[1].status, found[2].body), (500, b"/fine"))
            self.assertIn(b"while serving", found[1].body)

    def test_a_batch_takes_one_place(self):
        source = ("import asyncio\nasync def handler(c, es):\n    await asyncio.sleep(0.05)\n"
                  "    return [c.Response(body='%s of %d' % (e.id, len(es)), event_id=e.id) for e in es]\n")
        with several(source, 2) as shim:
            for first in (10, 20, 30):
                shim.send(event(first, text_id="a", flags=0x08) + event(first + 1, text_id="b", flags=0x18))
            answers = {answer.ident: answer.body for answer in (shim.answer() for _ in range(6))}
            self.assertEqual(answers, {n + m: b"%s of 2" % (b"a", b"b")[m] for n in (10, 20, 30) for m in (0, 1)})

    def test_tasks_of_events_that_have_been_answered_go_on(self):
        source = ("import asyncio\nasync def later(c):\n    await asyncio.sleep(0.05)\n    c.logger.warn('later')\n"
                  "async def handler(c, e):\n    c.user_data.t = asyncio.create_task(later(c))\n    return 'now'\n")
        with several(source) as shim:
            self.assertEqual(shim.call().body, b"now")
            kind, _, _, ident, head, _ = shim.frame()
            self.assertEqual((kind, ident, head[8:]), (LOG, 0, b"later"))

    def test_ends(self):
        with several(SLEEPS) as shim:
            shim.call(body=b"0")
            self.assertEqual(shim.finish(), 0)

    def test_protocol_fault(self):
        with several(SLEEPS) as shim:
            shim.send(event(1, body=b"9") + frame(0x7E))
            kind, _, code, _, _, body = shim.next()
            self.assertEqual((kind, code), (FAILED, 3))
            self.assertIn(b"0x7e", body)
            self.assertEqual(shim.process.wait(5), 1)


    def test_events_leave_nothing_to_the_collector(self):
        source = ("import gc\nasync def handler(c, e):\n    if e.path != '/left': return 's'\n"
                  "    gc.disable()\n    return str(gc.collect())\n")
        with several(source) as shim:
            shim.call(path="/left")
            shim.call(path="/left")
            for ident in range(10, 60):
                self.assertEqual(shim.call(ident, path="/s").body, b"s")
            self.assertLess(int(shim.call(path="/left").body), 25)

    def test_a_task_that_is_cancelled_before_it_runs_is_answered(self):
        source = ("import asyncio\nasync def handler(c, e):\n"
                  "    for task in asyncio.all_tasks():\n"
                  "        if e.path == '/wild' and task is not asyncio.current_task() and 'one' in repr(task.get_coro()):\n"
                  "            task.cancel()\n"
                  "    return e.path\n")
        with several(source, 3) as shim:
            shim.send(b"".join(event(ident, path=path) for ident, path in ((1, "/wild"), (2, "/s"), (3, "/s"), (4, "/t"))))
            answers = {answer.ident: answer for answer in (shim.answer() for _ in range(4))}
            self.assertEqual([answers[ident].status for ident in (1, 2, 3, 4)], [200, 500, 500, 200])
            self.assertIn(b"cancelled before it ran", answers[2].body)
            self.assertEqual([(text, ident) for level, text, _, ident in shim.logs if level == "error"],
                             [("Exception caught in handler", ident) for ident in (2, 3)])
            self.assertEqual(shim.call(5, path="/t").body, b"/t")


class Contexts(unittest.TestCase):
    def test_context_variables_are_each_events_own(self):
        source = ("import asyncio, contextvars\nv = contextvars.ContextVar('v', default='-')\n"
                  "def init_context(c): v.set('init')\n"
                  "async def handler(c, e):\n    old = v.get()\n    v.set(e.id)\n    await asyncio.sleep(0.02)\n"
                  "    return old + ' ' + v.get()\n")
        with several(source) as shim:
            for turn in range(2):
                shim.send(b"".join(event(n, text_id="i%d" % n) for n in range(1, 6)))
                self.assertEqual({shim.answer().body for _ in range(5)}, {b"init i%d" % n for n in range(1, 6)})

    def test_records_belong_to_the_event_that_wrote_them(self):
        source = ("import asyncio\nasync def part(c, e): c.logger.info_with('part', of=e.id)\n"
                  "async def handler(c, e):\n    c.logger.info_with('first', of=e.id)\n    await asyncio.sleep(0.02)\n"
                  "    await asyncio.gather(part(c, e), asyncio.create_task(part(c, e)))\n"
                  "    await asyncio.get_running_loop().run_in_executor(None, c.logger.info, 'elsewhere')\n    return 'x'\n")
        with several(source) as shim:
            shim.send(b"".join(event(n, text_id="i%d" % n) for n in range(1, 9)))
            for _ in range(8):
                shim.answer()
            for level, message, fields, ident in shim.logs:
                if message == "elsewhere":
                    self.assertEqual(ident, 0)  # a thread that was told nothing
                else:
                    self.assertEqual(fields["of"], "i%d" % ident)
            self.assertEqual(len(shim.logs), 8 * 4)

    def test_bound_fields_and_assigned_loggers_stay_with_their_event(self):
        source = ("import asyncio\nclass Mine:\n    def __init__(self, logger, name): self.logger, self.name = logger, name\n"
                  "    def info(self, text): self.logger.info(self.name + text)\n"
                  "def init_context(c): c.logger.bind(all='yes')\n"
                  "async def sub(c): c.logger.info('sub')\n"
                  "async def handler(c, e):\n    if e.body == b'mine': c.logger = Mine(c.logger, e.id)\n"
                  "    else: c.logger.bind(me=e.id)\n    await asyncio.sleep(0.02)\n    c.logger.info('m')\n"
                  "    await asyncio.create_task(sub(c))\n")
        with several(source) as shim:
            shim.send(event(1, text_id="a") + event(2, text_id="b") + event(3, text_id="c", body=b"mine"))
            for _ in range(3):
                shim.answer()
            found = sorted((ident, message, fields.get("me"), fields["all"]) for _, message, fields, ident in shim.logs)
            self.assertEqual(found, [(1, "m", "a", "yes"), (1, "sub", "a", "yes"), (2, "m", "b", "yes"),
                                     (2, "sub", "b", "yes"), (3, "cm", None, "yes"), (3, "csub", None, "yes")])

    def test_levels_are_each_events_own(self):
        source = ("import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(0.02)\n    c.logger.debug('d')\n"
                  "    c.logger.error('e')\n")
        with several(source, settings={"log_level": "2"}) as shim:
            shim.send(event(1, code=1 << 12) + event(2) + event(3, code=4 << 12))
            for _ in range(3):
                shim.answer()
            found = sorted((ident, message) for _, message, _, ident in shim.logs)
            self.assertEqual(found, [(1, "d"), (1, "e"), (2, "e"), (3, "e")])

    def test_records_are_not_held_back_while_a_handler_waits(self):
        source = "import asyncio\nasync def handler(c, e):\n    c.logger.info('now')\n    await asyncio.sleep(30)\n"
        with several(source) as shim:
            shim.send(event(1))
            shim.sock.settimeout(5)
            self.assertEqual(shim.frame()[4][8:], b"now")

    def test_acks_name_their_event(self):
        source = ("import asyncio, nuclio_sdk\nasync def handler(c, e):\n    await asyncio.sleep(0.02)\n"
                  "    await c.platform.explicit_ack(nuclio_sdk.QualifiedOffset.from_event(e))\n")
        with several(source) as shim:
            shim.send(b"".join(event(n, topic="t", shard=1, offset=n) for n in range(1, 6)))
            for _ in range(5):
                shim.answer()
            self.assertEqual(sorted(shim.acks), [("t", 1, n, n) for n in range(1, 6)])


class Cancelling(unittest.TestCase):
    SOURCE = ("import asyncio\nasync def handler(c, e):\n    if e.body: return 'other'\n    try:\n"
              "        await asyncio.sleep(30)\n    except asyncio.CancelledError:\n        print('told', flush=True)\n"
              "        raise\n")

    def test_reaches_the_coroutine(self):
        for reason in (CLIENT_GONE, DEADLINE):
            with several(self.SOURCE) as shim:
                shim.send(event(1, body=b"") + event(2, body=b""))
                time.sleep(0.1)
                shim.send(frame(CANCEL, 0, reason, 1))
                answer = shim.answer()
                self.assertEqual((answer.ident, answer.flags), (1, 0x10))
                self.assertEqual(shim.output(), "told\n")
                self.assertEqual(shim.call(3, body=b"x").body, b"other")
                self.assertTrue(shim.quiet())
                stacks = [fields["stack"] for _, _, fields, ident in shim.logs]
                self.assertEqual(len(stacks), int(reason == DEADLINE))
                if stacks:
                    self.assertRegex(stacks[0], r'main.py", line 5, in handler\n +await asyncio.sleep\(30\)')

    def test_an_event_that_was_taken_back_is_not_said_to_have_timed_out(self):
        with several(self.SOURCE) as shim:
            shim.send(event(1, body=b""))
            time.sleep(0.1)
            shim.send(frame(CANCEL, TAKEN_BACK, DEADLINE, 1))
            answer = shim.answer()
            self.assertEqual((answer.ident, answer.flags), (1, 0x10))
            self.assertEqual(shim.output(), "told\n")
            self.assertEqual([log[1] for log in shim.logs], ["Event was taken back; its handler waits in"])

    def test_before_the_handler_is_called(self):
        source = ("import asyncio, time\nasync def handler(c, e):\n    time.sleep(0.2)\n    await asyncio.sleep(0)\n"
                  "    print(e.id, flush=True)\n    return e.id\n")
        with several(source, 2) as shim:
            shim.send(b"".join(event(n, text_id="i%d" % n) for n in (1, 2, 3, 4)))
            time.sleep(0.05)
            shim.send(frame(CANCEL, 0, DEADLINE, 4) + frame(CANCEL, 0, CLIENT_GONE, 3))
            found = {answer.ident: answer.flags for answer in (shim.answer() for _ in range(4))}
            self.assertEqual(found, {1: 0, 2: 0, 3: 0x10, 4: 0x10})
            self.assertEqual(shim.output(), "i1\ni2\n")

    def test_a_handler_that_keeps_it_to_itself_loses_its_event_and_nothing_else(self):
        source = ("import asyncio\nasync def handler(c, e):\n    if e.body: return 'other'\n    for turn in range(10):\n"
                  "        try: await asyncio.sleep(0.05)\n        except asyncio.CancelledError: pass\n"
                  "    print('went on', flush=True)\n    return 'late'\n")
        with several(source) as shim:
            shim.send(event(1, body=b""))
            time.sleep(0.02)
            shim.send(frame(CANCEL, 0, DEADLINE, 1))
            begun = time.monotonic()
            answer = shim.answer()
            self.assertEqual((answer.ident, answer.flags), (1, 0x10))
            self.assertLess(time.monotonic() - begun, 0.4)
            self.assertEqual(shim.call(2, body=b"x").body, b"other")
            self.assertIn("must not keep CancelledError", shim.logs[-1][1])
            time.sleep(0.7)
            self.assertEqual(shim.output(), "went on\n")
            self.assertTrue(shim.quiet())  # no second answer
            self.assertEqual(shim.finish(), 0)

    def test_a_client_that_leaves_does_not_take_a_batch_with_it(self):
        source = "import asyncio\nasync def handler(c, es):\n    await asyncio.sleep(0.1)\n    return 'all'\n"
        with several(source) as shim:
            shim.send(event(1, text_id="a", flags=0x08) + event(2, text_id="b", flags=0x18))
            time.sleep(0.03)
            shim.send(frame(CANCEL, 0, CLIENT_GONE, 1))
            self.assertEqual({(a.ident, a.body) for a in (shim.answer(), shim.answer())}, {(1, b"all"), (2, b"all")})

    def test_a_batch_past_its_deadline_is_answered_event_by_event(self):
        with several("import asyncio\nasync def handler(c, es):\n    await asyncio.sleep(30)\n") as shim:
            shim.send(event(1, text_id="a", flags=0x08) + event(2, text_id="b", flags=0x18))
            time.sleep(0.05)
            shim.send(frame(CANCEL, 0, DEADLINE, 1) + frame(CANCEL, 0, DEADLINE, 2))
            self.assertEqual({(a.ident, a.flags) for a in (shim.answer(), shim.answer())}, {(1, 0x10), (2, 0x10)})
            self.assertTrue(shim.quiet())

    def test_end_of_file_cancels_all(self):
        with several(self.SOURCE) as shim:
            shim.send(event(1, body=b"") + event(2, body=b""))
            time.sleep(0.1)
            self.assertEqual(shim.finish(), 0)
            self.assertEqual(shim.output(), "told\ntold\n")

    def test_a_handler_that_does_not_end_is_not_waited_for_at_the_end(self):
        source = ("import asyncio\nasync def handler(c, e):\n    while True:\n"
                  "        try: await asyncio.sleep(30)\n        except asyncio.CancelledError: pass\n")
        with several(source) as shim:
            shim.send(event(1))
            time.sleep(0.1)
            self.assertEqual(shim.finish(), 0)

    def test_sigterm_lets_all_events_end(self):
        with several(SLEEPS) as shim:
            shim.send(event(1, body=b"0.3") + event(2, body=b"0.2"))
            time.sleep(0.1)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual({shim.answer().ident, shim.answer().ident}, {1, 2})
            self.assertEqual(shim.process.wait(5), 0)
        with several(SLEEPS) as shim:
            time.sleep(0.05)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.process.wait(5), 0)

    def test_control_callbacks(self):
        source = ("import asyncio\nasync def end():\n    await asyncio.sleep(0.02)\n    print('ended', flush=True)\n"
                  "def init_context(c): c.platform.set_termination_callback(end)\nasync def handler(c, e): pass\n")
        with several(source) as shim:
            shim.call()
            shim.send(frame(CONTROL, 0, 3, 5, struct.pack("<I", 1000)))
            self.assertEqual(shim.next(), (CONTROL_DONE, 0, 0, 5, b"", b""))
            self.assertEqual((shim.finish(), shim.output()), (0, "ended\n"))

    def test_abort_shows_where_a_blocking_handler_hangs(self):
        with several("import time\nasync def handler(c, e):\n    time.sleep(30)\n") as shim:
            shim.send(event(1))
            time.sleep(0.2)
            shim.process.send_signal(signal.SIGABRT)
            self.assertEqual(shim.process.wait(5), -signal.SIGABRT)
            self.assertIn('main.py", line 3 in handler', shim.errors())


class Streams(unittest.TestCase):
    @staticmethod
    def read(shim, count):
        """The streams of so many events: {id: (pieces, last flags)}."""
        found, ended = {}, {}
        while len(ended) < count:
            kind, flags, _, ident, _, body = shim.next()
            if kind == DATA and flags:
                ended[ident] = (b"".join(found[ident]), flags)
            elif kind == DATA:
                found[ident].append(body)
            else:
                found[ident] = []
        return ended

    def test_side_by_side(self):
        sources = ("async def handler(c, e):\n    for n in range(5):\n        yield '%s%d ' % (e.id, n)\n"
                   "        await asyncio.sleep(0.01)\n",
                   "def pieces(e):\n    for n in range(5): yield '%s%d ' % (e.id, n)\n"
                   "async def handler(c, e): return c.Response(body=pieces(e))\n")
        for source in sources:
            with several("import asyncio\n" + source) as shim:
                shim.send(b"".join(event(n, text_id="i%d." % n) for n in range(1, 4)))
                want = {n: ("".join("i%d.%d " % (n, m) for m in range(5)).encode(), 1) for n in range(1, 4)}
                self.assertEqual(self.read(shim, 3), want)

    def test_one_without_credit_does_not_hold_up_the_others(self):
        source = ("async def handler(c, e):\n    if e.body: yield 'small'\n    else:\n        yield 'x' * 100_000\n"
                  "        yield 'y' * 50_000\n")
        with several(source, credit=100_000) as shim:
            shim.send(event(1, body=b""))
            self.assertEqual(shim.answer().ident, 1)
            got = 0
            while got < 100_000:
                got += len(shim.next()[5])
            shim.send(event(2))
            self.assertEqual(self.read(shim, 1), {2: (b"small", 1)})
            self.assertTrue(shim.quiet())
            shim.send(frame(CREDIT, 0, 0, 1, struct.pack("<I", 50_000)))
            while got < 150_000:
                got += len(shim.next()[5])
            self.assertEqual(shim.next()[1], 1)

    def test_cancelled_ones_are_closed(self):
        for reason in (CLIENT_GONE, DEADLINE):
            source = ("import asyncio\nasync def handler(c, e):\n    try:\n        while True:\n            yield 'x'\n"
                      "            await asyncio.sleep(0.01)\n    finally:\n        print('closed', e.id, flush=True)\n")
            with several(source) as shim:
                shim.send(event(1, text_id="a") + event(2, text_id="b"))
                while shim.next()[3] != 1:  # It has begun.
                    pass
                shim.send(frame(CANCEL, 0, reason, 1))
                while True:
                    kind, flags, _, ident, _, _ = shim.next()
                    if flags == 2 and kind == DATA:
                        break
                self.assertEqual((ident, shim.output()), (1, "closed a\n"))
                self.assertEqual(shim.next()[3], 2)  # goes on
                self.assertEqual([fields.get("stack", "").count("in handler") for _, _, fields, _ in shim.logs],
                                 [1] if reason == DEADLINE else [])

    def test_stack_of_one_that_is_ended(self):
        cases = (("async def inner():\n    await asyncio.sleep(30)\n    yield 'x'\n"  # within another generator
                  "async def handler(c, e):\n    async for piece in inner():\n        yield piece\n",
                  r"in handler\n +async for piece in inner\(\)"),
                 ("async def handler(c, e):\n    while True:\n        yield 'x' * 1000\n",  # for credit
                  r"in handler\n +yield 'x' \* 1000"),
                 ("def pieces():\n    while True: yield 'x' * 1000\nasync def handler(c, e):\n    return pieces()\n",
                  r"in pieces\n +while True: yield"))
        for source, waits in cases:
            with several("import asyncio\n" + source, credit=1) as shim:
                shim.send(event(1))
                time.sleep(0.1)
                shim.send(frame(CANCEL, 0, DEADLINE, 1))
                while shim.next()[1] & 2 == 0 and not shim.logs:
                    pass
                self.assertEqual(len(shim.logs), 1)
                self.assertRegex(shim.logs[0][2]["stack"], waits)

    def test_sync_generators_are_closed_and_give_way(self):
        source = ("def pieces(e):\n    try:\n        while True: yield 'x'\n    finally: print('closed', flush=True)\n"
                  "async def handler(c, e): return pieces(e) if not e.body else 'other'\n")
        with several(source, credit=10_000_000) as shim:
            shim.send(event(1, body=b"") + event(2))
            while True:
                kind, flags, _, ident, _, body = shim.next()
                if ident == 2:
                    break
            self.assertEqual(body, b"other")
            shim.send(frame(CANCEL, 0, CLIENT_GONE, 1))
            while shim.next()[1] != 2:
                pass
            self.assertEqual(shim.output(), "closed\n")


class Bodies(unittest.TestCase):
    SOURCE = ("async def handler(c, e):\n    seen = [b'%d:' % 0]\n    async for piece in e.body: seen.append(piece)\n"
              "    return b''.join(seen)\nhandler.stream_body = True\n")

    @staticmethod
    def piece(ident, body, flags=0):
        return frame(DATA_IN, flags, 0, ident, b"", body)

    def answers(self, shim, count):
        found = {}
        while len(found) < count:
            got = shim.next()
            if got[0] != CREDIT_BACK:
                found[got[3]] = got[5]
        return found

    def test_several_arrive_side_by_side(self):
        with several(self.SOURCE) as shim:
            shim.send(event(1, body=b"a", flags=MORE_IN) + event(2, body=b"b", flags=MORE_IN) + event(3, body=b"whole"))
            for turn in range(3):
                shim.send(self.piece(1, b"1") + self.piece(2, b"2"))
                time.sleep(0.01)
            shim.send(self.piece(2, b"", 1))
            self.assertEqual(self.answers(shim, 2), {2: b"0:b222", 3: b"0:whole"})
            shim.send(self.piece(1, b"!", 1))
            self.assertEqual(self.answers(shim, 1), {1: b"0:a111!"})

    def test_of_an_event_that_waits_for_a_place(self):
        source = ("import asyncio\n" + self.SOURCE.replace("seen = [", "await asyncio.sleep(0.1)\n    seen = ["))
        with several(source, 1 + 1) as shim:
            shim.send(b"".join(event(n, body=b"", flags=MORE_IN) + self.piece(n, b"%d" % n, 1) for n in range(1, 6)))
            self.assertEqual(self.answers(shim, 5), {n: b"0:%d" % n for n in range(1, 6)})

    def test_one_that_breaks_off(self):
        with several(self.SOURCE) as shim:
            shim.send(event(1, body=b"a", flags=MORE_IN) + event(2, body=b"b", flags=MORE_IN))
            time.sleep(0.05)
            shim.send(self.piece(1, b"the client left", 2) + self.piece(2, b"b", 1))
            found = self.answers(shim, 2)
            self.assertIn(b"the client left", found[1])
            self.assertEqual(found[2], b"0:bb")

    def test_one_task_reads_the_body_while_another_writes_the_answer(self):
        source = ("import asyncio\nasync def read(e):\n    return await e.body.read_async()\n"
                  "async def handler(c, e):\n    task = asyncio.create_task(read(e))\n    await asyncio.sleep(0.01)\n"
                  "    yield 'x' * 1000\n    yield await task\nhandler.stream_body = True\n")
        for slots in (1, 10):
            with several(source, slots, credit=500) as shim:
                shim.send(event(1, body=b"a", flags=MORE_IN))
                got = b""
                while len(got) < 500:
                    got += shim.next()[5]
                time.sleep(0.05)  # both wait now
                shim.send(self.piece(1, b"b", 1))
                time.sleep(0.05)
                shim.send(frame(CREDIT, 0, 0, 1, struct.pack("<I", 600)))
                while True:
                    kind, flags, _, _, _, body = shim.next()
                    if kind == DATA and flags:
                        break
                    got += body if kind == DATA else b""
                self.assertEqual((flags, got), (1, b"x" * 1000 + b"ab"))

    def test_a_body_read_without_await_blocks_and_works(self):
        source = ("async def handler(c, e):\n    return e.body.read()\nhandler.stream_body = True\n")
        with several(source) as shim:
            shim.send(event(1, body=b"a", flags=MORE_IN) + event(2, body=b"c", flags=MORE_IN))
            time.sleep(0.05)
            shim.send(self.piece(2, b"d", 1))
            time.sleep(0.05)
            shim.send(self.piece(1, b"b", 1))
            self.assertEqual(self.answers(shim, 2), {1: b"ab", 2: b"cd"})

    def test_an_answer_larger_than_the_socket_takes_waits_for_its_reader(self):
        with several("async def handler(c, e):\n    return b'x' * (8 << 20)\n") as shim:
            shim.send(event(1))
            time.sleep(0.3)
            self.assertEqual(len(self.answers(shim, 1)[1]), 8 << 20)

    def test_pieces_of_the_next_event_that_come_while_another_is_in_service(self):
        source = ("import asyncio\nasync def handler(c, e):\n    if e.id == 'first': await asyncio.sleep(0.1)\n"
                  "    return await e.body.read_async()\nhandler.stream_body = True\n")
        with several(source, 1) as shim:
            shim.send(event(1, text_id="first") + event(2, body=b"a", flags=MORE_IN) + self.piece(2, b"b", 1))
            self.assertEqual(self.answers(shim, 2), {1: b"hi", 2: b"ab"})


class Loops(unittest.TestCase):
    SOURCE = ("import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(0.02)\n"
              "    return type(asyncio.get_running_loop()).__module__\n")

    def test_uvloop_is_used_when_asked_for_and_there(self):
        with several(self.SOURCE, settings={"event_loop": "uvloop"}) as shim:
            shim.send(b"".join(event(n) for n in range(1, 6)))
            loops = {shim.answer().body.split(b".")[0] for _ in range(5)}
            if loops == {b"uvloop"}:
                self.assertEqual(shim.logs, [])
            else:
                self.assertEqual((loops, len(shim.logs)), ({b"asyncio"}, 1))
                self.assertIn("NUCLIO_PYTHON_EVENT_LOOP", shim.logs[0][1])
            self.assertEqual(shim.finish(), 0)

    def test_uvloop_serves_plain_handlers_too(self):
        with Shim("def handler(c, e): return e.body\n", settings={"event_loop": "uvloop"}) as shim:
            self.assertEqual([shim.call().body for _ in range(3)], [b"hi"] * 3)
            shim.process.terminate()
            self.assertEqual(shim.process.wait(5), 0)


if __name__ == "__main__":
    unittest.main()
