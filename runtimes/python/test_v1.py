"""Tests of the Python shim over shim protocol 1: a scripted Go processor starts a real child process with its arguments
and talks to it over real sockets.

    python3 -m unittest -v test_v1                 # in this folder
    SHIM_TEST_PYTHON=/path/to/python3 python3 -m unittest test_v1
"""

import base64
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import _nuclio_v1

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = os.environ.get("SHIM_TEST_PYTHON", sys.executable)
WIRE = os.path.join(HERE, "..", "..", "tests", "vectors", "wire-v1")


def cases(name):
    with open(os.path.join(WIRE, name + ".json"), encoding="utf-8") as file:
        return json.load(file)["cases"]


def pack(value):
    """As much of msgpack as events need."""
    if value is None:
        return b"\xc0"
    if isinstance(value, int):
        return b"\xd3" + struct.pack(">q", value)  # as the Go processor writes every integer
    if isinstance(value, (str, bytes)):
        kind, data = (b"\xdb", value.encode()) if isinstance(value, str) else (b"\xc6", value)
        return kind + struct.pack(">I", len(data)) + data
    if isinstance(value, list):
        return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pack(one) for pair in value.items() for one in pair)


def framed(value):
    payload = pack(value)
    return struct.pack(">i", len(payload)) + payload


def event(body=b"hi", path="/", ident="id-1", **more):
    return {
        "body": body, "content-type": "", "content_type": "", "fields": {}, "headers": {}, "id": ident, "method": "POST",
        "num_shards": 0, "offset": 0, "path": path, "shard_id": -1, "size": len(body or b""), "timestamp": 1735689600,
        "topic": "", "trigger": {"kind": "http", "name": "web"}, "type": "", "type_version": "", "url": "",
        "version": "", **more}


class Connection:
    """The processor's end of one."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(20)
        self.file = sock.makefile("rb")

    def send(self, value):
        self.sock.sendall(framed(value))

    def line(self, wanted=""):
        """The next line, log records left out unless they are wanted, as (letter, what its JSON says)."""
        while True:
            line = self.file.readline().decode().rstrip("\n")
            if not line or line[0] != "l" or wanted == "l":
                letter, rest = line[:1], line[1:]
                assert not wanted or letter == wanted, line
                return letter, json.loads(rest) if rest and letter not in "bs" else rest

    def answer(self):
        """After its duration."""
        assert self.line("m")[1]["duration"] > 0
        return self.line("r")[1]

    def record(self, message):
        while True:
            record = self.line("l")[1]
            if record["message"] == message:
                return record


class Shim:
    """A child process, and the processor's sockets."""

    def __init__(self, source, decode=True, environment=None, address=None, wrapper=HERE):
        self.folder = tempfile.mkdtemp()
        with open(os.path.join(self.folder, "main.py"), "w", encoding="utf-8") as file:
            file.write(source)
        listeners = []
        for name in ("event", "control"):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.path.join(self.folder, name))
            listener.listen()
            listener.settimeout(20)
            listeners.append(listener)
        self.process = subprocess.Popen(
            [PYTHON, "-u", os.path.join(wrapper, "_nuclio_wrapper.py"), "--handler", "main:handler",
             "--event-socket-path", address or os.path.join(self.folder, "event"),
             "--control-socket-path", os.path.join(self.folder, "control"), "--platform-kind", "local",
             "--namespace", "nuclio", "--worker-id", "2", "--trigger-kind", "http", "--trigger-name", "web",
             *(["--decode-event-strings"] if decode else [])],
            env={**os.environ, "PYTHONPATH": self.folder, "PYTHONDONTWRITEBYTECODE": "1", **(environment or {})},
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.control = Connection(listeners[1].accept()[0])
        self.event = None if address else Connection(listeners[0].accept()[0])
        for listener in listeners:
            listener.close()

    def start(self):
        if self.event is not None:
            self.event.line("s")
        assert self.message("wrapperInitialized") == {"ready": "true"}
        return self

    def message(self, kind):
        while True:
            line = json.loads(self.control.file.readline())
            if line["kind"] == kind:
                return line["attributes"]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        for connection in (self.event, self.control):
            if connection is not None:
                connection.file.close()
                connection.sock.close()
        shutil.rmtree(self.folder)


REPRS = """
def handler(context, event):
    shown = {name: repr(getattr(event, name)) for name in vars(event) if name != "trigger" and not name.startswith("_")}
    shown["trigger.kind"], shown["trigger.name"] = repr(event.trigger.kind), repr(event.trigger.name)
    return shown
"""


class Decoding(unittest.TestCase):
    def test_both_decoders_read_every_vector_alike(self):
        own, found = _nuclio_v1.unpack_here, _nuclio_v1.unpacker()
        seen = 0
        for case in cases("events") + cases("batches"):
            for key in ("msgpack_reference_hex", "msgpack_compact_hex"):
                if case.get(key):
                    data = bytes.fromhex(case[key])
                    self.assertEqual(repr(own(data)), repr(found(data)), case["name"])
                    seen += 1
            if case.get("msgpack_reference_hex"):
                reference, compact = (own(bytes.fromhex(case["msgpack_%s_hex" % form]))
                                      for form in ("reference", "compact"))
                self.assertEqual(reference, compact, case["name"])
        self.assertGreater(seen, 60)

    def test_every_type_of_msgpack_is_read(self):
        for data, value in (
                ("c2", False), ("c3", True), ("ca3fc00000", 1.5), ("cb3ff8000000000000", 1.5), ("ccff", 255),
                ("cdffff", 65535), ("ceffffffff", 2**32 - 1), ("cfffffffffffffffff", 2**64 - 1), ("d0ff", -1),
                ("d1ffff", -1), ("d2ffffffff", -1), ("d3ffffffffffffffff", -1), ("ff", -1), ("7f", 127),
                ("c50001aa", b"\xaa"), ("da000161", "a"), ("dc0001c0", [None]), ("de0001a161c0", {"a": None}),
                 ("d6ff00000001", 1.0), ("d405aa", b"\xaa"), ("c70105aa", b"\xaa"),
                ("c70cff000000000000000000000002", 2.0), ("d7ff0000000000000003", 3.0), ("a1ff", "\udcff")):
            self.assertEqual(_nuclio_v1.unpack_here(bytes.fromhex(data)), value, data)
        for data in ("", "c1", "a2", "c0c0", "92c0"):
            with self.assertRaises(ValueError, msg=data):
                _nuclio_v1.unpack_here(bytes.fromhex(data))

    def test_events_look_as_the_vectors_say(self):
        events = {case["name"]: case for case in cases("events")}
        for decode, form in (True, "decoded"), (False, "raw"):
            with Shim(REPRS, decode) as shim:
                for case in cases("python-events"):
                    data = bytes.fromhex(events[case["name"]]["msgpack_reference_hex"])
                    shim.event.sock.sendall(struct.pack(">i", len(data)) + data)
                    answer = shim.event.answer()
                    if "error" in case[form]:
                        self.assertEqual(answer["status_code"], 500, case["name"])
                        continue
                    found = json.loads(answer["body"])
                    if case["name"] == "cloud-event-structured-object":
                        # The data of a cloud event has texts in either form, as over protocol 2.
                        case["raw"]["body"] = case["decoded"]["body"]
                    self.assertEqual(found, case[form], case["name"])


class OneConnection(unittest.TestCase):
    def test_answers_have_the_members_of_protocol_1(self):
        source = ("def handler(context, event):\n"
                  "    response = context.Response(body=event.body, headers={'a': ['1', '2']}, status_code=201)\n"
                  "    response.ensure_no_ack()\n"
                  "    return response\n")
        with Shim(source) as shim:
            for body in (b"text", b"\xff\x00"):
                shim.event.send(event(body))
                answer = shim.event.answer()
                text = answer.pop("body")
                encoding = answer.pop("body_encoding")
                self.assertEqual(text.encode() if encoding == "text" else base64.b64decode(text), body)
                self.assertEqual(answer, {
                    "status_code": 201, "content_type": "text/plain",
                    "headers": {"a": ["1", "2"], "X-Nuclio-Stream-No-Ack": True}})

    def test_frames_arrive_whole_however_they_are_cut(self):
        with Shim("def handler(context, event):\n    return str(len(event.body))\n") as shim:
            for byte in framed(event(b"abc")):
                shim.event.sock.sendall(bytes([byte]))
            self.assertEqual(shim.event.answer()["body"], "3")
            shim.event.send(event(b"x" * 3_000_000))
            self.assertEqual(shim.event.answer()["body"], "3000000")

    def test_log_records_come_before_the_answer(self):
        source = "def handler(context, event):\n    context.logger.warn_with('careful', n=1)\n    return 'ok'\n"
        with Shim(source) as shim:
            shim.event.send(event())
            record = shim.event.line("l")[1]
            self.assertRegex(record.pop("datetime"), r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}$")
            self.assertEqual(record, {"level": "warning", "message": "careful", "with": {"n": 1, "worker_id": "2"}})
            self.assertEqual(shim.event.answer()["body"], "ok")

    def test_a_batch_is_answered_by_one_list(self):
        source = ("def handler(context, events):\n"
                  "    if events[0].path == '/raise': raise ValueError('all')\n"
                  "    return [context.Response(body=event.body, event_id=event.id) for event in events[::-1] if event.body]\n")
        with Shim(source) as shim:
            shim.event.send([event(b"1", ident="a"), event(b"", ident="b"), event(b"3", ident="c")])
            answers = shim.event.answer()
            self.assertEqual({one["event_id"]: one["body"] for one in answers}, {"a": "1", "c": "3"})
            shim.event.send([event(path="/raise", ident="a"), event(ident="b")])
            answers = shim.event.answer()
            self.assertEqual([(one["event_id"], one["status_code"]) for one in answers], [("a", 500), ("b", 500)])
            shim.event.send([event(b"alone", ident="z")])
            self.assertEqual([one["body"] for one in shim.event.answer()], ["alone"])

    STREAM = ("def handler(context, event):\n"
              "    yield 'one'\n"
              "    yield b'\\xff'\n"
              "    if event.path == '/raise': raise ValueError('midway')\n")

    def test_a_generator_is_one_answer_for_a_processor_that_knows_no_pieces(self):
        with Shim(self.STREAM) as shim:
            shim.event.send(event())
            answer = shim.event.answer()
            self.assertEqual((answer["body_encoding"], base64.b64decode(answer["body"])), ("base64", b"one\xff"))
            shim.event.send(event(path="/raise"))
            letter, answer = shim.event.line()
            self.assertEqual((letter, answer["status_code"]), ("r", 500))
            self.assertIn("midway", answer["body"])

    def test_a_generator_comes_in_pieces_where_the_processor_takes_them(self):
        with Shim(self.STREAM, environment={"NUCLIO_SHIM_STREAM_LINES": "1"}) as shim:
            for path in ("/", "/raise", "/"):
                shim.event.send(event(path=path))
                letter, head = shim.event.line()
                self.assertEqual((letter, head["body"], head["status_code"]), ("c", "", 200))
                pieces = [shim.event.line(), shim.event.line()]
                self.assertEqual(pieces, [("b", base64.b64encode(piece).decode()) for piece in (b"one", b"\xff")])
                if path == "/raise":
                    self.assertEqual(shim.event.line("r")[1]["status_code"], 500)
                else:
                    shim.event.line("e")
                    shim.event.line("m")

    def test_newer_wrappers_beside_it_tell_of_a_processor_that_takes_pieces(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        for name in os.listdir(HERE):
            if name.startswith("_nuclio_"):
                shutil.copy(os.path.join(HERE, name), folder)
        with open(os.path.join(folder, "wrapper_common.py"), "w", encoding="utf-8"):
            pass
        with Shim(self.STREAM, wrapper=folder) as shim:
            shim.event.send(event())
            shim.event.line("c")

    def test_an_event_that_cannot_be_read_fails_alone(self):
        with Shim("def handler(context, event):\n    return 'ok'\n") as shim:
            shim.event.sock.sendall(struct.pack(">i", 1) + b"\xc1")
            self.assertEqual(shim.event.line("r")[1]["status_code"], 500)
            bad = pack(event(path="/@@")).replace(b"/@@", b"/\xff\xfe")
            shim.event.sock.sendall(struct.pack(">i", len(bad)) + bad)
            shim.event.line("m")
            answer = shim.event.line("r")[1]
            self.assertEqual(answer["status_code"], 500)
            self.assertIn("Exception caught while serving", answer["body"])
            shim.event.send(event())
            self.assertEqual(shim.event.answer()["body"], "ok")

    def test_a_length_that_cannot_be_ends_the_process(self):
        with Shim("def handler(context, event):\n    return 'ok'\n") as shim:
            shim.event.sock.sendall(bytes(4))
            self.assertEqual(shim.process.wait(20), 1)
            self.assertIn("event of 0 bytes", shim.process.stderr.read().decode())

    def test_a_handler_that_cannot_be_loaded_is_said_on_standard_error(self):
        shim = Shim("import nothing_of_this_name\n")
        try:
            self.assertEqual(shim.process.wait(20), 1)
            self.assertIn("nothing_of_this_name", shim.process.stderr.read().decode())
        finally:
            shim.__exit__()

    def test_the_end_of_either_connection_ends_the_process(self):
        for which in ("event", "control"):
            with Shim("def handler(context, event):\n    return 'ok'\n") as shim:
                getattr(shim, which).sock.shutdown(socket.SHUT_RDWR)
                self.assertEqual(shim.process.wait(20), 0, which)

    def test_acknowledgements_go_over_the_control_connection(self):
        source = ("import nuclio_sdk\n"
                  "async def handler(context, event):\n"
                  "    await context.platform.explicit_ack(nuclio_sdk.QualifiedOffset.from_event(event))\n"
                  "    return 'ok'\n")
        with Shim(source) as shim:
            shim.event.send(event(topic="orders", shard_id=3, offset=2**53 + 1))
            self.assertEqual(shim.event.answer()["body"], "ok")
            self.assertEqual(shim.message("streamMessageAck"),
                             {"topic": "orders", "partition": 3, "offset": 2**53 + 1})

    CALLBACKS = ("import os, time\n"
                 "{asyncio}\n"
                 "def init_context(context):\n"
                 "    context.platform.set_drain_callback(lambda: context.logger.info('drained'))\n"
                 "    context.platform.set_termination_callback(lambda: context.logger.info('terminated'))\n"
                 "{kind}def handler(context, event):\n"
                 "    if event.path == '/slow': time.sleep(0.5)\n"
                 "    return 'ok'\n")

    def test_signals_ask_for_callbacks_and_what_comes_then_is_refused_until_it_goes_on(self):
        for asyncio, kind in (("", ""), ("import asyncio", ""), ("", "async ")):
            with Shim(self.CALLBACKS.format(asyncio=asyncio, kind=kind)) as shim:
                shim.process.send_signal(signal.SIGUSR2)
                shim.event.record("Received signal")
                shim.event.record("Calling platform drain handler")
                shim.event.record("drained")
                self.assertEqual(shim.message("drain"), {"workerId": "2"})
                shim.event.send(event())
                answer = shim.event.line("r")[1]
                self.assertEqual((answer["status_code"], answer["body"]), (500, "Event discarded: worker draining"))
                shim.process.send_signal(signal.SIGCONT)
                shim.event.record("Received signal")
                shim.event.send(event())
                self.assertEqual(shim.event.answer()["body"], "ok")
                # It waits for the handler, whose answer comes first.
                shim.event.send(event(path="/slow"))
                time.sleep(0.1)
                shim.process.send_signal(signal.SIGUSR1)
                self.assertEqual(shim.event.answer()["body"], "ok")
                shim.event.record("Calling platform termination handler")
                shim.event.record("terminated")
                self.assertIsNone(shim.process.poll())


class ManyConnections(unittest.TestCase):
    def test_every_connection_has_an_event_in_work(self):
        source = ("import asyncio\n"
                  "async def handler(context, event):\n"
                  "    context.logger.info(event.path)\n"
                  "    await asyncio.sleep(0.3)\n"
                  "    return event.body\n")
        reserved = socket.socket()
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        address = reserved.getsockname()
        with Shim(source, address="%s:%d" % address):
            begun = time.monotonic()
            connections = []
            while len(connections) < 20:
                try:
                    connections.append(Connection(socket.create_connection(address, 20)))
                except ConnectionRefusedError:
                    self.assertLess(time.monotonic() - begun, 20)
                    time.sleep(0.01)
            for connection in connections:
                connection.line("s")
            begun = time.monotonic()
            for number, connection in enumerate(connections):
                connection.send(event(b"%d" % number, path="/%d" % number))
            for number, connection in enumerate(connections):
                self.assertEqual(connection.record("/%d" % number)["with"]["worker_id"], "2")
                self.assertEqual(connection.answer()["body"], str(number))
            self.assertLess(time.monotonic() - begun, 5, "one after the other takes 6 s")
            connections[0].file.close()
            connections[0].sock.close()
            connections[1].send(event(b"again"))
            self.assertEqual(connections[1].answer()["body"], "again")
            for connection in connections[1:]:
                connection.file.close()
                connection.sock.close()
        reserved.close()


if __name__ == "__main__":
    unittest.main()
