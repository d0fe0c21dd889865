"""Habits of functions that exist: what they do beside answering, each seen in public code. See `test_wrapper`."""

import base64
import json
import os
import signal
import subprocess
import time
import unittest

from test_wrapper import LOG, PYTHON, Shim, event, wait_until


class Names(unittest.TestCase):
    def test_module_relative_file_and_folder(self):
        source = "text = open('weights.txt').read()\ndef handler(c, e): return text + open('./weights.txt').read()\n"
        with Shim(source, files={"weights.txt": "w"}) as shim:
            self.assertEqual(shim.call().body, b"ww")

    def test_source_that_is_not_ascii(self):
        source = "# grüße, 世界\ndef handler(c, e):\n    c.logger.info('grüße 世界 \U0001f600')\n    return 'ä'\n"
        with Shim(source) as shim:
            self.assertEqual(shim.call().body.decode(), "ä")
            self.assertEqual(shim.logs[0][1], "grüße 世界 \U0001f600")

    def test_entry_point_from_another_module_brings_its_init_context(self):
        files = {"lib.py": "def init_context(c): c.user_data.x = 'lib'\ndef handler(c, e): return c.user_data.x\n"}
        with Shim("from lib import handler\ndef init_context(c): c.user_data.x = 'main'\n", files=files) as shim:
            self.assertEqual(shim.call().body, b"lib")

    def test_vendored_sdk_comes_before_the_installed_one(self):
        sdk = ("class Response:\n    def __init__(self, headers=None, body=None, content_type=None, status_code=200):\n"
               "        self.headers, self.body = headers or {}, body\n"
               "        self.content_type, self.status_code = content_type or 'text/plain', status_code\n")
        source = "import nuclio_sdk\ndef handler(c, e): return nuclio_sdk.Response(body='old', status_code=203)\n"
        with Shim(source, files={"nuclio_sdk/__init__.py": sdk}) as shim:
            answer = shim.call()
            self.assertEqual((answer.status, answer.body), (203, b"old"))

    def test_no_function_file(self):
        source = ("import os\nPATH = '/nonexistent/nuclio/function.yaml'\n"
                  "def init_context(c):\n    try: open(PATH)\n    except FileNotFoundError: c.user_data.labels = []\n"
                  "def handler(c, e): return str(c.user_data.labels)\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"[]")


class ContextAndEvent(unittest.TestCase):
    def test_own_attributes(self):
        source = ("def init_context(context):\n    context.mlrun_handler = lambda c, e: e\n    context.root = 1\n"
                  "    setattr(context.user_data, 'model', 2)\n    setattr(context, 'stream', 3)\n"
                  "def handler(context, event):\n"
                  "    event.stream_path = 'p'\n    event.body = b'new'\n    event.path = '/new'\n"
                  "    event = context.mlrun_handler(context, event)\n"
                  "    return '%s %s %s %s %s %s' % (event.stream_path, event.body.decode(), event.path, context.root,\n"
                  "                                  context.user_data.model, context.stream)\n")
        with Shim(source) as shim:
            for turn in range(2):
                self.assertEqual(shim.call().body, b"p new /new 1 2 3")

    def test_probes(self):
        source = ("def handler(context, event):\n    import json\n    return json.dumps([\n"
                  "        hasattr(context.platform, 'set_termination_callback'),\n"
                  "        hasattr(context.platform, 'set_drain_callback'), hasattr(context.platform, 'explicit_ack'),\n"
                  "        getattr(context.trigger, 'kind', 'http'), getattr(event.trigger, 'kind', 'http'),\n"
                  "        getattr(event, 'topic', None), getattr(event, 'unknown', 'absent'), hasattr(event, 'error'),\n"
                  "        hasattr(context, 'mlrun_handler'), context.worker_id, context.trigger_name])\n")
        with Shim(source) as shim:
            self.assertEqual(json.loads(shim.call().body),
                             [True, True, True, "http", "http", "", "absent", False, False, "0", "http"])

    def test_bodies(self):
        source = "def handler(c, e): return repr([e.body, e.body == b'', e.size])\n"
        typed = {"content_type": "application/json"}
        with Shim(source) as shim:
            for more, want in (({"body": b""}, [b"", True, 0]), ({"body": None}, [None, False, 0]),
                               ({"body": b'{"a": 1}', **typed}, [{"a": 1}, False, 8]),
                               ({"body": b"[1]", **typed}, [[1], False, 3]),
                               ({"body": b"{", **typed}, [b"{", False, 1]),
                               ({"body": b"{}", "content_type": "application/json; charset=utf-8"}, [b"{}", False, 2])):
                self.assertEqual(shim.call(**more).body.decode(), repr(want))

    def test_headers_are_a_dict_of_canonical_names(self):
        source = ("def handler(c, e):\n    h = e.headers\n"
                  "    return repr([type(h) is dict, h.get('processing-phase'), h['Processing-Phase'],\n"
                  "                 e.get_header('processing-phase'), 'absent' in h, sorted(dict(h).items())])\n")
        with Shim(source) as shim:
            body = shim.call(headers=[("Processing-Phase", "1"), ("Host", "f")]).body.decode()
            self.assertEqual(body, repr([True, None, "1", "1", False, [("Host", "f"), ("Processing-Phase", "1")]]))

    def test_request_headers_given_back(self):
        source = "def handler(c, e): return c.Response(headers=e.headers, body=e.body, status_code=201)\n"
        sent = [("Host", "f:8080"), ("Content-Length", "2"), ("Accept", "*/*")]
        with Shim(source) as shim:
            answer = shim.call(headers=sent)
            self.assertEqual((answer.status, answer.body, answer.pairs), (201, b"hi", sent))

    def test_url_is_empty_and_timestamp_is_naive(self):
        with Shim("def handler(c, e): return repr([e.url, e.timestamp.tzinfo, e.timestamp.year])\n") as shim:
            self.assertEqual(shim.call().body, b"['', None, 2025]")

    def test_list_none_and_number_returned(self):
        source = "def handler(c, e): return eval(e.body.decode(), {'c': c})\n"
        with Shim(source) as shim:
            for text, want in (("[[1, 2], [3]]", b"[1, 2]"), ("[{'a': 1}, {'b': 2}]", b'{"a": 1}'), ("None", b"None"),
                               ("c.Response()", b"None"), ("1.5", b"1.5"), ("(201, {'a': 1})", b'{"a": 1}')):
                self.assertEqual(shim.call(body=text.encode()).body, want, text)


class Answering(unittest.TestCase):
    def test_content_type_among_the_headers_loses_against_the_default(self):
        source = ("def handler(c, e):\n    body = {'a': 1} if e.body == b'dict' else '<p>'\n"
                  "    return c.Response(headers={'Content-Type': 'text/html'}, body=body,\n"
                  "                      content_type='text/css' if e.body == b'dict' else None)\n")
        with Shim(source) as shim:
            answer = shim.call()
            self.assertEqual((answer.content_type, answer.headers), ("text/plain", {"Content-Type": "text/html"}))
            answer = shim.call(body=b"dict")
            self.assertEqual((answer.content_type, answer.body), ("application/json", b'{"a": 1}'))

    def test_headers_that_are_none(self):
        with Shim("def handler(c, e): return c.Response(headers=None, body=b'x', status_code=202)\n") as shim:
            answer = shim.call()
            self.assertEqual((answer.status, answer.body, answer.pairs), (202, b"x", []))

    def test_json_loads_of_a_body_that_is_a_dict_already(self):
        source = "import json\ndef handler(c, e): return str(json.loads(e.body)['x'])\n"
        body = b'{"x": 5}'
        with Shim(source) as shim:
            self.assertEqual(shim.call(body=body, content_type="application/json").status, 500)
            for content_type in ("", "application/json; charset=utf-8", "text/plain"):
                self.assertEqual(shim.call(body=body, content_type=content_type).body, b"5")

    def test_keys_of_a_body_that_is_no_dict(self):
        with Shim("def handler(c, e): return str(e.body['x'])\n") as shim:
            self.assertEqual(shim.call(body=b'{"x": 5}', content_type="application/json").body, b"5")
            answer = shim.call(body=b'{"x": 5}')
            self.assertEqual(answer.status, 500)
            self.assertIn(b"byte indices must be integers", answer.body)

    def test_decode_of_a_request_without_a_body(self):
        with Shim("def handler(c, e): return e.body.decode()\n") as shim:
            answer = shim.call(body=None, method="GET")
            self.assertEqual(answer.status, 500)
            self.assertIn(b"'NoneType' object has no attribute 'decode'", answer.body)

    def test_base64_image_inside_json(self):
        source = ("import base64, io\ndef handler(c, e):\n    data = e.body\n"
                  "    buf = io.BytesIO(base64.b64decode(data['image']))\n    return str(len(buf.getvalue()))\n")
        image = base64.b64encode(os.urandom(6_000_000)).decode()
        with Shim(source) as shim:
            body = json.dumps({"image": image, "threshold": 0.5}).encode()
            self.assertEqual(shim.call(body=body, content_type="application/json").body, b"6000000")


class PassingOn(unittest.TestCase):
    SERVER = ("""
import http.server, json, threading
class Seen(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        answer = json.dumps([self.path, body.decode(), sorted(k.lower() for k in self.headers)]).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain')
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *args): pass
server = http.server.HTTPServer(('127.0.0.1', 0), Seen)
threading.Thread(target=server.serve_forever, daemon=True).start()
""")
    SENT = [("Host", "f:8080"), ("Content-Length", "2"), ("X-Mine", "m")]

    def test_all_headers_of_the_event_in_a_request_of_its_own(self):
        source = self.SERVER + (
            "import urllib.request\ndef handler(c, e):\n"
            "    r = urllib.request.Request('http://127.0.0.1:%d/on' % server.server_port, data=e.body)\n"
            "    for k, v in dict(e.headers).items(): r.add_header(k, v)\n"
            "    return urllib.request.urlopen(r).read()\n")
        with Shim(source) as shim:
            path, body, names = json.loads(shim.call(headers=self.SENT).body)
            self.assertEqual((path, body), ("/on", "hi"))
            self.assertLessEqual({"host", "content-length", "x-mine"}, set(names))

    def test_the_changed_event_itself_to_another_function(self):
        source = self.SERVER + (
            "import http.client\ndef init_context(c):\n"
            "    def connect(host, timeout=None):\n"
            "        assert host == 'nuclio-nuclio-next:8080', host\n"
            "        return http.client.HTTPConnection('127.0.0.1', server.server_port)\n"
            "    c.platform._connection_provider = connect\n"
            "def handler(c, e):\n    e.body = 'longer than before'\n    e.path = '/changed'\n"
            "    answer = c.platform.call_function('next', e)\n"
            "    return c.Response(body=answer.body, headers=answer.headers, status_code=answer.status_code)\n")
        with Shim(source) as shim:
            answer = shim.call(headers=self.SENT)
            path, body, names = json.loads(answer.body)
            self.assertEqual((path, body), ("/changed", "longer than before"))
            self.assertIn("x-nuclio-target", names)
            self.assertIn("content-type", answer.headers)


class Starting(unittest.TestCase):
    def test_slow_import_and_slow_init_context_are_waited_for(self):
        source = ("import time\ntime.sleep(0.3)\ndef init_context(c): time.sleep(0.3)\ndef handler(c, e): return 'up'\n")
        begun = time.monotonic()
        with Shim(source) as shim:
            self.assertGreater(time.monotonic() - begun, 0.6)
            self.assertEqual(shim.call().body, b"up")

    def test_entry_points_of_other_names_and_in_sub_modules(self):
        for handler, file in (("functions.generate.generate:entry", "functions/generate/generate.py"),
                              ("handler-out:run_it", "handler-out.py"), ("test_1.test_2.func:f", "test_1/test_2/func.py")):
            name = handler.partition(":")[2]
            with self.subTest(handler), Shim("", handler, files={file: "def %s(c, e): return __name__\n" % name}) as shim:
                self.assertEqual(shim.call().body.decode(), handler.partition(":")[0])


class Records(unittest.TestCase):
    def test_of_a_signals_handler_do_not_cut_an_answer(self):
        source = """import signal
def init_context(context):
    signal.signal(signal.SIGUSR1, lambda *_: context.logger.warn("told"))
def handler(context, event):
    return b"x" * 12000
"""
        with Shim(source) as shim:
            for round in range(10):
                for ident in range(1, 9):
                    shim.send(event(ident))
                time.sleep(0.01 + 0.02 * round)  # The pipe is full: an answer has been written in part.
                shim.process.send_signal(signal.SIGUSR1)
                time.sleep(0.05)
                self.assertEqual([len(shim.answer().body) for _ in range(8)], [12000] * 8)
            self.assertEqual([log[1] for log in shim.logs], ["told"] * 10)

    def test_arguments_that_do_not_fit(self):
        source = ("def handler(c, e):\n    c.logger.debug_with('x', 'sentence', e.body)\n    c.logger.info('t: ', 3)\n"
                  "    c.logger.info('%s of %d', 'one', 2)\n    c.logger.info('100%')\n"
                  "    c.logger.info('%(a)s', {'a': 1})\n    c.logger.info_with('w %s', 'arg', key=1)\n    return 'ok'\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"ok")
            self.assertEqual([log[1] for log in shim.logs], ["x", "t: ", "one of 2", "100%", "1", "w arg"])
            self.assertEqual(shim.errors().count("--- Logging error ---"), 2)

    def test_a_whole_namespace_as_field(self):
        source = ("big = ['x' * 1000] * 3000\nclass Lock:\n    def __reduce__(self): raise TypeError('no')\nlock = Lock()\n"
                  "def handler(c, e):\n    c.logger.info_with('all', namespace=globals(), event=e, context=c)\n    return 'ok'\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"ok")
            self.assertEqual(shim.logs[0][1], "all")
            self.assertLess(len(json.dumps(shim.logs[0][2])), 300_000)

    def test_records_of_init_context_come_before_ready(self):
        source = "def init_context(c): c.logger.info_with('loading', layers=3)\ndef handler(c, e): pass\n"
        with Shim(source) as shim:
            self.assertEqual([log[:2] for log in shim.logs], [("info", "loading")])


class Processes(unittest.TestCase):
    def test_subprocess(self):
        source = ("import subprocess\n"
                  "def handler(c, e): return subprocess.run(['cat'], input=e.body, stdout=subprocess.PIPE).stdout\n")
        with Shim(source) as shim:
            for turn in range(2):
                self.assertEqual(shim.call().body, b"hi")

    def test_multiprocessing_in_every_way(self):
        source = ("import multiprocessing\n"
                  "def handler(c, e):\n    context = multiprocessing.get_context(e.body.decode())\n"
                  "    with context.Pool(1) as pool: return str(pool.map(abs, [-1, -2]))\n")
        for embedded in (False, True):
            with Shim(source, embedded=embedded) as shim:
                for way in ("fork", "spawn", "forkserver"):
                    shim.sock.settimeout(30)
                    self.assertEqual(shim.call(body=way.encode()).body, b"[1, 2]", (embedded, way, shim.errors()))

    def test_fork_whose_child_leaves_by_exit_or_comes_back(self):
        source = ("import os, sys\n"
                  "def handler(c, e):\n    pid = os.fork()\n    if not pid:\n        c.logger.warn('in the child')\n"
                  "        if e.body == b'exit': os._exit(3)\n        if e.body == b'sys': sys.exit(4)\n        return 'child'\n"
                  "    return str(os.waitpid(pid, 0)[0] == pid)\n")
        with Shim(source) as shim:
            for body in (b"exit", b"sys", b"return"):
                self.assertEqual(shim.call(body=body).body, b"True")
            self.assertEqual(shim.logs, [])
            self.assertTrue(shim.quiet())

    def test_fork_while_another_thread_is_logging(self):
        source = ("import __main__, os, threading, time\nchannel = __main__.shim.channel\n"
                  "def hold(): channel.lock.acquire(); held.set(); time.sleep(0.5); channel.lock.release()\n"
                  "held = threading.Event()\n"
                  "def handler(c, e):\n    threading.Thread(target=hold).start()\n    held.wait()\n    pid = os.fork()\n"
                  "    if not pid:\n        c.logger.warn('in the child')\n        os._exit(0)\n"
                  "    for _ in range(200):\n        if os.waitpid(pid, os.WNOHANG)[0]: return 'ended'\n"
                  "        time.sleep(0.01)\n    os.kill(pid, 9)\n    return 'stuck'\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"ended")

    def test_threads_that_outlive_the_event(self):
        source = ("import threading, time\nstate = []\n"
                  "def later(c): time.sleep(0.1); c.logger.warn('later'); state.append(1)\n"
                  "def handler(c, e):\n    if not state: threading.Thread(target=later, args=(c,)).start()\n    return str(len(state))\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"0")
            kind, _, _, ident, head, _ = shim.frame()
            self.assertEqual((kind, ident, head[8:]), (LOG, 0, b"later"))
            time.sleep(0.05)
            self.assertEqual(shim.call().body, b"1")


class Ends(unittest.TestCase):
    def test_exits_of_all_kinds_are_answers(self):
        source = "import sys\ndef handler(c, e): exec(e.body.decode())\n"
        with Shim(source) as shim:
            for text in ("sys.exit()", "sys.exit(3)", "exit()", "quit(1)", "raise SystemExit('x')", "raise KeyboardInterrupt"):
                answer = shim.call(body=text.encode())
                self.assertEqual(answer.status, 500, text)
            self.assertEqual(shim.call(body=b"pass").status, 200)

    def test_signal_handlers_of_the_function(self):
        source = ("import signal, os, time\nseen = []\n"
                  "for number in (signal.SIGUSR1, signal.SIGALRM): signal.signal(number, lambda n, f: seen.append(n))\n"
                  "signal.signal(signal.SIGTERM, lambda n, f: seen.append(n))\n"
                  "def handler(c, e):\n    os.kill(os.getpid(), signal.SIGUSR1)\n    signal.setitimer(signal.ITIMER_REAL, 0.01)\n"
                  "    time.sleep(0.05)\n    return str([int(n) for n in seen])\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, str([int(signal.SIGUSR1), int(signal.SIGALRM)]).encode())
            shim.process.send_signal(signal.SIGUSR1)  # while it waits for an event
            shim.process.send_signal(signal.SIGTERM)
            self.assertTrue(shim.quiet())
            self.assertIn(b"15", shim.call().body)
            self.assertEqual(shim.finish(), 0)

    def test_generator_that_raises_midway_is_closed_and_the_worker_lives(self):
        source = ("closed = []\ndef pieces():\n    try:\n        yield 'a'\n        raise ValueError('midway')\n"
                  "    finally:\n        closed.append(1)\n"
                  "def handler(c, e): return pieces() if e.body else str(closed)\n")
        with Shim(source) as shim:
            shim.send(event())
            head, pieces, flags, body = shim.streamed()
            self.assertEqual((head.status, pieces, flags, body), (200, [b"a"], 2, b"ValueError: midway"))
            self.assertEqual(shim.call(body=b"").body, b"[1]")


class Tasks(unittest.TestCase):
    def test_a_task_of_one_event_that_the_next_waits_for(self):
        source = ("import asyncio\nasync def work():\n    await asyncio.sleep(0.05)\n    return 'worked'\n"
                  "async def handler(c, e):\n    if e.body == b'start':\n        c.user_data.task = asyncio.create_task(work())\n"
                  "        return 'started'\n    return await c.user_data.task\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call(body=b"start").body, b"started")
            self.assertEqual(shim.call().body, b"worked")

    def test_gather_timeouts_and_cancelled_tasks(self):
        source = ("import asyncio\nasync def handler(c, e):\n    done = await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.sleep(0, 2))\n"
                  "    task = asyncio.ensure_future(asyncio.sleep(9))\n    task.cancel()\n"
                  "    try: await asyncio.wait_for(asyncio.sleep(9), 0.01)\n    except asyncio.TimeoutError: done.append('late')\n"
                  "    try: await task\n    except asyncio.CancelledError: done.append('cancelled')\n    return str(done)\n")
        with Shim(source) as shim:
            for turn in range(2):
                self.assertEqual(shim.call().body, b"[1, 2, 'late', 'cancelled']")

    def test_background_tasks_go_on_while_no_event_comes(self):
        source = ("import asyncio\nticks = []\nasync def tick():\n    while True:\n        ticks.append(1)\n"
                  "        with open('ticks', 'a') as out: out.write('.')\n        await asyncio.sleep(0.01)\n"
                  "def init_context(c): c.ticker = asyncio.get_running_loop().create_task(tick())\n"
                  "def handler(c, e): return str(len(ticks))\n")
        with Shim(source) as shim:
            first = int(shim.call().body)
            ticks = os.path.join(shim.folder, "ticks")
            wait_until(lambda: os.path.exists(ticks) and os.path.getsize(ticks) > first + 10)
            self.assertGreater(int(shim.call().body), first + 10)
            self.assertEqual(shim.finish(), 0)

    def test_a_loop_of_its_own_in_a_handler_without_asyncio_at_start(self):
        source = ("def handler(c, e):\n    import asyncio, threading\n    box = []\n"
                  "    thread = threading.Thread(target=lambda: box.append(asyncio.run(asyncio.sleep(0, 'ran'))))\n"
                  "    thread.start(); thread.join()\n    return box[0]\n")
        with Shim(source) as shim:
            for turn in range(2):
                self.assertEqual(shim.call().body, b"ran")


HAS_UVLOOP = subprocess.run([PYTHON, "-c", "import uvloop"], stderr=subprocess.DEVNULL).returncode == 0


@unittest.skipUnless(HAS_UVLOOP, "no uvloop")
class OtherLoops(unittest.TestCase):
    SETUP = "import asyncio, uvloop\nasyncio.set_event_loop_policy(uvloop.EventLoopPolicy())\n"

    def test_events_tasks_and_the_end(self):
        source = self.SETUP + (
            "state = []\nasync def later():\n    await asyncio.sleep(0.02)\n    state.append(1)\n"
            "async def handler(c, e):\n    loop = asyncio.get_running_loop()\n    loop.create_task(later())\n"
            "    return '%s %d' % (type(loop).__module__, len(state))\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"uvloop 0")
            time.sleep(0.2)
            self.assertEqual(shim.call().body, b"uvloop 1")
            self.assertEqual(shim.finish(), 0)

    def test_terminates(self):
        for call in (False, True):
            with Shim(self.SETUP + "def handler(c, e): return 'x'\n") as shim:
                if call:
                    shim.call()
                time.sleep(0.1)
                shim.process.terminate()
                self.assertEqual(shim.process.wait(3), 0)


if __name__ == "__main__":
    unittest.main()
