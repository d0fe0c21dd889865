"""Applications behind the shim: the tests play the processor, the applications need nothing but the standard library."""

import struct
import time
import unittest

from test_wrapper import ANSWER, CANCEL, CONTROL, CONTROL_DONE, CREDIT, EVENT, FAILED, VERSION, Shim, frame

MORE_IN, NO_BODY, END, ABORT, DATA_IN = 0x01, 0x02, 0x01, 0x02, 0x03


def request(ident=1, method="GET", path="/", query="", headers=(), body=b"", client="10.0.0.1 9", server="10.0.0.2 80",
            version="1.1", flags=0):
    texts = ["id", method, path, query] + [""] * 8
    texts += [text for pair in headers for text in pair] + [version, client, server]
    head = struct.pack("<qqiiIHH", 0, 0, -1, 0, 0, len(headers), 0) + "\0".join(texts).encode("latin-1")
    return frame(EVENT, flags | (0 if body or flags else NO_BODY), 0, ident, head, body)


ASGI = """
import asyncio
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("none here")
    def start(status=200, headers=()):
        return send({"type": "http.response.start", "status": status, "headers": headers})
    def body(body=b"", more=False):
        return send({"type": "http.response.body", "body": body, "more_body": more})
    await globals()[scope["path"][1:].split("/")[0]](scope, receive, start, body)
"""


def asgi(text):
    return ASGI + text


class Asgi(unittest.TestCase):
    def served(self, text, **more):
        settings = {"max_inflight": "8", "max_inflight_for": "web", **more.pop("settings", {})}
        shim = Shim(asgi(text), "main:app", settings=settings, **more)
        self.addCleanup(shim.__exit__)
        return shim

    def call(self, shim, *args, **kwargs):
        shim.send(request(*args, **kwargs))
        return shim.answer()

    def test_is_found_by_its_parameters_and_gets_several_requests(self):
        shim = self.served("")
        self.assertEqual((shim.ready["web"], shim.ready["max_inflight"], shim.ready["stream_in"]), ("asgi", "8", "1"))

    def test_the_scope_is_the_request_as_it_came(self):
        shim = self.served("""
async def s(scope, receive, start, body):
    scope["headers"] = [tuple(pair) for pair in scope["headers"]]
    await start(); await body(repr([scope[k] for k in ("http_version", "method", "scheme", "path", "raw_path",
        "query_string", "root_path", "headers", "client", "server")]).encode())
""")
        answer = self.call(shim, path="/s/%C3%A4%2F//..", query="a=%20&b", headers=[("x", "1"), ("x", "\xe4")])
        self.assertEqual(eval(answer.body), [
            "1.1", "GET", "http", "/s/ä///..", b"/s/%C3%A4%2F//..", b"a=%20&b", "",
            [(b"x", b"1"), (b"x", b"\xe4")], ("10.0.0.1", 9), ("10.0.0.2", 80)])

    def test_root_path_stands_in_front_once(self):
        for path, expected in (("/t", "/shop/t"), ("/shop/t", "/shop/t"), ("/shopping", "/shop/shopping"), ("/shop", "/shop")):
            source = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": repr([scope[k] for k in ("path", "root_path")]).encode()})
"""
            with Shim(source, "main:app", settings={"root_path": "/shop"}) as shim:
                self.assertEqual(eval(self.call(shim, path=path).body), [expected, "/shop"])

    def test_all_values_of_a_header_go_both_ways_in_order(self):
        shim = self.served("""
async def h(scope, receive, start, body):
    await start(201, [(b"set-cookie", value) for name, value in scope["headers"]]); await body(scope["raw_path"])
""")
        answer = self.call(shim, path="/h/%2F", headers=[("a", "1"), ("a", "\xe4")])
        self.assertEqual((answer.status, answer.body), (201, b"/h/%2F"))
        self.assertEqual(answer.pairs, [("set-cookie", "1"), ("set-cookie", "\udce4")])

    def test_a_body_comes_whole_or_as_it_arrives(self):
        shim = self.served("""
async def b(scope, receive, start, body):
    got, more = [], True
    while more:
        message = await receive()
        got.append(len(message["body"])); more = message["more_body"]
    await start(); await body(repr(got).encode())
""")
        self.assertEqual(self.call(shim, path="/b", body=b"abc").body, b"[3]")
        shim.send(request(path="/b", flags=MORE_IN, ident=2))
        for piece, flags in ((b"12", 0), (b"3456", 0), (b"", 1)):
            shim.send(frame(DATA_IN, flags, 0, 2, b"", piece))
        while True:
            found = shim.next()
            if found[0] == ANSWER:
                break
        self.assertEqual(sum(eval(found[5])), 6)

    def test_several_wait_side_by_side(self):
        shim = self.served("""
event = asyncio.Event()
async def wait(scope, receive, start, body):
    await event.wait(); await start(); await body(b"waited")
async def go(scope, receive, start, body):
    event.set(); await start(); await body(b"gone")
""")
        shim.send(request(1, path="/wait"))
        shim.send(request(2, path="/go"))
        self.assertEqual({shim.answer().body, shim.answer().body}, {b"waited", b"gone"})

    def test_requests_leave_nothing_to_the_collector(self):
        shim = self.served("""
import gc
async def left(scope, receive, start, body):
    gc.disable(); await start(); await body(b"%d" % gc.collect())
async def s(scope, receive, start, body):
    await start(); await body(b"s")
""")
        self.call(shim, path="/left")
        self.call(shim, path="/left")
        for ident in range(10, 60):
            self.assertEqual(self.call(shim, ident, path="/s").body, b"s")
        self.assertLess(int(self.call(shim, path="/left").body), 25)

    @unittest.skipIf(VERSION < (3, 12), "tasks that run at once came with Python 3.12")
    def test_tasks_may_run_at_once(self):
        shim = self.served("""
async def eager(scope, receive, start, body):
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    await start(); await body(b"set")
async def s(scope, receive, start, body):
    if scope["query_string"] == b"wait": await asyncio.sleep(0.01)
    await start(); await body(scope["query_string"])
""", settings={"max_inflight": "3"})
        self.assertEqual(self.call(shim, path="/eager").body, b"set")
        texts = [("wait" if number % 3 == 0 else str(number)) for number in range(20)]
        shim.send(b"".join(request(10 + number, path="/s", query=text) for number, text in enumerate(texts)))
        answers = [shim.answer() for _ in texts]
        self.assertEqual({answer.ident: answer.body.decode() for answer in answers},
                         {10 + number: text for number, text in enumerate(texts)})
        self.assertEqual(shim.logs[1:], [])

    def test_a_task_that_is_cancelled_before_it_runs_is_answered(self):
        shim = self.served("""
async def wild(scope, receive, start, body):
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task() and "one" in repr(task.get_coro()): task.cancel()
    await start(); await body(b"wild")
async def s(scope, receive, start, body):
    await start(); await body(b"s")
""", settings={"max_inflight": "3"})
        shim.send(b"".join(request(ident, path=path) for ident, path in ((1, "/wild"), (2, "/s"), (3, "/s"), (4, "/s"))))
        answers = {answer.ident: (answer.status, answer.body) for answer in (shim.answer() for _ in range(4))}
        self.assertEqual(answers, {
            1: (200, b"wild"), 2: (500, b"Internal Server Error"), 3: (500, b"Internal Server Error"), 4: (200, b"s")})
        self.assertEqual([(level, text, ident) for level, text, _, ident in shim.logs if level == "error"],
                         [("error", "The request's task was cancelled before it ran", ident) for ident in (2, 3)])
        self.assertEqual(self.call(shim, 5, path="/s").body, b"s")

    def test_a_stream_goes_out_piece_by_piece(self):
        shim = self.served("""
async def s(scope, receive, start, body):
    await start(200, [(b"content-length", b"6")])
    await body(b"abc", True); await asyncio.sleep(0); await body(b"def", True); await body(b"")
""")
        shim.send(request(path="/s"))
        head, pieces, flags, last = shim.streamed()
        self.assertEqual((head.status, pieces + [last], flags), (200, [b"abc", b"def"], END))

    def test_pieces_go_out_together_until_the_application_waits(self):
        shim = self.served("""
async def s(scope, receive, start, body):
    await start()
    for _ in range(3): await body(b"a", True)
    await asyncio.sleep(0.01)
    for _ in range(3): await body(b"b", True)
    await asyncio.sleep(0.01)
    await body(b"c")
async def at_once(scope, receive, start, body):
    await start()
    for _ in range(3): await body(b"a", True)
    await body(b"")
async def large(scope, receive, start, body):
    await start()
    for _ in range(10): await body(b"x" * 10000, True)
    await body(b"y" * 150000, True)
    await body(b"z")
""")
        shim.send(request(path="/s"))
        self.assertEqual(shim.streamed()[1:], ([b"aaa", b"bbb"], END, b"c"))
        answer = self.call(shim, 2, path="/at_once")
        self.assertEqual((answer.body, answer.flags), (b"aaa", 0))
        shim.send(request(3, path="/large"))
        _, pieces, flags, last = shim.streamed()
        self.assertEqual((b"".join(pieces) + last, flags), (b"x" * 100000 + b"y" * 150000 + b"z", END))

    def test_messages_to_a_client_that_left_are_ignored_and_then_an_error(self):
        shim = self.served("""
left = []
async def endless(scope, receive, start, body):
    await start()
    try:
        while True:
            await body(b"x", True)
            await asyncio.sleep(0)
    except OSError as error:
        left.append(str(error))
        raise RuntimeError("of it") from error
async def seen(scope, receive, start, body):
    while not left: await asyncio.sleep(0.001)
    await start(); await body(repr(left).encode())
""")
        shim.send(request(path="/endless"))
        self.assertTrue(shim.answer().flags & 1)
        shim.send(frame(CANCEL, 0, 1, 1))
        shim.send(request(2, path="/seen"))
        found = shim.next()
        while found[0] != ANSWER:
            found = shim.next()
        self.assertEqual(found[5], b"['the client has left']")
        self.assertEqual([log for log in shim.logs if log[0] == "error"], [])

    def test_no_more_than_the_credit_is_sent(self):
        shim = self.served("""
async def s(scope, receive, start, body):
    await start(); await body(b"x" * 100, True); await body(b"y")
""", credit=64)
        shim.send(request(path="/s"))
        shim.answer()
        self.assertEqual(len(shim.next()[5]), 64)
        shim.send(frame(CREDIT, 0, 0, 1, struct.pack("<I", 64)))
        self.assertEqual([shim.next()[5] for _ in range(2)], [b"x" * 36, b"y"])

    def test_head_is_answered_without_a_body(self):
        shim = self.served("""
async def s(scope, receive, start, body):
    await start(200, [(b"content-length", b"3")]); await body(b"ab", True); await body(b"c")
""")
        for ident in (1, 2):
            answer = self.call(shim, ident, method="HEAD", path="/s")
            self.assertEqual((answer.body, answer.flags), (b"", 0))
            self.assertEqual(answer.pairs, [("content-length", "3")])

    def test_what_an_application_does_wrong_is_answered_and_logged_and_the_worker_lives(self):
        shim = self.served("""
async def early(scope, receive, start, body): raise ValueError("early")
async def twice(scope, receive, start, body): await start(); await start()
async def nothing(scope, receive, start, body): pass
async def half(scope, receive, start, body): await start()
async def unasked(scope, receive, start, body): await body(b"x")
async def longer(scope, receive, start, body): await start(200, [(b"content-length", b"1")]); await body(b"ab")
async def shorter(scope, receive, start, body): await start(200, [(b"content-length", b"3")]); await body(b"ab")
async def text(scope, receive, start, body): await start(); await body("text")
async def leaves(scope, receive, start, body): raise SystemExit(3)
async def fine(scope, receive, start, body): await start(); await body(b"fine")
""")
        for path, said in (
                ("early", "ValueError: early"), ("twice", "Expected ASGI message 'http.response.body'"),
                ("nothing", "returned without starting response"), ("half", "returned without completing response"),
                ("unasked", "Expected ASGI message 'http.response.start'"), ("longer", "longer than Content-Length"),
                ("shorter", "shorter than Content-Length"), ("text", "bytes-like"), ("leaves", "SystemExit")):
            shim.logs.clear()
            answer = self.call(shim, path="/" + path)
            self.assertEqual((answer.status, answer.body), (500, b"Internal Server Error"), path)
            (level, message, fields, ident), = [log for log in shim.logs if log[0] == "error"]
            self.assertIn(said, message + fields.get("traceback", ""), path)
            self.assertEqual(ident, 1)
            self.assertEqual(self.call(shim, path="/fine").body, b"fine")

    def test_one_that_fails_or_ends_in_the_middle_is_cut_off(self):
        shim = self.served("""
async def fails(scope, receive, start, body):
    await start(); await body(b"a", True); await asyncio.sleep(0); raise ValueError("middle")
async def ends(scope, receive, start, body): await start(); await body(b"a", True); await asyncio.sleep(0)
async def fine(scope, receive, start, body): await start(); await body(b"fine")
""")
        for number, (path, said) in enumerate((("fails", "ValueError: middle"), ("ends", "without completing")), 1):
            shim.send(request(path="/" + path))
            _, pieces, flags, text = shim.streamed()
            self.assertEqual((pieces, flags, text), ([b"a"], ABORT, b""), "the log has said why")
            self.assertEqual(self.call(shim, path="/fine").body, b"fine")
            errors = [log for log in shim.logs if log[0] == "error"]
            self.assertEqual(len(errors), number)
            self.assertIn(said, repr(errors[-1]))

    def test_a_class_whose_objects_are_awaited_is_an_application(self):
        shim = self.served("""
class app:
    def __init__(self, scope, receive, send):
        self.scope, self.send = scope, send
    def __await__(self):
        return self.answer().__await__()
    async def answer(self):
        if self.scope["type"] == "lifespan":
            raise ValueError("none here")
        await self.send({"type": "http.response.start", "status": 200})
        await self.send({"type": "http.response.body", "body": self.scope["path"].encode()})
""")
        self.assertEqual((shim.ready["web"], self.call(shim, path="/of/a/class").body), ("asgi", b"/of/a/class"))

    def test_what_is_logged_of_a_500_comes_before_it_and_belongs_to_it(self):
        shim = self.served("""
async def e(scope, receive, start, body):
    await start(500); await body(b"own page"); raise ValueError("again")
""")
        answer = self.call(shim, path="/e")
        self.assertEqual((answer.status, answer.body), (500, b"own page"))
        self.assertEqual([log[3] for log in shim.logs if log[0] == "error"], [1])

    def test_records_of_logging_are_ours_unless_the_application_says_where_they_go(self):
        text = """
import logging
async def l(scope, receive, start, body):
    logging.getLogger("shop").warning("said %d", 1); await start(); await body()
"""
        shim = self.served(text)
        self.call(shim, path="/l")
        self.assertIn(("warn", "said 1", {"logger": "shop", "worker_id": "0"}, 1), shim.logs)
        shim = self.served(text + "logging.basicConfig()\n")
        self.call(shim, path="/l")
        self.assertNotIn("said 1", [log[1] for log in shim.logs])

    def test_a_client_that_leaves_is_a_message_and_no_cancelling(self):
        shim = self.served("""
left = []
async def wait(scope, receive, start, body):
    await receive()
    left.append((await receive())["type"])
    await start(); await body(b"nobody reads this")
async def seen(scope, receive, start, body): await start(); await body(repr(left).encode())
""")
        shim.send(request(path="/wait"))
        self.call(shim, 2, path="/seen")
        shim.send(frame(CANCEL, 0, 1, 1))
        self.assertTrue(shim.answer().flags & 0x10)
        self.assertEqual(self.call(shim, 3, path="/seen").body, b"['http.disconnect']")

    def test_after_the_answer_comes_a_disconnect(self):
        shim = self.served("""
got = asyncio.Event()
async def a(scope, receive, start, body):
    await receive(); await start(); await body(b"a")
    assert (await receive())["type"] == "http.disconnect"
    got.set()
async def b(scope, receive, start, body): await got.wait(); await start(); await body(b"b")
""")
        self.assertEqual(self.call(shim, path="/a").body, b"a")
        self.assertEqual(self.call(shim, path="/b").body, b"b")

    def test_what_goes_on_behind_an_answer_takes_no_place_and_is_waited_for_at_the_end(self):
        shim = self.served("""
async def bg(scope, receive, start, body):
    await start(); await body(b"answered"); await asyncio.sleep(0.3); open("done", "w").close()
""", settings={"max_inflight": "1"})
        for _ in range(3):
            self.assertEqual(self.call(shim, path="/bg").body, b"answered")
        shim.send(frame(CONTROL, 0, 3, 9, struct.pack("<I", 5000)))
        self.assertEqual(shim.next()[0], CONTROL_DONE)
        with open(shim.folder + "/done"):
            pass

    def test_a_deadline_cancels_the_task(self):
        shim = self.served("""
async def never(scope, receive, start, body): await asyncio.sleep(60)
async def fine(scope, receive, start, body): await start(); await body(b"fine")
""")
        shim.send(request(path="/never"))
        self.call(shim, 2, path="/fine")
        shim.send(frame(CANCEL, 0, 2, 1))
        self.assertTrue(shim.answer().flags & 0x10)
        self.assertEqual(self.call(shim, 3, path="/fine").body, b"fine")


LIFE = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"]["n"] = 7
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        open("stopped", "w").close()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % scope["state"]["n"]})
"""


class Lifespan(unittest.TestCase):
    def test_starts_before_the_first_request_and_stops_at_the_end(self):
        with Shim(LIFE, "main:app") as shim:
            shim.send(request())
            self.assertEqual(shim.answer().body, b"7")
            shim.send(frame(CONTROL, 0, 3, 9, struct.pack("<I", 5000)))
            self.assertEqual(shim.next()[2], 0)
            with open(shim.folder + "/stopped"):
                pass

    def test_one_that_fails_says_why_and_ends_the_process(self):
        for text, said in (('await send({"type": "lifespan.startup.failed", "message": "no database"})', b"no database"),
                           ('await send({"type": "lifespan.startup.failed"}); raise OSError("gone")', b"gone")):
            source = "async def app(scope, receive, send):\n    %s\n" % text
            with Shim(source, "main:app", start=False) as shim:
                kind, _, code, _, _, body = shim.next()
                self.assertEqual((kind, code), (FAILED, 2))
                self.assertIn(b"lifespan startup failed", body)
                self.assertIn(said, body)


class Wsgi(unittest.TestCase):
    def served(self, source, **settings):
        shim = Shim("import sys\n" + source, "main:app", settings={"max_inflight": "8", "max_inflight_for": "web", **settings})
        self.addCleanup(shim.__exit__)
        return shim

    def call(self, shim, *args, **kwargs):
        shim.send(request(*args, **kwargs))
        return shim.answer()

    def test_requests_leave_nothing_to_the_collector(self):
        shim = self.served("""
import gc
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] != "/left": return [b"s"]
    gc.disable()
    return [b"%d" % gc.collect()]
""")
        self.call(shim, path="/left")
        self.call(shim, path="/left")
        for ident in range(10, 60):
            self.assertEqual(self.call(shim, ident).body, b"s")
        self.assertLess(int(self.call(shim, path="/left").body), 25)

    def test_a_body_that_was_half_read_while_another_request_was_answered(self):
        shim = self.served("""
import time
def app(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] != "/pieces": return [environ["PATH_INFO"].encode(), environ["wsgi.input"].read()]
    def pieces():
        yield b"1"
        time.sleep(0.1)
        yield b"2"
    return pieces()
""")
        hidden = request(9, path="/hidden")
        second = request(2, path="/second", method="POST", body=b"x" * 40 + hidden)
        for cut in (1, len(hidden), len(hidden) + 40):
            # The second lies ready, as far as that, when the first looks whether its client is still there.
            shim.send(request(1, path="/pieces") + second[:-cut])
            time.sleep(0.05)
            self.assertEqual(shim.streamed()[1], [b"1", b"2"])
            shim.send(second[-cut:])
            answer = shim.answer()
            self.assertEqual((answer.ident, answer.body), (2, b"/second" + b"x" * 40 + hidden))

    def test_gets_one_request_at_a_time_and_its_environment(self):
        shim = self.served("""
def app(environ, start_response):
    start_response("200 OK", [("Set-Cookie", "a"), ("Set-Cookie", "b")])
    return [repr({k: v for k, v in environ.items() if k.isupper() or k == "wsgi.url_scheme"}).encode()]
""", root_path="/shop")
        self.assertEqual((shim.ready["web"], shim.ready["max_inflight"]), ("wsgi", "1"))
        answer = self.call(shim, path="/shop/%C3%A4", query="q=1",
                           headers=[("content-type", "t"), ("x-a", "1"), ("x-a", "2"), ("x_a", "3")])
        environ = eval(answer.body)
        self.assertEqual((environ["SCRIPT_NAME"], environ["PATH_INFO"]), ("/shop", "/\xc3\xa4"))
        self.assertEqual((environ["HTTP_X_A"], environ["CONTENT_TYPE"]), ("1,2", "t"))
        self.assertEqual((environ["REMOTE_ADDR"], environ["SERVER_PORT"]), ("10.0.0.1", "80"))
        self.assertEqual(environ["REQUEST_URI"], "/shop/%C3%A4?q=1")
        self.assertEqual(answer.pairs, [("Set-Cookie", "a"), ("Set-Cookie", "b")])

    def test_keeps_to_pep_3333_as_the_standard_librarys_validator_sees_it(self):
        shim = self.served("""
from wsgiref.validate import validator
@validator
def checked(environ, start_response):
    body = environ["wsgi.input"].read(10)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body or b"none"]
def app(environ, start_response): return checked(environ, start_response)
""")
        self.assertEqual(shim.ready.get("web"), "wsgi")
        for body in (b"", b"abc"):
            answer = self.call(shim, method="POST", body=body, headers=[("content-length", str(len(body)))])
            self.assertTrue(answer.flags & 1)  # The validator's iterator has no length.
            self.assertEqual((shim.next()[5], shim.next()[1]), (body or b"none", END))
        self.assertEqual(shim.logs, [])

    def test_there_is_no_running_loop(self):
        shim = self.served("""
import asyncio
def app(environ, start_response):
    async def main(): return b"ran"
    start_response("200 OK", [])
    return [asyncio.run(main())]
""")
        self.assertEqual([self.call(shim).body for _ in range(2)], [b"ran"] * 2)

    def test_a_generator_is_streamed_and_closed(self):
        shim = self.served("""
closed = []
def pieces():
    try:
        yield b"a"
        yield b""
        yield b"b"
    finally:
        closed.append(1)
def app(environ, start_response):
    start_response("200 OK", [])
    return pieces() if environ["PATH_INFO"] == "/" else [repr(closed).encode()]
""")
        shim.send(request())
        _, pieces, flags, _ = shim.streamed()
        self.assertEqual((pieces, flags), ([b"a", b"b"], END))
        self.assertEqual(self.call(shim, path="/closed").body, b"[1]")

    def test_a_body_that_arrives_is_read_as_a_file(self):
        shim = self.served("""
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"|".join(environ["wsgi.input"])]
""")
        shim.send(request(flags=MORE_IN))
        for piece, flags in ((b"one\\nt", 0), (b"wo\\n", 0), (b"", 1)):
            shim.send(frame(DATA_IN, flags, 0, 1, b"", piece.replace(b"\\n", b"\n")))
        found = shim.next()
        while found[0] != ANSWER:
            found = shim.next()
        self.assertEqual(found[5], b"one\n|two\n")

    def test_what_an_application_does_wrong_is_answered_and_logged_and_the_worker_lives(self):
        shim = self.served("""
def early(start): raise ValueError("early")
def twice(start): start("200 OK", []); start("200 OK", [])
def unstarted(start): return [b"x"]
def nothing(start): start("200 OK", [])
def length(start): start("200 OK", [("Content-Length", "3")]); return [b"x"]
def leaves(start): sys.exit(3)
def fine(start): start("200 OK", []); return [b"fine"]
def app(environ, start_response): return globals()[environ["PATH_INFO"][1:]](start_response)
""")
        for path, said in (("early", "ValueError: early"), ("twice", "a second time"), ("unstarted", "before it has called"),
                           ("nothing", "TypeError"), ("length", "Content-Length is 3"), ("leaves", "SystemExit")):
            shim.logs.clear()
            answer = self.call(shim, path="/" + path)
            self.assertEqual((answer.status, answer.body), (500, b"Internal Server Error"), path)
            (_, message, fields, ident), = [log for log in shim.logs if log[0] == "error"]
            self.assertIn(said, fields["traceback"], path)
            self.assertEqual((message, ident), ("Exception in WSGI application", 1))
            self.assertEqual(self.call(shim, path="/fine").body, b"fine")

    def test_one_that_fails_in_the_middle_is_cut_off(self):
        shim = self.served("""
def app(environ, start_response):
    start_response("200 OK", [])
    yield b"a"
    raise ValueError("middle")
""")
        for _ in range(2):
            shim.send(request())
            _, pieces, flags, text = shim.streamed()
            self.assertEqual((pieces, flags, text), ([b"a"], ABORT, b""))

    def test_exc_info_replaces_a_head_that_has_not_been_sent(self):
        shim = self.served("""
def app(environ, start_response):
    start_response("200 OK", [])
    try:
        raise ValueError("x")
    except ValueError:
        start_response("503 Sorry", [], sys.exc_info())
    return [b"sorry"]
""")
        answer = self.call(shim)
        self.assertEqual((answer.status, answer.body), (503, b"sorry"))


class Neither(unittest.TestCase):
    def refused(self, source):
        with Shim(source, "main:app", start=False) as shim:
            kind, _, code, _, _, body = shim.next()
            self.assertEqual((kind, code), (FAILED, 1))
            return body.decode()

    def test_an_object_that_is_neither_function_nor_application_is_named(self):
        self.assertIn('"app" in module "main"', self.refused("app = 5"))
        self.assertIn("neither a function handler(context, event) nor an ASGI or WSGI", self.refused("app = {}"))
        self.assertIn("app() takes no arguments", self.refused("def app(): return 5"))

    def test_functions_stay_functions(self):
        for source in ("def app(context, event): return 'function'", "app = lambda c, e: 'function'",
                       "async def app(context, event): return 'function'", "def app(*args): return 'function'",
                       "class A:\n    def __call__(self, context, event): return 'function'\napp = A()",
                       "import functools\ndef f(x, context, event): return 'function'\napp = functools.partial(f, 1)"):
            with Shim(source, "main:app", settings={"max_inflight": "8", "max_inflight_for": "web"}) as shim:
                self.assertEqual((shim.ready.get("web"), shim.ready["max_inflight"]), (None, "1"), source)
                self.assertEqual(shim.call().body, b"function")

    def test_applications_are_found_through_what_is_around_them(self):
        for source, expected in (
                ("class A:\n    async def __call__(self, scope, receive, send): pass\napp = A()", "asgi"),
                ("class A:\n    async def run(self, scope, receive, send): pass\napp = A().run", "asgi"),
                ("import functools\nasync def a(x, scope, receive, send): pass\napp = functools.partial(a, 1)", "asgi"),
                ("import functools\nasync def a(scope, receive, send): pass\n"
                 "@functools.wraps(a)\ndef app(*args): return a(*args)", "asgi"),
                ("class A:\n    def __call__(self, env, start): pass\napp = A()", "wsgi")):
            with Shim(source, "main:app") as shim:
                self.assertEqual(shim.ready.get("web"), expected, source)

    def test_the_embedded_shim_has_what_serves_applications(self):
        with Shim(LIFE, "main:app", embedded=True) as shim:
            shim.send(request())
            self.assertEqual(shim.answer().body, b"7")


if __name__ == "__main__":
    unittest.main()
