"""Plays the processor against the .NET shim as a real child process: frames of protocol 2, lines of protocol 1.

The shim and the handlers of tests/handlers/dotnetcore are built first, with the dotnet in PATH.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
HANDLERS = HERE.parent.parent / "tests" / "handlers" / "dotnetcore"
WITHIN = 20  # seconds, for anything that the shim does
CUT_EVERY = 1 if os.environ.get("TEST_FULL") == "yes" else 5  # bytes

INIT, EVENT, CREDIT, CANCEL, CONTROL, PING = 0x01, 0x02, 0x04, 0x05, 0x06, 0x08
HELLO, READY, ANSWER, DATA, LOG, CONTROL_DONE, PONG, FAILED = 0x81, 0x82, 0x83, 0x84, 0x86, 0x87, 0x8B, 0x8F
TYPED = 0x20
MORE, CANCELLED = 0x01, 0x10
END, ABORT = 0x01, 0x02

built = tempfile.TemporaryDirectory()


def setUpModule():
    if shutil.which("dotnet") is None:
        raise unittest.SkipTest("no dotnet in PATH (scripts/get-dotnet gets one)")
    sources = pathlib.Path(built.name) / "sources"
    sources.mkdir()
    for file in HANDLERS.glob("*/*.cs"):
        shutil.copy(file, sources)
    subprocess.run([HERE / "build", "-o", built.name, sources], check=True, capture_output=True)


def tearDownModule():
    built.cleanup()


def frame(kind, id=0, head=b"", body=b"", code=0, flags=0):
    return struct.pack("<IBBHII", len(head) + len(body), kind, flags, code, id, len(head)) + head + body


def pairs(**values):
    return "\0".join(text for pair in values.items() for text in pair).encode()


def event(id, path="/", body=b"", method="POST", headers=(), fields=(), flags=0, code=0):
    texts = [f"e{id}", method, path, "", "", "text/plain", "", "", "", "", "", "", *headers, *fields]
    head = struct.pack("<qqiiIHH", 1735689600000000, 0, -1, 0, 0, len(headers) // 2, len(fields) // 2)
    return frame(EVENT, id, head + "\0".join(texts).encode(), body, code, flags)


class Frame:
    def __init__(self, header, payload):
        _, self.kind, self.flags, self.code, self.id, head = struct.unpack("<IBBHII", header)
        self.head, self.body = payload[:head], payload[head:]


class Shim:
    """The shim, and the processor's end of its socket."""

    def __init__(self, handler, **init):
        ours, theirs = socket.socketpair()
        ours.settimeout(WITHIN)
        environment = dict(os.environ, NUCLIO_SHIM_FD=str(theirs.fileno()))
        command = ["dotnet", f"{built.name}/wrapper/wrapper.dll"]
        self.process = subprocess.Popen(
            command, env=environment, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        theirs.close()
        self.socket = ours
        assert self.read(4) == b"NSH2"
        self.hello = self.receive()
        settings = {"handler": handler, "handler_dir": f"{built.name}/handler", "max_inflight": "1"}
        self.send(frame(INIT, head=pairs(**{**settings, **init}), code=2))
        self.first = self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def read(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(f"the shim ended: {self.process.wait(WITHIN)}")
            data += piece
        return data

    def receive(self, *skipped):
        while True:
            header = self.read(16)
            found = Frame(header, self.read(struct.unpack_from("<I", header)[0]))
            if found.kind not in skipped:
                return found

    def send(self, data):
        self.socket.sendall(data)

    def ask(self, data):
        self.send(data)
        return self.receive(LOG)

    def end(self):
        self.socket.shutdown(socket.SHUT_WR)
        return self.process.wait(WITHIN)


class Frames(unittest.TestCase):
    def test_hello_says_what_it_can_and_ready_follows(self):
        with Shim("Echo:Handle") as shim:
            hello = shim.hello.head.decode().split("\0")
            values = dict(zip(hello[::2], hello[1::2]))
            self.assertEqual((shim.hello.kind, shim.hello.code), (HELLO, 2))
            self.assertEqual((values["language"], values["protocol_min"], values["protocol_max"]), ("dotnetcore", "2", "2"))
            self.assertEqual(int(values["pid"]), shim.process.pid)
            self.assertEqual((shim.first.kind, shim.first.head), (READY, pairs(handler_async="0", max_inflight="1")))

    def test_an_event_may_come_cut_anywhere(self):
        data = event(1, headers=("X-One", "1"), body=b"cut")
        with Shim("Echo:Handle") as shim:
            for at in range(1, len(data), CUT_EVERY):
                # The echo says that the shim has read as far as this.
                self.assertEqual(shim.ask(frame(PING, 9) + data[:at]).kind, PONG)
                answer = shim.ask(data[at:])
                self.assertEqual((answer.kind, answer.id, answer.body), (ANSWER, 1, b"cut"), at)

    def test_ten_events_in_one_write_are_answered_in_order(self):
        with Shim("Echo:Handle") as shim:
            shim.send(b"".join(event(id, body=b"%d" % id) for id in range(1, 11)))
            for id in range(1, 11):
                answer = shim.receive()
                self.assertEqual((answer.id, answer.body), (id, b"%d" % id))

    def test_large_bodies_go_both_ways_beside_small_ones(self):
        with Shim("Echo:Handle") as shim:
            for size in (65519, 65520, 65536, 65537, 3 << 20):
                shim.send(event(1, body=b"small"))
                self.assertEqual(shim.receive().body, b"small")
                body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                self.assertEqual(shim.ask(event(2, body=body)).body, body)

    def test_large_heads_are_read(self):
        with Shim("More:HeadersBack") as shim:
            value = "v" * 100000
            answer = shim.ask(event(1, headers=("X-Long", value)))
            self.assertEqual(answer.head[8:], f"text/plain\0X-Long\0{value}".encode())

    def test_unknown_frames_are_skipped_if_they_may_be(self):
        with Shim("Echo:Handle") as shim:
            self.assertEqual(shim.ask(frame(0x70, 5, b"h", b"b", flags=0x80) + event(1, body=b"on")).body, b"on")
            failed = shim.ask(frame(0x70))
            self.assertEqual((failed.kind, failed.code), (FAILED, 3))
            self.assertEqual(shim.process.wait(WITHIN), 1)

    def test_broken_frames_end_it(self):
        short = frame(EVENT, 1, struct.pack("<qqiiIHH", 0, 0, 0, 0, 0, 9, 9) + b"too few")
        for broken in (struct.pack("<IBBHII", 1, EVENT, 0, 0, 1, 2), short, frame(EVENT, 1, b"short"), frame(CREDIT, 1, b"1")):
            with Shim("Echo:Handle") as shim:
                failed = shim.ask(broken)
                self.assertEqual((failed.kind, failed.code), (FAILED, 3))
                self.assertEqual(shim.process.wait(WITHIN), 1)

    def test_ping_is_echoed(self):
        with Shim("Echo:Handle") as shim:
            pong = shim.ask(frame(PING, 9, b"", b"echo", code=3))
            self.assertEqual((pong.kind, pong.id, pong.code, pong.body), (PONG, 9, 3, b"echo"))

    def test_typed_events_keep_what_is_no_text(self):
        def item(type, data):
            return type + struct.pack("<I", len(data)) + data

        texts = [b"e", b"GET", b"/a\0b", *[b""] * 9]
        number, many = item(b"i", struct.pack("<q", 7)), item(b"l", item(b"s", b"a") + item(b"s", b"b"))
        values = [item(b"s", text) for text in texts]
        values += [item(b"s", b"X-Number"), number, item(b"s", b"X-Many"), many, item(b"s", b"X-True"), item(b"t", b"\1")]
        head = struct.pack("<qqiiIHH", 0, 0, -1, 0, 0, 3, 0) + b"".join(values)
        with Shim("More:HeadersBack") as shim:
            answer = shim.ask(frame(EVENT, 1, head, flags=TYPED))
            self.assertEqual(answer.head[8:], b"text/plain\0X-Number\x007\0X-Many\0a\0X-Many\0b\0X-True\0true")

    def test_records_come_before_their_answer_and_only_those_that_are_wanted(self):
        with Shim("Log:Handle") as shim:
            for code, levels in ((0, [0, 1, 2, 3]), (3 << 12, [2, 3])):
                shim.send(event(4, code=code))
                found = [shim.receive() for _ in levels] + [shim.receive()]
                self.assertEqual([(one.kind, one.id) for one in found], [(LOG, 4)] * len(levels) + [(ANSWER, 4)])
                self.assertEqual([one.code for one in found[:-1]], levels)
            record = json.loads(self.records(shim)[1].body)
            self.assertEqual(record, {"number": 1, "text": "grüß"})

    def records(self, shim):
        shim.send(event(5))
        found = []
        while (one := shim.receive()).kind == LOG:
            found.append(one)
        return found

    def test_a_cancelled_event_that_has_not_begun_is_answered_as_cancelled(self):
        with Shim("More:LateTask") as shim:
            shim.send(event(1) + event(2) + frame(CANCEL, 2, code=1) + frame(CANCEL, 77, code=1))
            answers = {answer.id: answer for answer in (shim.receive(), shim.receive())}
            self.assertEqual((answers[1].code, answers[2].flags), (202, CANCELLED))
            self.assertEqual(shim.ask(frame(CANCEL, 1, code=1) + event(3)).id, 3)

    def test_a_stream_waits_for_credit_and_ends_when_it_is_cancelled(self):
        with Shim("Stream:Handle", credit="70000") as shim:
            shim.send(event(1, path="/flood"))
            head = shim.receive()
            self.assertEqual((head.flags, head.code), (MORE, 201))
            sizes = [len(shim.receive().body) for _ in range(2)]
            self.assertEqual(sum(sizes), 70000)
            self.assertEqual(shim.ask(frame(PING, 1)).kind, PONG)
            shim.send(frame(CREDIT, 1, struct.pack("<I", 10)))
            self.assertEqual(len(shim.receive().body), 10)
            aborted = shim.ask(frame(CANCEL, 1, code=1))
            self.assertEqual((aborted.kind, aborted.flags), (DATA, ABORT))
            self.assertEqual(shim.receive().head[8:], b"stream closed")
            self.assertEqual(shim.ask(event(2, path="/five")).flags, MORE)
            while (piece := shim.receive(LOG)).flags != END:
                self.assertEqual(piece.kind, DATA)

    def test_a_stream_that_is_cancelled_before_it_begins_is_answered_as_cancelled(self):
        with Shim("More:SlowStream") as shim:
            self.assertEqual(shim.ask(event(1) + frame(PING, 9)).kind, PONG)
            shim.ask(frame(PING, 10))  # Read once the event has begun.
            answer = shim.ask(frame(CANCEL, 1, code=1))
            self.assertEqual((answer.kind, answer.id, answer.flags), (ANSWER, 1, CANCELLED))
            self.assertEqual(shim.ask(event(2, path="/once")).flags, MORE)

    def test_several_events_only_where_the_handler_is_asynchronous_and_the_mode_asks(self):
        for handler, init, expected in (
            ("More:Meet", {"max_inflight_for": "any"}, "8"),
            ("More:Meet", {"max_inflight_for": "async"}, "1"),
            ("Echo:Handle", {"max_inflight_for": "any"}, "1"),
        ):
            with Shim(handler, max_inflight="8", **init) as shim:
                self.assertEqual(shim.first.head.split(b"\0")[3].decode(), expected)

    def test_an_event_past_its_deadline_is_given_up_at_once_where_there_are_others(self):
        with Shim("More:Meet", max_inflight="2", max_inflight_for="any") as shim:
            self.assertEqual(shim.ask(event(1, path="/hang") + frame(PING, 9)).kind, PONG)
            shim.ask(frame(PING, 10))  # Read once the event has begun.
            answer = shim.ask(frame(CANCEL, 1, code=2))
            self.assertEqual((answer.id, answer.flags), (1, CANCELLED))
            self.assertEqual(shim.receive().head[8:], b"told /hang")

    def test_control_runs_the_callback_and_answers(self):
        with Shim("More:Stops") as shim:
            self.assertEqual(shim.ask(frame(CONTROL, 8, struct.pack("<I", 1000), code=1)).kind, CONTROL_DONE)
            shim.ask(event(1))
            shim.send(frame(CONTROL, 9, struct.pack("<I", 1000), code=3))
            record, done = shim.receive(), shim.receive()
            self.assertEqual((record.kind, record.id, record.head[8:]), (LOG, 0, b"terminated"))
            self.assertEqual((done.kind, done.id, done.code), (CONTROL_DONE, 9, 0))
            self.assertEqual(shim.end(), 0)

    def test_end_of_file_ends_it_with_an_event_in_work(self):
        with Shim("More:Meet") as shim:
            shim.send(event(1, path="/hang"))
            self.assertEqual(shim.end(), 0)

    def test_sigterm_ends_it_after_the_event_and_sigint_does_not(self):
        with Shim("More:Stops") as shim:
            shim.process.send_signal(signal.SIGINT)
            shim.send(event(1))
            self.assertEqual(shim.receive().head[8:], b"holding")
            shim.process.send_signal(signal.SIGTERM)
            self.assertEqual(shim.receive().body, b"finished")
            self.assertEqual(shim.process.wait(WITHIN), 0)

    def test_what_cannot_be_loaded_is_said(self):
        for handler, code, text in (
            ("Absent:Handle", 1, b'no class "Absent"'),
            ("Constructed:Handle", 1, b"in the constructor"),
            ("InitFails:Handle", 2, b"in InitContext"),
        ):
            with Shim(handler) as shim:
                self.assertEqual((shim.first.kind, shim.first.code), (FAILED, code))
                self.assertIn(text, shim.first.body)
                self.assertEqual(shim.process.wait(WITHIN), 1)


class Lines(unittest.TestCase):
    """Protocol 1, as the Go processor starts it: `dotnet wrapper.dll <socket>`."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def start(self, handler):
        path = f"{self.folder.name}/socket"
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(path)
        listener.listen()
        listener.settimeout(WITHIN)
        environment = dict(os.environ, NUCLIO_FUNCTION_HANDLER=handler, NUCLIO_HANDLER_DIR=f"{built.name}/handler")
        process = subprocess.Popen(
            ["dotnet", f"{built.name}/wrapper/wrapper.dll", path], env=environment, stderr=subprocess.PIPE
        )
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        connection, _ = listener.accept()
        self.addCleanup(connection.close)
        connection.settimeout(WITHIN)
        lines = connection.makefile("rb")
        self.addCleanup(lines.close)
        return process, connection, lines

    def line(self, **more):
        event = {"body": "", "content_type": "text/plain", "fields": {}, "headers": {}, "id": "e", "method": "POST"}
        event |= {"path": "/", "size": 0, "timestamp": 1735689600, "trigger": {"kind": "http", "name": "t"}, "url": ""}
        return json.dumps(event | more).encode() + b"\n"

    def test_answers_follow_their_durations(self):
        process, connection, lines = self.start("Echo:Handle")
        self.assertEqual(lines.readline(), b"s\n")
        for body in (b"", b"\0\xff", b"large" * 100000):
            connection.sendall(self.line(body=base64.b64encode(body).decode()))
            metric, answer = lines.readline(), lines.readline()
            self.assertGreaterEqual(json.loads(metric[1:])["duration"], 0)
            answer = json.loads(answer[1:])
            self.assertEqual((metric[:1], answer["status_code"], answer["body_encoding"]), (b"m", 200, "base64"))
            self.assertEqual(base64.b64decode(answer["body"]), body)
        connection.shutdown(socket.SHUT_WR)
        self.assertEqual(process.wait(WITHIN), 0)

    def test_two_events_in_one_write_and_one_that_is_no_event(self):
        _, connection, lines = self.start("More:Gray")
        lines.readline()
        connection.sendall(self.line(body="YQ==") + b"{]\n" + self.line(body="Yg=="))
        found = [lines.readline() for _ in range(7)]
        answers = [json.loads(line[1:]) for line in found if line[:1] == b"r"]
        self.assertEqual([answer["status_code"] for answer in answers], [200, 500, 200])
        self.assertEqual((answers[0]["body"], answers[2]["body"]), ("a", "b"))

    def test_records_streams_and_repeated_headers(self):
        _, connection, lines = self.start("Stream:Handle")
        lines.readline()
        connection.sendall(self.line(path="/five"))
        record, _, answer = (json.loads(lines.readline()[1:]) for _ in range(3))
        self.assertEqual((record["level"], record["message"], record["with"]), ("warning", "stream closed", {}))
        self.assertEqual((answer["status_code"], answer["headers"]), (201, {"X-Kind": "pieces"}))
        self.assertEqual(base64.b64decode(answer["body"]), b"0\n1\n2\n3\n4\n")

    def test_the_data_of_a_structured_cloud_event_is_its_json(self):
        _, connection, lines = self.start("Echo:Handle")
        lines.readline()
        connection.sendall(self.line(body={"a": [1, "é"]}))
        lines.readline()
        answer = json.loads(lines.readline()[1:])
        self.assertEqual(json.loads(base64.b64decode(answer["body"])), {"a": [1, "é"]})

    def test_what_cannot_be_loaded_is_said(self):
        process, _, lines = self.start("Absent:Handle")
        self.assertIn(b'no class \\"Absent\\"', lines.readline())
        self.assertEqual(process.wait(WITHIN), 1)

    def test_without_variables_and_arguments_it_says_what_it_wants(self):
        done = subprocess.run(["dotnet", f"{built.name}/wrapper/wrapper.dll"], capture_output=True, timeout=WITHIN)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"NUCLIO_SHIM_FD", done.stderr)


if __name__ == "__main__":
    unittest.main()
