"""Tests of the Python shim: a scripted processor talks to a real child process over a real socket pair.

    python3 -m unittest -v test_wrapper            # in this folder
    SHIM_TEST_PYTHON=/path/to/python3 python3 -m unittest test_wrapper

SHIM_TEST_PYTHON is the interpreter the shim runs under (default: the one that runs the tests). Whether it has
`nuclio_sdk` decides which of the two ways of providing the SDK is tested; both should be run.
"""

import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
WRAPPER = os.environ.get("SHIM_TEST_WRAPPER") or os.path.join(HERE, "_nuclio_wrapper.py")
PYTHON = os.environ.get("SHIM_TEST_PYTHON", sys.executable)
BOOTSTRAP = os.path.join(HERE, "bootstrap.py")
PARTS = ("_nuclio_more", "_nuclio_several", "_nuclio_streams", "_nuclio_sdk", "_nuclio_web", "_nuclio_preload")
VECTORS = os.path.join(HERE, "..", "..", "tests", "vectors", "handlers.json")
HAS_SDK = subprocess.run([PYTHON, "-c", "import nuclio_sdk"], stderr=subprocess.DEVNULL).returncode == 0
VERSION = tuple(json.loads(subprocess.check_output([PYTHON, "-c", "import sys; print(list(sys.version_info[:2]))"])))

HEADER = struct.Struct("<IBBHII")
INIT, EVENT, CREDIT, CANCEL, CONTROL, PING = 0x01, 0x02, 0x04, 0x05, 0x06, 0x08
HELLO, READY, FAILED, ANSWER, DATA, LOG, CONTROL_DONE, ACK, PONG = (
    0x81, 0x82, 0x8F, 0x83, 0x84, 0x86, 0x87, 0x88, 0x8B)
LEVELS = ("debug", "info", "warn", "error")
APART = 1 << 31  # beside a head's length: the body comes over the socket, not through the pipe


def frame(kind, flags=0, code=0, ident=0, head=b"", body=b""):
    return HEADER.pack(len(head) + len(body), kind, flags, code, ident, len(head)) + head + body


def table(pairs):
    return "\0".join(text for pair in pairs for text in pair).encode()


def event(ident=1, body=b"hi", method="POST", path="/", headers=(), fields=(), flags=0, code=0, text_id="e1",
          content_type="", type="", type_version="", version="", trigger=("", ""), topic="", offset=0, shard=-1,
          timestamp=1735689600000000, url="", query=""):
    texts = [text_id, method, path, query, url, content_type, topic, type, type_version, version, *trigger]
    texts += [text for pair in list(headers) + list(fields) for text in pair]
    raw = b"\0".join(text if isinstance(text, bytes) else text.encode() for text in texts)
    head = struct.pack("<qqiiIHH", timestamp, offset, shard, 0, 5000, len(headers), len(fields)) + raw
    if body is None:
        flags |= 0x02
    return frame(EVENT, flags, code, ident, head, body or b"")


class Answer:
    def __init__(self, flags, status, ident, head, body):
        self.flags, self.status, self.ident, self.body = flags, status or 200, ident, body
        self.micros, count, _ = struct.unpack_from("<IHH", head)
        texts = head[8:].decode("utf-8", "surrogateescape").split("\0")
        assert len(texts) == 1 + 2 * count, texts
        self.content_type = texts[0]
        self.pairs = list(zip(texts[1::2], texts[2::2]))
        self.headers = dict(self.pairs)


def memory_file(path):
    """A descriptor with the file's text, as the processor gives it to its children."""
    with open(path, "rb") as file:
        return memory_text(file.read())


def memory_text(text):
    descriptor = os.memfd_create("shim")
    os.write(descriptor, text)
    return descriptor


def memory_parts():
    """A descriptor with the parts of the shim that are loaded when they are needed."""
    text = b""
    for name in PARTS:
        with open(os.path.join(HERE, name + ".py"), "rb") as file:
            text += b"\0%s\0%s" % (name.encode(), file.read())
    return memory_text(text)


class Shim:
    """The processor's side of one child process."""

    def __init__(self, source="", handler="main:handler", files=None, settings=None, start=True, credit=None,
                 through_descriptor=False, embedded=False, code=None, piped=True):
        self.folder = tempfile.mkdtemp()
        for name, text in {"main.py": source, **(files or {})}.items():
            path = os.path.join(self.folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        self.sock, theirs = socket.socketpair()
        theirs.setblocking(False)  # as a processor that makes both ends non-blocking leaves it
        self.sock.settimeout(10)
        env = dict(os.environ, NUCLIO_SHIM_FD="3", PYTHONPATH=self.folder, PYTHONDONTWRITEBYTECODE="1")
        wrapper, keep = WRAPPER, []
        if through_descriptor:
            memory = os.memfd_create("shim")
            with open(WRAPPER, "rb") as file:
                os.write(memory, file.read())
            keep.append(fcntl.fcntl(memory, fcntl.F_DUPFD, 20))
            os.close(memory)
            wrapper = "/proc/self/fd/%d" % keep[0]
        descriptors = [theirs.fileno()]
        if embedded:  # as the processor starts it: descriptors 4 to 7
            descriptors += [memory_file(BOOTSTRAP), memory_file(WRAPPER), memory_parts()]
            descriptors.append(os.memfd_create("code") if code is None else os.dup(code))
            wrapper = "/proc/self/fd/4"
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 30) for descriptor in descriptors]
        keep += high + descriptors[1:]

        def prepare():
            for place, descriptor in enumerate(high):
                os.dup2(descriptor, 3 + place)

        self.stderr = tempfile.TemporaryFile()
        self.stdout = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [PYTHON, "-u", wrapper], stdin=subprocess.DEVNULL, stdout=self.stdout, stderr=self.stderr, env=env,
            cwd=self.folder, pass_fds=[*range(3, 3 + len(high)), *keep[:1 if through_descriptor else 0]],
            preexec_fn=prepare)
        theirs.close()
        for descriptor in keep:
            os.close(descriptor)
        self.data, self.pipe, self.apart = b"", None, 0
        self.logs, self.acks = [], []
        assert self.read(4) == b"NSH2"
        kind, _, code, _, head, _ = self.frame()
        assert (kind, code) == (HELLO, 2)
        self.hello = dict(pairs(head))
        self.settings = {
            "worker_id": "0", "max_inflight": "1", "max_frame": str(1 << 30), "handler": handler,
            "handler_dir": self.folder, "function_name": "fn", "namespace": "nuclio", "platform_kind": "local",
            "trigger_kind": "http", "trigger_name": "http", "triggers": "1", "trigger.0.kind": "http",
            "trigger.0.name": "http", "decode_strings": "1", "log_level": "0", "log_flush": "batch",
            "credit": str(credit or 256 * 1024), **(settings or {})}
        self.send_init(self.settings, piped and self.settings.get("preload") != "1")
        if start:
            kind, _, code, _, head, body = self.next()
            if kind != READY:
                raise AssertionError("not ready: 0x%02x %d %s\n%s" % (kind, code, body.decode(), self.errors()))
            self.ready = dict(pairs(head))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()
        if self.pipe is not None:
            os.close(self.pipe)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.stderr.close()
        self.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self):
        self.stderr.seek(0)
        return self.stderr.read().decode("utf-8", "replace")

    def output(self):
        self.stdout.seek(0)
        return self.stdout.read().decode()

    def send(self, data):
        self.sock.sendall(data)

    def send_init(self, settings, piped):
        init = frame(INIT, 0, 2, 0, table(settings.items()))
        if piped:
            self.pipe, theirs = os.pipe()
            self.sock.sendmsg([init], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", theirs))])
            os.close(theirs)
        else:
            self.send(init)

    def receive(self):
        if self.pipe is None:
            return self.sock.recv(1 << 20)
        if not select.select([self.pipe], [], [], self.sock.gettimeout())[0]:
            raise TimeoutError
        return os.read(self.pipe, 1 << 20)

    def read(self, count):
        while len(self.data) < count:
            chunk = self.receive()
            if not chunk:
                raise EOFError(self.errors())
            self.data += chunk
        data, self.data = self.data[:count], self.data[count:]
        return data

    def frame(self):
        size, kind, flags, code, ident, head = HEADER.unpack(self.read(16))
        if not head & APART:
            payload = self.read(size)
            return kind, flags, code, ident, payload[:head], payload[head:]
        assert self.pipe is not None
        self.apart += 1
        head = self.read(head & ~APART)
        body = bytearray()
        while len(head) + len(body) < size:
            piece = self.sock.recv(size - len(head) - len(body))
            assert piece, self.errors()
            body += piece
        return kind, flags, code, ident, head, bytes(body)

    def next(self):
        """The next frame that is no log record and no ack; those are collected."""
        while True:
            found = self.frame()
            kind, _, code, ident, head, body = found
            if kind == LOG:
                fields = json.loads(body) if body else {}
                self.logs.append((LEVELS[code], head[8:].decode(), fields, ident))
            elif kind == ACK:
                partition, offset = struct.unpack_from("<iq", head)
                self.acks.append((head[12:].decode(), partition, offset, ident))
            else:
                return found

    def answer(self):
        kind, flags, code, ident, head, body = self.next()
        assert kind == ANSWER, (hex(kind), code, body, self.errors())
        return Answer(flags, code, ident, head, body)

    def call(self, *args, **kwargs):
        self.send(event(*args, **kwargs))
        return self.answer()

    def streamed(self):
        """Head, pieces and the flags of the last DATA frame of a streamed answer. The head may have the first piece."""
        head = self.answer()
        assert head.flags & 1
        pieces = [head.body] if head.body else []
        while True:
            kind, flags, _, ident, _, body = self.next()
            assert kind == DATA and ident == head.ident
            if flags:
                return head, pieces, flags, body
            pieces.append(body)

    def quiet(self, seconds=0.1):
        return not self.data and not select.select([self.pipe or self.sock], [], [], seconds)[0]

    def finish(self):
        self.sock.shutdown(socket.SHUT_WR)
        return self.process.wait(5)


def wait_until(condition):
    """Waits for what must happen, however busy the machine is."""
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            raise AssertionError("it has not happened within 60 s")
        time.sleep(0.01)


def pairs(head):
    texts = head.decode().split("\0")
    return zip(texts[::2], texts[1::2])


ECHO = "def handler(context, event):\n    return event.body\n"
HELLO_WORLD = "def handler(context, event):\n    return 'hello'\n"


class LifeCycle(unittest.TestCase):
    def test_hello_ready_answer_end(self):
        with Shim(HELLO_WORLD) as shim:
            self.assertEqual(shim.hello["language"], "python")
            self.assertEqual((shim.hello["protocol_min"], shim.hello["protocol_max"]), ("2", "2"))
            self.assertEqual(shim.hello["pid"], str(shim.process.pid))
            self.assertEqual(shim.hello["sdk"] == "builtin", not HAS_SDK)
            self.assertEqual(shim.ready, {"handler_async": "0", "max_inflight": "1", "stream_in": "0"})
            self.assertEqual(shim.call().body, b"hello")
            self.assertEqual(shim.finish(), 0)

    def test_a_large_body_is_received_into_its_place(self):
        source = ("import tracemalloc\ntracemalloc.start()\n"
                  "def handler(context, event):\n"
                  "    return event.body or str(tracemalloc.get_traced_memory()[1])\n")
        body = os.urandom(1 << 20) * 8
        with Shim(source) as shim:
            writing = threading.Thread(target=shim.send, args=(event(body=body),))
            writing.start()
            self.assertTrue(shim.answer().body == body)
            writing.join()
            peak = int(shim.call(body=b"").body)
            self.assertLess(peak, 1.3 * len(body), "held more than once")

    def test_runs_from_a_descriptor(self):
        with Shim("import sys\ndef handler(context, event):\n    return repr(sys.path[:2])\n",
                  through_descriptor=True) as shim:
            self.assertNotIn("/proc", shim.call().body.decode())

    def test_needs_its_variable(self):
        done = subprocess.run([PYTHON, WRAPPER, "--handler", "main:handler"], capture_output=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"protocol 1", done.stderr)

    def test_connects_to_a_path(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "s")
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                child = subprocess.Popen([PYTHON, WRAPPER], env=dict(os.environ, NUCLIO_SHIM_SOCKET=path))
                peer, _ = listener.accept()
                self.assertEqual(peer.recv(4), b"NSH2")
                peer.close()
                self.assertEqual(child.wait(5), 0)

    def failed(self, source, code, handler="main:handler", **more):
        with Shim(source, handler, start=False, **more) as shim:
            kind, _, found, _, _, body = shim.next()
            self.assertEqual((kind, found), (FAILED, code))
            self.assertEqual(shim.process.wait(5), 1)
            return body.decode()

    def test_missing_module(self):
        text = self.failed("", 1, "absent.sub:handler")
        self.assertIn('no module "absent"', text)
        self.assertIn("/tmp", text)

    def test_missing_function(self):
        text = self.failed("def run(c, e): pass\nx = 1\n", 1)
        self.assertRegex(text, r'no function "handler" in module "main" \(.*main.py\); it has: run')

    def test_bad_handler_text(self):
        for text in ("main", "", ":handler", "main:"):
            self.assertIn("module:function", self.failed("", 1, text))

    def test_import_error(self):
        text = self.failed("import absent_thing\n", 1)
        self.assertIn("ModuleNotFoundError: No module named 'absent_thing'", text)
        self.assertIn("main.py\", line 1", text)
        self.assertIn("SyntaxError", self.failed("def (", 1))
        self.assertIn("SystemExit", self.failed("raise SystemExit(3)", 1))

    def test_init_context_fails(self):
        text = self.failed("def init_context(context):\n    raise ValueError('no model')\n" + ECHO, 2)
        self.assertIn("no model", text)
        self.assertIn("line 2, in init_context", text)
        self.failed("async def init_context(context):\n    1 / 0\n" + ECHO, 2)

    def test_babble(self):
        for data, text in ((b"\x00" * 12 + b"\xff" * 4, "bad frame header"), (frame(0x7E), "0x7e"),
                           (frame(ANSWER), "0x83"), (frame(INIT, 0, 2), "0x01"),
                           (frame(EVENT, 1, 0, 5, b"\0" * 32 + b"\0" * 11), "request streams")):
            for source in (HELLO_WORLD, "import asyncio\n" + HELLO_WORLD):
                with Shim(source) as shim:
                    shim.send(data)
                    kind, _, code, _, _, body = shim.next()
                    self.assertEqual((kind, code), (FAILED, 3))
                    self.assertIn(text, body.decode())
                    self.assertEqual(shim.process.wait(5), 1)

    def test_unknown_optional_frame_is_skipped(self):
        with Shim(HELLO_WORLD) as shim:
            shim.send(frame(0x7E, 0x80, 0, 0, b"x", b"y"))
            self.assertEqual(shim.call().body, b"hello")

    def test_ping(self):
        with Shim(HELLO_WORLD) as shim:
            shim.send(frame(PING, 0, 0, 9, b"", b"echo"))
            self.assertEqual(shim.next(), (PONG, 0, 0, 9, b"", b"echo"))

    def test_control(self):
        for kind in ("", "async "):
            source = ("seen = []\ndef init_context(context):\n"
                      "    %sdef drain(): seen.append('drain')\n"
                      "    def end(): raise ValueError('not now')\n"
                      "    context.platform.set_drain_callback(drain)\n"
                      "    context.platform.set_termination_callback(end)\n"
                      "def handler(context, event): return repr(seen)\n") % kind
            with Shim(source) as shim:
                for number, code in ((3, 1), (4, 2)):
                    shim.send(frame(CONTROL, 0, code, number, struct.pack("<I", 10000)))
                    self.assertEqual(shim.next(), (CONTROL_DONE, 0, 0, number, b"", b""))
                self.assertEqual(shim.call().body, b"['drain']")
                shim.send(frame(CONTROL, 0, 3, 5, struct.pack("<I", 10000)))
                kind_, _, code, ident, _, body = shim.next()
                self.assertEqual((kind_, code, ident, body), (CONTROL_DONE, 1, 5, b"ValueError: not now"))
                self.assertEqual(shim.finish(), 0)

    def test_terminates_after_the_event(self):
        source = "import time\ndef handler(context, event):\n    time.sleep(0.3)\n    return 'done'\n"
        with Shim(source) as shim:
            shim.send(event())
            time.sleep(0.1)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.answer().body, b"done")
            self.assertEqual(shim.process.wait(5), 0)
        for source in (HELLO_WORLD, "import asyncio\n" + HELLO_WORLD):
            with Shim(source) as shim:
                shim.call()
                shim.process.send_signal(signal.SIGINT)
                shim.call()
                shim.process.send_signal(signal.SIGTERM)
                self.assertEqual(shim.process.wait(5), 0)

    def test_joined_answers_survive_termination(self):
        source = ("import os, signal\ndef handler(c, e):\n    if e.body == b'end': os.kill(os.getpid(), signal.SIGTERM)\n"
                  "    return 'x'\n")
        with Shim(source) as shim:
            for turn in range(100):
                shim.call()
            shim.send(event(1) + event(2) + event(3, body=b"end") + event(4))
            self.assertEqual([shim.answer().ident for _ in range(3)], [1, 2, 3])
            self.assertEqual(shim.process.wait(5), 0)

    def test_terminates_while_a_loop_waits(self):
        source = ("import asyncio\nasync def tick():\n    while True: await asyncio.sleep(0.01)\n"
                  "async def handler(c, e):\n    c.t = asyncio.ensure_future(tick())\n")
        with Shim(source) as shim:
            shim.call()
            time.sleep(0.1)
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.process.wait(5), 0)

    def test_abort_writes_stacks(self):
        with Shim("import time\ndef handler(context, event):\n    time.sleep(30)\n") as shim:
            shim.send(event())
            time.sleep(0.2)
            shim.process.send_signal(signal.SIGABRT)
            self.assertEqual(shim.process.wait(5), -signal.SIGABRT)
            self.assertIn("main.py\", line 3 in handler", shim.errors())

    def test_atexit_runs(self):
        with Shim("import atexit\natexit.register(print, 'bye')\n" + ECHO) as shim:
            self.assertEqual(shim.finish(), 0)
            self.assertEqual(shim.output(), "bye\n")

    def test_end_of_file_while_an_async_handler_waits(self):
        with Shim("import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(30)\n") as shim:
            shim.send(event())
            time.sleep(0.2)
            self.assertEqual(shim.finish(), 0)

    def assert_ends_when_killed(self, shim):
        """Whatever processes it has left behind."""
        shim.process.kill()
        shim.process.wait()
        self.assertRaises(EOFError, shim.read, 1)

    def test_child_processes_do_not_keep_the_socket(self):
        source = ("import os, subprocess\ndef handler(context, event):\n"
                  "    subprocess.Popen(['sleep', '5'])\n    if not os.fork():\n        os.execlp('sleep', 'sleep', '5')\n"
                  "    return 'x'\n")
        with Shim(source) as shim:
            shim.call()
            self.assert_ends_when_killed(shim)

    def test_forked_children_let_go_of_socket_and_pipe(self):
        source = ("import os, time\ndef handler(context, event):\n"
                  "    if not os.fork():\n        time.sleep(5)\n        os._exit(0)\n    return 'x'\n")
        for piped in (True, False):
            with self.subTest(piped=piped), Shim(source, piped=piped) as shim:
                shim.call()
                self.assert_ends_when_killed(shim)

    def test_other_programs_do_not_get_the_pipe(self):
        source = ("import os, time\ndef handler(context, event):\n"
                  "    os.system('sleep 5 &')\n    os.posix_spawn('/bin/sleep', ['sleep', '5'], {})\n    return 'x'\n")
        with Shim(source) as shim:
            shim.call()
            self.assert_ends_when_killed(shim)

    def test_forked_children_write_nothing_to_what_has_the_pipes_number_next(self):
        source = ("import os, signal\n"
                  "def child(context, depth):\n"
                  "    files = [os.memfd_create('x') for _ in range(9)]\n"
                  "    try:\n        context.logger.warn('from a child')\n    except BaseException:\n        pass\n"
                  "    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
                  "    good = not blocked and all(os.fstat(file).st_size == 0 for file in files)\n"
                  "    if good and depth:\n        pid = os.fork()\n        if not pid:\n"
                  "            child(context, depth - 1)\n"
                  "        good = os.waitpid(pid, 0)[1] == 0 and all(os.fstat(file).st_size == 0 for file in files)\n"
                  "    os._exit(not good)\n"
                  "def handler(context, event):\n"
                  "    pid = os.fork()\n    if not pid:\n        child(context, 2)\n"
                  "    return str(os.waitpid(pid, 0)[1])\n")
        for piped in (True, False):
            with self.subTest(piped=piped), Shim(source, piped=piped) as shim:
                self.assertEqual(shim.call().body, b"0")
                self.assertEqual(shim.logs, [])

    def test_a_pipe_that_does_not_come_is_said(self):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        with ours, theirs:
            env = dict(os.environ, NUCLIO_SHIM_FD=str(theirs.fileno()))
            child = subprocess.Popen([PYTHON, WRAPPER], env=env, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()])
            theirs.close()
            self.assertEqual(ours.recv(4, socket.MSG_WAITALL), b"NSH2")
            resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (1, 1))
            reading, writing = os.pipe()
            rights = struct.pack("i", writing)
            ours.sendmsg([frame(INIT, 0, 2, 0, b"")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(reading)
            os.close(writing)
            self.assertIn(b"no descriptor is left", child.communicate(timeout=10)[1])

    def test_forked_children_can_be_terminated(self):
        source = ("import multiprocessing as m, time\ndef handler(c, e):\n"
                  "    p = m.get_context('fork').Process(target=time.sleep, args=(20,))\n    p.start()\n"
                  "    p.terminate()\n    p.join(5)\n    return str(p.exitcode)\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"-15")


class Frames(unittest.TestCase):
    def test_frames_come_through_the_pipe_and_large_bodies_apart(self):
        source = ("import threading\ndef handler(context, event):\n"
                  "    context.logger.info('seen')\n    return bytes(int(event.body))\n")
        for piped in (True, False):
            with self.subTest(piped=piped), Shim(source, piped=piped) as shim:
                for size in (0, 1, 4096, 16 * 1024, 16 * 1024 + 1, 70_000, 5_000_000, 3):
                    self.assertEqual(shim.call(body=b"%d" % size).body, bytes(size))
                self.assertEqual([record[1] for record in shim.logs], ["seen"] * 8)
                self.assertEqual(shim.apart, 4 if piped else 0)

    def test_threads_do_not_come_between_a_large_body_and_its_head(self):
        source = ("import threading\ndef handler(context, event):\n"
                  "    def write():\n        for at in range(300):\n"
                  "            context.logger.warn('%d ' % at + 'x' * (at * 100 % 30_000))\n"
                  "    threading.Thread(target=write).start()\n    return b'y' * 1_000_000\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"y" * 1_000_000)
            while len(shim.logs) < 300:
                kind, _, _, _, head, _ = shim.frame()
                self.assertEqual(kind, LOG)
                shim.logs.append(head)
            self.assertEqual(shim.finish(), 0)

    def test_split_at_every_byte(self):
        for source in (ECHO, "import asyncio\n" + ECHO):
            with Shim(source) as shim:
                data = event(body=b"split") + event(2, body=b"me")
                for cut in range(1, len(data)):
                    shim.send(data[:cut])
                    if cut % 8 == 0:
                        time.sleep(0.002)
                    shim.send(data[cut:])
                    self.assertEqual((shim.answer().body, shim.answer().body), (b"split", b"me"))

    def test_byte_by_byte(self):
        with Shim(ECHO) as shim:
            for byte in event(body=b"abc"):
                shim.send(bytes([byte]))
                time.sleep(0.001)
            self.assertEqual(shim.answer().body, b"abc")

    def test_ten_in_one_read(self):
        for source in (ECHO, "async " + ECHO):
            with Shim(source) as shim:
                for turn in range(20):  # later turns join answers
                    shim.send(b"".join(event(n, body=b"%d" % n) for n in range(1, 11)))
                    self.assertEqual([(a.ident, a.body) for a in (shim.answer() for _ in range(10))],
                                     [(n, b"%d" % n) for n in range(1, 11)])

    def test_sizes(self):
        for source in (ECHO, "import asyncio\n" + ECHO):
            with Shim(source) as shim:
                for size in (0, 1, 65519, 65536, 65537, 300_000, 5_000_000):
                    body = os.urandom(size)
                    self.assertEqual(shim.call(body=body).body, body)
                    self.assertEqual(shim.call(body=b"small").body, b"small")

    def test_event_in_full(self):
        source = ("def handler(context, event):\n    return {k: str(v) for k, v in vars(event).items() "
                  "if k != 'trigger'}\n")
        with Shim(source) as shim:
            answer = shim.call(body=b"b", headers=[("A", "1"), ("B", "2")], fields=[("x", "é")], topic="t", offset=7,
                               shard=3, url="u", content_type="text/x", type="ty", version="v", type_version="tv")
            self.assertEqual(json.loads(answer.body), {
                "body": "b'b'", "content_type": "text/x", "fields": "{'x': 'é'}", "headers": "{'A': '1', 'B': '2'}",
                "id": "e1", "method": "POST", "path": "/", "size": "1", "timestamp": "2025-01-01 00:00:00", "url": "u",
                "shard_id": "3", "num_shards": "0", "type": "ty", "type_version": "tv", "version": "v",
                "last_in_batch": "False", "offset": "7", "topic": "t"})

    def test_event_is_an_ordinary_object(self):
        source = '''
import copy, pickle
def handler(context, event):
    event.path = '/mine'
    event.stream_path = 's'
    assert event.method == 'POST' and event.path == '/mine'
    assert hasattr(event, 'topic') and not hasattr(event, 'nothing')
    assert getattr(event, 'nothing', 3) == 3
    assert copy.copy(event).id == 'e1' and copy.deepcopy(event).headers == {}
    event.body = {'a': 1}
    event.body['b'] = 2
    del event.url
    assert not hasattr(event, 'url')
    assert '_frame' not in vars(event) and vars(event)['stream_path'] == 's'
    assert event.trigger.kind == 'http'
    assert type(event).__name__ == 'Event'
    setattr(event, 'x', 1)
    return repr(event)
'''
        with Shim(source) as shim:
            found = json.loads(shim.call().body)
            self.assertEqual((found["path"], found["body"], found["x"]), ("/mine", {"a": 1, "b": 2}, 1))

    def test_typed(self):
        def item(kind, raw):
            return kind + struct.pack("<I", len(raw)) + raw

        texts = [item(b"s", b"") for _ in range(12)]
        texts[2] = item(b"s", b"a\0b")
        values = [item(b"b", b"\0\xff"), item(b"i", struct.pack("<q", -5)), item(b"f", struct.pack("<d", 1.5)),
                  item(b"t", b"\1"), item(b"n", b""), item(b"l", item(b"s", b"x") + item(b"l", item(b"i", b"\1" + b"\0" * 7))),
                  item(b"m", item(b"s", b"k") + item(b"n", b""))]
        for n, value in enumerate(values):
            texts += [item(b"s", b"h%d" % n), value]
        head = struct.pack("<qqiiIHH", 0, 0, 0, 0, 0, len(values), 0) + b"".join(texts)
        with Shim("def handler(c, e): return repr((e.path, e.headers))") as shim:
            shim.send(frame(EVENT, 0x20, 0, 1, head))
            self.assertEqual(shim.answer().body.decode(), repr(("a\0b", {
                "h0": b"\0\xff", "h1": -5, "h2": 1.5, "h3": True, "h4": None, "h5": ["x", [1]],
                "h6": {"k": None}})))

    def test_truncated_table(self):
        with Shim("def handler(c, e): return e.path") as shim:
            shim.send(frame(EVENT, 0, 0, 1, struct.pack("<qqiiIHH", 0, 0, 0, 0, 0, 3, 0) + b"\0" * 11))
            self.assertEqual(shim.answer().status, 500)


class Answers(unittest.TestCase):
    def test_what_the_last_one_took_is_not_kept(self):
        source = "def handler(context, event):\n    return 'y' * int(event.body)\n"
        with Shim(source) as shim:
            shim.call(body=b"1")

            def mebibytes():
                with open("/proc/%d/status" % shim.process.pid) as status:
                    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) >> 10

            before = mebibytes()
            for body in (b"100000000", b" " * 100_000_000 + b"1"):
                shim.call(2, body=body)
                shim.call(3, body=b"1")
                shim.call(4, body=b"1")
                self.assertLess(mebibytes(), before + 50, len(body))

    def test_headers(self):
        source = ("def handler(c, e): return c.Response(headers={'X-F': 1.5, 'X-N': 5, 'X-B': True, 'X-L': ['a', 'b'],"
                  " 'X-Z': None, 'X-Ok': 'y', 'X-By': b'raw', 'X-U': 'é', 'bad': 'a\\0b'}, body='x')\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().pairs, [
                ("X-F", "1.5"), ("X-N", "5"), ("X-B", "true"), ("X-L", "a"), ("X-L", "b"), ("X-Ok", "y"),
                ("X-By", "raw"), ("X-U", "é")])

    def test_status(self):
        with Shim("def handler(c, e): return eval(e.body)") as shim:
            self.assertEqual(shim.call(body=b"('a', 'b')").body,
                             b"handler returned a status code of type str, want int")
            for text in (b"(99, '')", b"(1000, '')", b"(True, '')", b"(-1, '')", b"[]", b"(200.0, '')"):
                self.assertEqual(shim.call(body=text).status, 500, text)
            self.assertEqual(shim.call(body=b"[]").body, b"handler returned an empty list of responses")
            self.assertEqual(shim.call(body=b"(__import__('http').HTTPStatus.CREATED, 'x')").status, 201)
            self.assertEqual(shim.call(body=b"'\\udc80'").body, "\ufffd".encode())

    def test_exceptions_leave_the_worker_alive(self):
        source = '''
class Odd(Exception):
    def __str__(self): raise ValueError
def handler(c, e):
    exec(e.body.decode())
    return 'fine'
'''
        with Shim(source) as shim:
            for text in (b"raise KeyboardInterrupt", b"raise Odd", b"raise GeneratorExit", b"import sys; sys.exit(1)",
                         b"1/0", b"def f(): f()\nf()"):
                answer = shim.call(body=text)
                self.assertEqual((answer.status, answer.flags), (500, 0))
                self.assertEqual(shim.logs[-1][:2], ("error", "Exception caught in handler"))
            self.assertEqual(shim.call(body=b"pass").body, b"fine")

    def test_content_type_and_size(self):
        source = ("def handler(c, e):\n    r = c.Response(body='x' * int(e.body))\n    r.content_type = None\n    return r\n")
        with Shim(source, settings={"max_frame": "200000"}) as shim:
            self.assertEqual(shim.call(body=b"1").content_type, "")
            self.assertIn(b"above the limit", shim.call(body=b"190000").body)
            self.assertEqual(len(shim.call(body=b"100000").body), 100_000)

    def test_duration(self):
        with Shim("import time\ndef handler(c, e): time.sleep(0.05)\n") as shim:
            self.assertTrue(45_000 < shim.call().micros < 500_000)

    def test_nan_in_nested(self):
        with Shim("class A:\n  def __repr__(self): return 'A!'\n"
                  "def handler(c, e): return {'a': [float('nan'), {'b': (float('inf'), A())}]}") as shim:
            self.assertEqual(shim.call().body, b'{"a": ["NaN", {"b": ["Infinity", "A!"]}]}')

    def test_circular(self):
        with Shim("def handler(c, e):\n  d = {}\n  d['d'] = d\n  return d") as shim:
            self.assertIn(b"Circular reference", shim.call().body)


class Batches(unittest.TestCase):
    def batch(self, source, count=3):
        with Shim(source) as shim:
            parts = [event(n + 10, body=b"%d" % n, text_id="i%d" % n, flags=0x08 | (0x10 if n == count - 1 else 0))
                     for n in range(count)]
            shim.send(b"".join(parts))
            answers = {}
            for _ in range(count):
                answer = shim.answer()
                answers[answer.ident] = answer
            self.logs = shim.logs
            self.assertEqual(sorted(answers), [n + 10 for n in range(count)])
            self.assertTrue(shim.quiet())
            return [answers[n + 10] for n in range(count)]

    def test_matched_by_id(self):
        found = self.batch("def handler(c, es): return [c.Response(body=e.body, event_id=e.id) for e in es[::-1]]")
        self.assertEqual([a.body for a in found], [b"0", b"1", b"2"])

    def test_missing(self):
        found = self.batch("def handler(c, es): return [c.Response(body='x', event_id='i1'), 'no id']")
        self.assertEqual([a.flags & 8 for a in found], [8, 0, 8])
        self.assertEqual(self.logs[0][0], "warn")

    def test_one_for_all(self):
        found = self.batch("def handler(c, es): return 'all %d' % len(es)")
        self.assertEqual([a.body for a in found], [b"all 3"] * 3)
        found = self.batch("def handler(c, es): return c.Response(body='x', event_id='i2')")
        self.assertEqual([a.flags & 8 for a in found], [8, 8, 0])

    def test_exception(self):
        found = self.batch("async def handler(c, es): raise ValueError('all')")
        self.assertEqual({a.status for a in found}, {500})

    def test_second_and_unknown(self):
        found = self.batch("def handler(c, es): return [c.Response(body=b, event_id=i) for i, b in "
                           "(('i0', 'a'), ('i0', 'b'), ('zz', 'c'), ('i2', 'd'))]")
        self.assertEqual([(a.flags & 8, a.body) for a in found], [(0, b"a"), (8, b""), (0, b"d")])
        self.assertEqual([(level, message, fields["event_id"]) for level, message, fields, _ in self.logs], [
            ("warn", "Ignored a second answer to an event of a batch", "i0"),
            ("warn", "Ignored an answer to an event that is not of a batch", "zz")])

    def test_one_that_cannot_be_sent(self):
        for fault in ("status_code='x'", "body={1: object()}", "body=(x for x in 'ab')"):
            found = self.batch("def handler(c, es): return [c.Response(body='x', event_id='i0'), "
                               "c.Response(event_id='i1', %s), c.Response(body='y', event_id='i2')]" % fault)
            self.assertEqual([(a.status, a.flags & 8) for a in found], [(200, 0), (500, 0), (200, 0)])
            self.assertEqual((found[0].body, found[2].body), (b"x", b"y"))

    def test_generator(self):
        for source in ("def handler(c, es):\n    yield 'x'", "async def handler(c, es):\n    yield 'x'"):
            found = self.batch(source)
            self.assertEqual({(a.status, b"generator" in a.body) for a in found}, {(500, True)})

    def test_of_one_is_a_list(self):
        found = self.batch("def handler(c, es): return c.Response(body=type(es).__name__, event_id=es[0].id)", 1)
        self.assertEqual([a.body for a in found], [b"list"])

    def test_log_level_of_a_caller(self):
        source = "def handler(c, es):\n    c.logger.debug('d')\n    return [c.Response(event_id=e.id) for e in es]"
        for count, logged in ((1, ["d"]), (2, [])):
            with Shim(source, settings={"log_level": "3"}) as shim:
                for n in range(count):
                    shim.send(event(n + 1, text_id="i%d" % n, code=1 << 12, flags=0x08 | (0x10 if n == count - 1 else 0)))
                for _ in range(count):
                    shim.answer()
                self.assertEqual([message for _, message, _, _ in shim.logs], logged)

    def test_empty_list(self):
        self.assertEqual([a.flags & 8 for a in self.batch("def handler(c, es): return []")], [8] * 3)


class Streams(unittest.TestCase):
    def test_generator_function(self):
        for source in ("def handler(c, e):\n    yield 'é'\n    yield b'raw'\n    yield 3\n    yield c.Response(body='r')\n",
                       "async def handler(c, e):\n    yield 'é'\n    yield b'raw'\n    yield 3\n"
                       "    yield c.Response(body='r')\n"):
            with Shim(source) as shim:
                for turn in range(3):
                    head, pieces, flags, _ = self.stream(shim)
                    self.assertEqual((head.status, head.content_type), (200, "text/plain"))
                    self.assertEqual((pieces, flags), (["é".encode(), b"raw", b"3", b"r"], 1))

    def stream(self, shim, **kwargs):
        shim.send(event(**kwargs))
        return shim.streamed()

    def test_first_item(self):
        with Shim("def handler(c, e):\n    yield 201, {'a': 1}\n    yield 'x'\n") as shim:
            head, pieces, _, _ = self.stream(shim)
            self.assertEqual((head.status, head.content_type), (201, "application/json"))
            self.assertEqual(pieces, [b'{"a": 1}', b"x"])

    def test_response_with_generator(self):
        source = ("def items():\n    yield 'a'\n    yield 'b'\n"
                  "def handler(c, e): return c.Response(body=items(), status_code=206, content_type='text/event-stream',"
                  " headers={'X': 'y'})\n")
        with Shim(source) as shim:
            head, pieces, flags, _ = self.stream(shim)
            self.assertEqual((head.status, head.content_type, head.headers), (206, "text/event-stream", {"X": "y"}))
            self.assertEqual((pieces, flags), ([b"a", b"b"], 1))

    def test_empty(self):
        with Shim("def handler(c, e):\n    return\n    yield\n") as shim:
            answer = shim.call()
            self.assertEqual((answer.status, answer.flags, answer.body), (200, 0, b""))

    def test_flushed_as_written(self):
        for word, pause in (("", "time.sleep(0.3)"), ("async ", "await asyncio.sleep(0.3)")):
            source = "import time, asyncio\n%sdef handler(c, e):\n    yield 'a'\n    %s\n    yield 'b'\n" % (word, pause)
            with Shim(source) as shim:
                shim.send(event())
                shim.answer()
                self.assertEqual(shim.next()[5], b"a")
                self.assertTrue(shim.quiet(0.1))
                self.assertEqual(shim.next()[5], b"b")

    def test_credit(self):
        for word in ("", "async "):
            source = "%sdef handler(c, e):\n    yield 'x' * 150_000\n    yield 'y'\n" % word
            with Shim(source, credit=100_000) as shim:
                shim.send(event() + event(2))
                self.assertTrue(shim.answer().flags & 1)
                got = 0
                while got < 100_000:
                    got += len(shim.next()[5])
                self.assertEqual(got, 100_000)
                self.assertTrue(shim.quiet())
                shim.send(frame(CREDIT, 0, 0, 1, struct.pack("<I", 50_001)))
                while got < 150_001:
                    got += len(shim.next()[5])
                self.assertEqual(shim.next()[1], 1)
                self.assertEqual(shim.answer().ident, 2)  # the event that waited

    def test_exception(self):
        with Shim("def handler(c, e):\n    yield 'a'\n    1 / 0\n") as shim:
            _, pieces, flags, text = self.stream(shim)
            self.assertEqual((pieces, flags), ([b"a"], 2))
            self.assertIn(b"division by zero", text)
            self.assertEqual(shim.logs[-1][1], "Exception caught in handler")
        with Shim("def handler(c, e):\n    1 / 0\n    yield\n") as shim:
            self.assertEqual(shim.call().status, 500)

    def test_cancel_closes_the_generator(self):
        sync = ("import time\ndef handler(c, e):\n    try:\n        while True:\n            yield 'x'\n"
                "            time.sleep(0.02)\n    finally:\n        print('closed')\n")
        asynchronous = ("import asyncio\nasync def handler(c, e):\n    try:\n        yield 'x'\n"
                        "        await asyncio.sleep(30)\n    finally:\n        print('closed')\n")
        stuck = ("def handler(c, e):\n    try:\n        yield 'x' * 1000\n    finally:\n        print('closed')\n")
        for source in (sync, asynchronous, stuck):
            with Shim(source, credit=100) as shim:
                shim.send(event())
                shim.answer()
                shim.next()
                shim.send(frame(CANCEL, 0, 1, 1))
                while True:
                    kind, flags, _, _, _, _ = shim.next()
                    self.assertEqual(kind, DATA)
                    if flags:
                        break
                self.assertEqual(flags, 2)
                self.assertEqual(shim.output(), "closed\n")
                self.assertEqual(shim.logs, [])
                shim.send(event(2))
                self.assertTrue(shim.answer().flags & 1)


class Async(unittest.TestCase):
    def test_cancel(self):
        source = ("import asyncio\nasync def handler(c, e):\n    if e.body == b'x': return 'x'\n"
                  "    try:\n        await asyncio.sleep(30)\n    finally:\n        print('gone')\n")
        with Shim(source) as shim:
            for turn in range(3):
                shim.send(event() + event(2))
                time.sleep(0.1)
                shim.send(frame(CANCEL, 0, 2, 2))
                answer = shim.answer()
                self.assertEqual((answer.ident, answer.flags), (2, 0x10))  # had not begun
                shim.send(frame(CANCEL, 0, 2, 1))
                answer = shim.answer()
                self.assertEqual((answer.ident, answer.flags), (1, 0x10))
                self.assertEqual(shim.call(3, body=b"x").body, b"x")
            self.assertEqual([log[1] for log in shim.logs], ["Event timed out; its handler waits in"] * 3)
            self.assertRegex(shim.logs[0][2]["stack"], r'main.py", line 5, in handler\n +await asyncio.sleep')

    def test_a_client_that_leaves_changes_nothing_for_what_has_begun(self):
        source = ("import asyncio\nasync def handler(c, e):\n    await asyncio.sleep(0.2)\n    return 'whole'\n")
        with Shim(source) as shim:
            shim.send(event() + event(2))
            time.sleep(0.05)
            shim.send(frame(CANCEL, 0, 1, 1) + frame(CANCEL, 0, 1, 2))
            found = sorted((answer.ident, answer.flags, answer.body) for answer in (shim.answer(), shim.answer()))
            self.assertEqual(found, [(1, 0, b"whole"), (2, 0x10, b"cancelled")])

    def test_late_cancel_is_ignored(self):
        for source in (HELLO_WORLD, "async " + HELLO_WORLD):
            with Shim(source) as shim:
                shim.call()
                shim.send(frame(CANCEL, 0, 2, 1))
                self.assertEqual(shim.call(2).body, b"hello")

    def test_timeouts(self):
        source = ("import asyncio\nasync def handler(c, e):\n    try:\n"
                  "        await asyncio.wait_for(asyncio.sleep(30), 0.05)\n    except asyncio.TimeoutError:\n"
                  "        return 'late'\n")
        with Shim(source) as shim:
            for turn in range(3):
                self.assertEqual(shim.call().body, b"late")
        if VERSION >= (3, 11):
            source = ("import asyncio\nasync def handler(c, e):\n    try:\n        async with asyncio.timeout(0.05):\n"
                      "            await asyncio.sleep(30)\n    except TimeoutError:\n        return 'late'\n")
            with Shim(source) as shim:
                for turn in range(3):
                    self.assertEqual(shim.call().body, b"late")

    def test_context_variables_do_not_leak(self):
        source = ("import contextvars\nv = contextvars.ContextVar('v', default='-')\nw = contextvars.ContextVar('w')\n"
                  "def init_context(c): w.set('init')\n"
                  "async def handler(c, e):\n    old = v.get()\n    v.set('set')\n    return old + w.get()\n")
        with Shim(source) as shim:
            for turn in range(3):
                self.assertEqual(shim.call().body, b"-init")

    def test_sync_handler_in_a_loop(self):
        source = ("import asyncio\nstate = []\nasync def later():\n    await asyncio.sleep(0.02)\n    state.append(1)\n"
                  "def handler(c, e):\n    asyncio.get_running_loop().create_task(later())\n    return str(len(state))\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"0")
            time.sleep(0.2)
            self.assertEqual(shim.call().body, b"1")

    def test_asyncio_imported_by_the_handler(self):
        source = ("state = []\ndef handler(c, e):\n    import asyncio\n    async def later():\n"
                  "        await asyncio.sleep(0.02)\n        state.append(1)\n        open('later', 'w').close()\n"
                  "    if not state:\n        asyncio.get_running_loop().create_task(later())\n"
                  "    return str(len(state))\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"0")
            wait_until(lambda: os.path.exists(os.path.join(shim.folder, "later")))
            self.assertEqual(shim.call().body, b"1")
            self.assertEqual(shim.call().body, b"1")

    def test_asyncio_imported_by_init_context(self):
        source = ("def init_context(c):\n    import asyncio\n    c.user_data.t = asyncio.ensure_future(asyncio.sleep(0, 'w'))\n"
                  "async def handler(c, e):\n    return await c.user_data.t\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"w")

    def test_loop_in_sync_init_context(self):
        source = ("def init_context(c):\n    import asyncio\n    c.t = asyncio.get_running_loop().create_task(asyncio.sleep(0, 'w'))\n"
                  "def handler(c, e):\n    return str(c.t.done())\n")
        with Shim(source) as shim:
            shim.call()
            self.assertEqual(shim.call().body, b"True")

    def test_executor_and_thread(self):
        source = ("import asyncio, time\nstate = []\n"
                  "def handler(c, e):\n    f = asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.05)\n"
                  "    f.add_done_callback(lambda f: c.logger.info('done'))\n    return 'x'\n")
        with Shim(source) as shim:
            shim.call()
            kind, _, code, ident, head, _ = shim.frame()  # without a further event
            self.assertEqual((kind, code, head[8:], ident), (LOG, 1, b"done", 0))

    def test_system_exit_in_a_task(self):
        source = ("import asyncio, sys\nasync def bad(): sys.exit(4)\n"
                  "async def handler(c, e):\n    asyncio.ensure_future(bad())\n    await asyncio.sleep(0.05)\n    return 'alive'\n")
        with Shim(source) as shim:
            for turn in range(2):
                self.assertEqual(shim.call().body, b"alive")

    def test_module_loop_is_kept(self):
        source = ("import asyncio\nloop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
                  "async def handler(c, e): return str(asyncio.get_running_loop() is loop)\n")
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"True")


class Logs(unittest.TestCase):
    def test_levels_of_worker_and_event(self):
        source = ("def handler(c, e):\n    c.logger.debug('d %s', 1)\n    c.logger.info_with('i', a=1)\n"
                  "    c.logger.warn('w')\n    c.logger.error('e')\n")
        with Shim(source, settings={"log_level": "2"}) as shim:
            shim.call()
            self.assertEqual([log[1] for log in shim.logs], ["w", "e"])
            shim.logs.clear()
            shim.call(code=1 << 12)
            self.assertEqual([log[:2] for log in shim.logs],
                             [("debug", "d 1"), ("info", "i"), ("warn", "w"), ("error", "e")])
            self.assertEqual(shim.logs[1][2], {"a": 1, "worker_id": "0"})
            self.assertEqual({log[3] for log in shim.logs}, {1})
            shim.logs.clear()
            shim.call(code=4 << 12)
            self.assertEqual([log[1] for log in shim.logs], ["e"])

    def test_odd_values(self):
        source = '''
class Bad:
    def __repr__(self): raise ValueError
    __str__ = __repr__
def handler(c, e):
    loop = []
    loop.append(loop)
    c.logger.info_with('odd', bad=Bad(), loop=loop, keys={(1, 2): 3}, nan=float('nan'), big='x' * 10_000_000, n=1)
    c.logger.info_with('globals', namespace=globals())
    c.logger.info('t: ', 3)
    c.logger.info('x' * 1_000_000)
    c.logger.info({'not': 'text'})
    c.logger.info('%(a)s', {'a': 5})
    c.logger.info('surrogate \\udc80')
    return 'ok'
'''
        with Shim(source) as shim:
            self.assertEqual(shim.call().body, b"ok")
            self.assertEqual([log[1][:8] for log in shim.logs],
                             ["odd", "globals", "t: ", "xxxxxxxx", "{'not': ", "5", "surrogat"])
            fields = shim.logs[0][2]
            self.assertEqual((fields["n"], fields["nan"]), (1, "NaN"))
            self.assertLess(len(fields["big"]), 10_000)
            self.assertIn("Logging error", shim.errors())

    def test_many_fields(self):
        source = "def handler(c, e): c.logger.info_with('m', **{'n%d' % n: 'x' * 3000 for n in range(500)})"
        with Shim(source) as shim:
            shim.call()
            fields = shim.logs[0][2]
            self.assertEqual(fields["n0"], "x" * 3000)
            self.assertGreater(fields["dropped_fields"], 300)

    def test_buffered_until_the_answer_or_a_warning(self):
        source = ("import time\ndef handler(c, e):\n    c.logger.info('i')\n    time.sleep(0.3)\n"
                  "    c.logger.warn('w')\n    time.sleep(0.3)\n    c.logger.info('late')\n    time.sleep(0.3)\n")
        with Shim(source) as shim:
            shim.send(event())
            self.assertTrue(shim.quiet(0.2))
            self.assertEqual([shim.frame()[4][8:] for _ in range(2)], [b"i", b"w"])
            self.assertTrue(shim.quiet(0.1))
            self.assertEqual(shim.frame()[4][8:], b"late")  # more than 100 ms after the last write
            shim.answer()
        with Shim(source, settings={"log_flush": "always"}) as shim:
            shim.send(event())
            self.assertEqual(shim.frame()[4][8:], b"i")

    def test_many_threads(self):
        source = ("import threading\ndef work(c, n):\n    for i in range(200): c.logger.info_with('t', n=n, pad='x' * 300)\n"
                  "def handler(c, e):\n    ts = [threading.Thread(target=work, args=(c, n)) for n in range(5)]\n"
                  "    for t in ts: t.start()\n    for t in ts: t.join()\n    return 'x' * 100_000\n")
        with Shim(source) as shim:
            self.assertEqual(len(shim.call().body), 100_000)
            self.assertEqual(len(shim.logs), 1000)

    def test_set_handler(self):
        source = ("import sys, nuclio_sdk.logger\ndef init_context(c):\n"
                  "    c.logger.set_handler('mine', sys.stdout, nuclio_sdk.logger.HumanReadableFormatter())\n"
                  "def handler(c, e):\n    c.logger.info_with('both', a=1)\n")
        with Shim(source) as shim:
            shim.call()
            self.assertEqual(shim.logs[0][1], "both")
            self.assertRegex(shim.output(), r"^Python> .* \[info\] both: .*'a': 1")


class Sdk(unittest.TestCase):
    def test_classes(self):
        source = '''
import nuclio_sdk, nuclio_sdk.json_encoder, nuclio_sdk.logger, nuclio_sdk.test
def echo(context, event):
    return event.id
def init_context(context):
    if context.worker_id is None:  # of the test platform
        return
    for name in ('Context', 'Platform', 'Logger'):
        cls = getattr(nuclio_sdk, name)
        assert isinstance(getattr(context, name.lower(), context), cls), name
def handler(context, event):
    assert isinstance(event, nuclio_sdk.Event) and isinstance(event.trigger, nuclio_sdk.TriggerInfo)
    assert context.Response is nuclio_sdk.Response
    assert event.get_header('x-a') == 'v' and event.method == 'POST'
    offset = nuclio_sdk.QualifiedOffset.from_event(event)
    assert (offset.topic, offset.partition, offset.offset) == ('/', -1, 0)
    assert event.compile_explicit_ack_message()['kind'] == 'streamMessageAck'
    assert nuclio_sdk.json_encoder.Encoder().encode({'a': float('nan')}) == '{"a": "NaN"}'
    mine = nuclio_sdk.Event(body=b'x', _id='7')
    assert mine.path == '/' and 'eA==' in mine.to_json()
    platform = nuclio_sdk.test.Platform()
    assert platform.call_handler(echo, mine) == '7'
    assert nuclio_sdk.ExceptionWithResponse(418, 'tea').status_code == 418
    import io
    out = io.StringIO()
    logger = nuclio_sdk.Logger(10, 'mine')
    logger.set_handler('default', out, nuclio_sdk.logger.JSONFormatter())
    logger.info_with('m', a=1)
    assert '"with": {"a": 1}' in out.getvalue(), out.getvalue()
    return nuclio_sdk.Response(body='made', status_code=202)
'''
        with Shim(source) as shim:
            answer = shim.call(headers=[("X-A", "v")])
            self.assertEqual((answer.status, answer.body), (202, b"made"), answer.body.decode())
            shim.logs.clear()
            self.assertEqual(shim.call(headers=[("X-A", "v")]).status, 202)

    def test_imported_late(self):
        source = '''
def handler(context, event):
    first = context.Response(body='old')
    import nuclio_sdk
    assert isinstance(event, nuclio_sdk.Event) and isinstance(first, nuclio_sdk.Response)
    return [first, nuclio_sdk.Response(body='new')][int(event.body)]
'''
        with Shim(source) as shim:
            self.assertEqual(shim.call(body=b"0").body, b"old")
            self.assertEqual(shim.call(body=b"1").body, b"new")

    @unittest.skipUnless(HAS_SDK, "the interpreter under test has no nuclio_sdk")
    def test_not_imported_unless_asked_for(self):
        with Shim("import sys\ndef handler(c, e): return str('nuclio_sdk' in sys.modules)") as shim:
            self.assertEqual(shim.call().body, b"False")
            self.assertRegex(shim.hello["sdk"], r"^\d+\.\d+\.\d+")

    def test_call_function(self):
        source = '''
import http.server, threading
class H(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(201)
        self.send_header('Content-Type', 'application/json')
        self.end_headers()
        self.wfile.write(b'{"path": "%s", "body": %s, "target": "%s"}' % (
            self.path.encode(), body, self.headers['X-Nuclio-Target'].encode()))
    def log_message(self, *args): pass
def init_context(context):
    import http.client
    server = http.server.HTTPServer(('127.0.0.1', 0), H)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    def connect(host, timeout=None):
        assert host == 'nuclio-nuclio-other:8080', host
        return http.client.HTTPConnection('127.0.0.1', server.server_port)
    context.platform._connection_provider = connect
def handler(context, event):
    event.body = {'a': 1}
    answer = context.platform.call_function('other', event)
    return repr((answer.status_code, answer.body, answer.content_type, type(answer) is context.Response))
'''
        with Shim(source) as shim:
            self.assertEqual(shim.call(path="/p").body.decode(), repr(
                (201, {"path": "/p", "body": {"a": 1}, "target": "other"}, "application/json", True)))

    def test_user_modules_named_like_standard_ones(self):
        names = ("code", "traceback", "json", "logging", "datetime", "inspect", "socket")
        files = {name + ".py": "raise ImportError('the user file')\n" for name in names}
        source = ("def handler(c, e):\n    c.logger.info_with('x', a=1)\n    if e.body: return {'a': str(e.timestamp)}\n"
                  "    raise ValueError('text')\n")
        with Shim(source, files=files) as shim:
            self.assertEqual(shim.call().body, b'{"a": "2025-01-01 00:00:00"}')
            self.assertIn(b"ValueError: text", shim.call(body=b"").body)
        with Shim(ECHO, "code:handler", files={"code.py": ECHO}) as shim:
            self.assertEqual(shim.call().body, b"hi")

    def test_hyphens_and_dots(self):
        for handler, file in (("time-since:run", "time-since.py"), ("a.b_1.func:run", "a/b_1/func.py")):
            with Shim("", handler, files={file: "def run(c, e): return __name__"}) as shim:
                self.assertEqual(shim.call().body.decode(), handler.partition(":")[0])


class Bootstrap(unittest.TestCase):
    HANDLER = "def handler(c, e): return 'ok'"

    def compiled(self):
        """What the processor's one compiling process leaves in descriptor 7."""
        files = [memory_file(BOOTSTRAP), memory_file(WRAPPER), memory_parts(), os.memfd_create("code")]
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 30) for descriptor in files]

        def prepare():
            for place, descriptor in enumerate(high):
                os.dup2(descriptor, 4 + place)

        subprocess.run([PYTHON, "-I", "-S", "/proc/self/fd/4", "compile"], check=True, pass_fds=[4, 5, 6, 7],
                       preexec_fn=prepare)
        with open("/proc/self/fd/%d" % files[3], "rb") as file:
            code = file.read()
        for descriptor in files + high:
            os.close(descriptor)
        return code

    def code_file(self, content):
        descriptor = os.memfd_create("code")
        os.write(descriptor, content)
        self.addCleanup(os.close, descriptor)
        return descriptor

    def check(self, content):
        with Shim(self.HANDLER, embedded=True, code=self.code_file(content)) as shim:
            self.assertEqual(shim.call().body, b"ok")

    def test_compiled_once_for_all_workers(self):
        code = self.compiled()
        self.assertIn(b"\n", code[:64])
        self.check(code)

    def test_code_that_is_missing_cut_short_or_of_another_version_is_compiled_again(self):
        code = self.compiled()
        for content in b"", code[:len(code) // 2], b"cpython-27 20700f0\n" + code:
            with self.subTest(len(content)):
                self.check(content)

    def test_parts_are_loaded_when_they_are_needed_and_not_before(self):
        source = ("import sys\ndef pieces(): yield 'piece'\ndef handler(c, e):\n"
                  "    if e.path == '/fail': raise ValueError('bad')\n    if e.path == '/stream': return pieces()\n"
                  "    return ' '.join(sorted(n for n in sys.modules if n.startswith('_nuclio_')))\n")
        with Shim(source, embedded=True) as shim:
            self.assertEqual(shim.call().body, b"_nuclio_shim")
            failed = shim.call(2, path="/fail")
            self.assertEqual(failed.status, 500)
            self.assertNotIn(b"nuclio shim", failed.body)  # the parts' frames are not the user's
            self.assertEqual(shim.call(3).body, b"_nuclio_more _nuclio_shim")
            shim.send(event(4, path="/stream"))
            self.assertEqual(shim.answer().ident, 4)
            while shim.next()[1] != 1:
                pass
            self.assertEqual(shim.call(5).body, b"_nuclio_more _nuclio_shim _nuclio_streams")
            shim.send(frame(CONTROL, 0, 2, 9))
            self.assertEqual(shim.next()[0], CONTROL_DONE)

    def test_a_part_that_is_missing_is_named(self):
        with Shim("async def handler(c, e): return 'ok'", through_descriptor=True, start=False) as shim:
            kind, _, _, _, _, body = shim.next()
            self.assertEqual(kind, FAILED)
            self.assertIn(b"_nuclio_more.py, a part of the shim, belongs beside", body)

    def test_workers_wait_for_the_compiling_process(self):
        descriptor = self.code_file(b"")
        lock = open("/proc/self/fd/%d" % descriptor, "r+b", 0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        released = []

        def release():
            lock.write(code)
            released.append(time.monotonic())
            lock.close()

        code = self.compiled()
        timer = threading.Timer(0.3, release)
        timer.start()
        with Shim(self.HANDLER, embedded=True, code=descriptor) as shim:
            self.assertTrue(released, "said HELLO before there was code")
            self.assertEqual(shim.call().body, b"ok")
        timer.join()


class Examples(unittest.TestCase):
    FOLDER = os.path.join(HERE, "..", "..", "examples", "python")

    def example(self, name):
        folder, file = name.split("/")
        with open(os.path.join(self.FOLDER, name + ".py"), encoding="utf-8") as source:
            return Shim("", file + ":handler", files={file + ".py": source.read()})

    def test_answers(self):
        json_type = {"content_type": "application/json"}
        for name, more, body in (
                ("hello/hello", {}, "Hello, world"), ("hello/hello", {"fields": [("name", "you")]}, "Hello, you"),
                ("echo/echo", {}, "hi"), ("json/sum", {"body": b'{"numbers": [1, 2]}', **json_type}, '{"sum": 3}'),
                ("json/sum", {}, 'send JSON like {"numbers": [1, 2]}'),
                ("async/both", {}, '{"answers": ["first", "second"]}'),
                ("init_context/greeting", {"fields": [("lang", "fr")]}, "Bonjour"), ("logging/visit", {}, "logged")):
            with self.subTest(name), self.example(name) as shim:
                self.assertEqual(shim.call(**more).body.decode(), body)

    def test_events(self):
        with self.example("events/events") as shim:
            shim.send(event())
            self.assertEqual(shim.answer().content_type, "text/event-stream")
            self.assertEqual([shim.next()[5] for _ in range(2)],
                             [b"id: 1\ndata: tick 1\n\n", b"id: 2\ndata: tick 2\n\n"])
            shim.send(frame(CANCEL, 0, 1, 1))
            while not shim.next()[1]:
                pass
            self.assertEqual(shim.logs[-1][1], "Closed")

    def test_stream(self):
        with self.example("stream/count") as shim:
            shim.send(event())
            self.assertEqual(b"".join(shim.streamed()[1]), b"1\n2\n3\n4\n5\n")


class Vectors(unittest.TestCase):
    """The cases of handlers.json, as far as a shim alone can answer them."""

    # These stream (newest reference) where the case states what Python 3.11 with the old reference said.
    STREAMED = {"generator"}

    def test_cases(self):
        with open(VECTORS, encoding="utf-8") as file:
            cases = [case for case in json.load(file)["cases"] if case["language"] == "python"]
        self.assertGreater(len(cases), 60)
        for case in cases:
            with self.subTest(case["name"]):
                self.check(case)

    def check(self, case):
        file = case.get("file", "main.py")
        files = {file: case["handler"]}
        if "/" in file:
            files[os.path.dirname(file) + "/__init__.py"] = ""
        trigger = case.get("trigger_name", "http")
        settings = {"trigger_name": trigger, "trigger.0.name": trigger}
        if case.get("env", {}).get("NUCLIO_PYTHON_DECODE_EVENT_STRINGS") == "false":
            settings["decode_strings"] = "0"
        expect = {**case["expect"], **case.get("ours", {})}
        with Shim("", case["handler_spec"], files=files, settings=settings) as shim:
            if "batch" in case:
                return self.check_batch(shim, case, expect)
            for number, request in enumerate(case.get("requests_before", [])):
                shim.send(self.event(request, number + 1, case))
                shim.answer()
            shim.send(self.event(case["request"], 9, case))
            if case["name"] in self.STREAMED:
                return self.assertEqual(shim.streamed()[1], [b"x"])
            self.check_answer(shim.answer(), expect)
            self.check_logs(shim.logs, expect.get("logs", []))
            acks = [(c["attributes"]["topic"], c["attributes"]["partition"], c["attributes"]["offset"], 9)
                    for c in expect.get("control", [])]
            self.assertEqual(shim.acks, acks)

    def event(self, request, number, case):
        path, _, query = request["path"].partition("?")
        fields = [pair.partition("=")[::2] for pair in query.split("&") if pair]
        fields = [(name, value.replace("%20", " ")) for name, value in fields]
        headers, flags, body = [], 0, self.body(request)
        for name, value in request.get("headers", {}).items():
            if isinstance(value, dict):
                value, flags = bytes.fromhex(value["$raw_str_hex"]), flags | 0x40
            headers.append((name, value))
        content_type = dict(headers).get("Content-Type", "")
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        code = (1 + LEVELS.index(dict(headers)["X-Nuclio-Log-Level"]) << 12) if "X-Nuclio-Log-Level" in dict(headers) else 0
        more = {"text_id": "00000000-0000-4000-8000-%012d" % number}
        override = case.get("event_override")
        if override:
            more = {"text_id": override["id"], "trigger": (override["trigger"]["kind"], override["trigger"]["name"])}
            more.update({name: override[name] for name in ("type", "type_version", "version")})
            content_type, headers, flags = override["content_type"], list(override["headers"].items()), 0x04
            body = json.dumps(json.loads(request["body_utf8"])["data"]).encode()
        return event(number, body, request["method"], path, headers, fields, flags, code, content_type=content_type, **more)

    def body(self, item):
        if "body_repeat" in item:
            return bytes([item["body_repeat"]["byte"]]) * item["body_repeat"]["count"]
        if "body_hex" in item:
            return bytes.fromhex(item["body_hex"])
        return item["body_utf8"].encode() if "body_utf8" in item else None

    def check_answer(self, answer, expect):
        self.assertEqual(answer.status, expect["status"], answer.body[:2000])
        want = self.body(expect)
        if want is not None:
            self.assertEqual(answer.body[:100], want[:100])
            self.assertTrue(answer.body == want)
        if "body_regex" in expect:
            self.assertTrue(re.search(expect["body_regex"], answer.body.decode()), answer.body.decode())
        if "content_type" in expect:
            self.assertEqual(answer.content_type, expect["content_type"])
        for name, value in expect.get("headers", {}).items():
            self.assertEqual(answer.headers.get(name), value)
        if expect.get("no_ack"):
            self.assertTrue(answer.flags & 4)

    def check_logs(self, logs, wanted):
        rest = iter(logs)
        for want in wanted:
            for level, message, fields, _ in rest:
                if (level, message) == (want["level"], want["message"]) and \
                        want.get("with", {}).items() <= fields.items():
                    break
            else:
                self.fail("no record %r in %r" % (want, logs))

    def check_batch(self, shim, case, expect):
        members = case["batch"]
        for number, member in enumerate(members):
            flags = 0x08 | (0x10 if number + 1 == len(members) else 0)
            shim.send(event(number + 1, self.body(member), flags=flags, text_id=member["id"]))
        for _ in members:
            answer = shim.answer()
            self.check_answer(answer, expect["results"][members[answer.ident - 1]["id"]])


if __name__ == "__main__":
    unittest.main()
