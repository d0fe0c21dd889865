"""A wrapper of shim protocol 1 that does what a request asks for: the right thing, or a wrong one."""
import json
import os
import signal
import socket
import sys
import time

ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2]))
MODE = os.environ.get("WRAPPER_START", "")


class Reader:
    """As much of msgpack as events need."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, count, signed=False):
        return int.from_bytes(self.take(count), "big", signed=signed)

    def value(self):
        head = self.number(1)
        if head < 0x80:
            return head
        if head < 0x90:
            return self.map(head & 0x0F)
        if head < 0xA0:
            return [self.value() for _ in range(head & 0x0F)]
        if head < 0xC0:
            return self.take(head & 0x1F).decode("utf-8", "replace")
        if head >= 0xE0:
            return head - 0x100
        if head in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[head]
        if head in (0xC4, 0xC5, 0xC6):
            return self.take(self.number(1 << (head - 0xC4)))
        if head in (0xCC, 0xCD, 0xCE, 0xCF):
            return self.number(1 << (head - 0xCC))
        if head in (0xD0, 0xD1, 0xD2, 0xD3):
            return self.number(1 << (head - 0xD0), signed=True)
        if head in (0xD9, 0xDA, 0xDB):
            return self.take(self.number(1 << (head - 0xD9))).decode("utf-8", "replace")
        if head in (0xDC, 0xDD):
            return [self.value() for _ in range(self.number(2 << (head - 0xDC)))]
        if head in (0xDE, 0xDF):
            return self.map(self.number(2 << (head - 0xDE)))
        raise ValueError("head %#x" % head)

    def map(self, count):
        return {self.value(): self.value() for _ in range(count)}


def connect(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(path)
    return connection


def receive(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return None
        data += piece
    return data


def answer(body, status=200, **more):
    members = {"body": body, "content_type": "text/plain", "headers": {}, "status_code": status, "body_encoding": "text"}
    members.update(more)
    return "r" + json.dumps(members)


def log(message, level="info"):
    return "l" + json.dumps({"datetime": "2025-01-01 00:00:00,000", "level": level, "message": message, "with": {}})


def send(connection, *lines):
    connection.sendall("".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))


def forever(connection, piece):
    while True:
        connection.sendall(piece)


def handle(connection, control, event):
    path, body = event["path"], event["body"] or b""
    word = path.strip("/").split("/")
    if word[0] == "exit":
        os._exit(int(word[1]))
    elif word[0] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word[0] == "raw":
        connection.sendall(body)
    elif word[0] == "half":
        connection.sendall(b'r{"body": "ha')
        os._exit(0)
    elif word[0] == "endless":
        forever(connection, word[1].encode() + b"x" * 65535)
    elif word[0] == "slowly":
        for byte in (answer("slow") + "\n").encode():
            connection.sendall(bytes([byte]))
    elif word[0] == "late":
        time.sleep(float(word[1]))
        send(connection, answer("late"))
    elif word[0] == "again":
        send(connection, answer("first"))
        time.sleep(0.05)
        send(connection, answer("second"))
    elif word[0] == "logs":
        send(connection, *[log("record %d" % number, "warning") for number in range(int(word[1]))])
        send(connection, answer("logged"))
    elif word[0] == "control":
        send(control, json.dumps({"kind": "log", "attributes": {"level": "info", "message": "by control"}}))
        send(control, "no json", '{"kind": "streamMessageAck", "attributes": {}}', '{"kind": "unheard of"}')
        send(connection, answer("controlled"))
    elif word[0] == "close":
        {"event": connection, "control": control}[word[1]].shutdown(socket.SHUT_RDWR)
        time.sleep(60)
    elif word[0] == "stream":
        status = int(word[1]) if len(word) > 1 else 200
        send(connection, "c" + answer("", status, content_type="text/x-stream")[1:])
        piece = "b" + "eHh4" * 16384
        while True:
            send(connection, piece)
    elif word[0] == "arguments":
        send(connection, 'm{"duration": 0.001}', answer(json.dumps(sys.argv[1:])))
    elif word[0] == "event":
        event["body"] = body.decode("latin-1")
        send(connection, answer(json.dumps(event)))
    else:
        send(connection, 'm{"duration": 0.001}', answer(body.decode("latin-1")))


def handle_batch(connection, events):
    word = events[0]["path"].strip("/")
    answers = [json.loads(answer(event["body"].decode(), event_id=event["id"])[1:]) for event in events]
    if word == "raises":
        send(connection, "r" + json.dumps({"body": "it raised", "body_encoding": "text", "status_code": 500}))
    elif word == "partly":
        nobody = dict(answers[0], event_id="nobody")
        del answers[1]["event_id"]
        send(connection, 'm{"duration": 0.001}', "r" + json.dumps([nobody] + answers))
    elif word == "garbage":
        send(connection, "r[")
    elif word == "streams":
        send(connection, "c" + answer("one ")[1:], "bdHdvIA==", "e", 'm{"duration": 0.001}')
    elif word == "exits":
        os._exit(3)
    elif word == "hangs":
        time.sleep(30)
    else:
        send(connection, 'm{"duration": 0.001}', "r" + json.dumps(answers[::-1]))


def serve(connection, control):
    while True:
        length = receive(connection, 4)
        if length is None:
            return
        event = Reader(receive(connection, int.from_bytes(length, "big"))).value()
        if isinstance(event, list):
            assert all(len(one) == 19 for one in event), event
            handle_batch(connection, event)
        else:
            assert len(event) == 19, event
            handle(connection, control, event)


def main():
    if MODE.startswith("exit-first-"):
        sys.exit(int(MODE[11:]))
    if MODE == "deaf":
        time.sleep(600)
    connection = connect(ARGUMENTS["--event-socket-path"])
    if MODE.startswith("exit-connected-"):
        sys.exit(int(MODE[15:]))
    control = connect(ARGUMENTS["--control-socket-path"])

    def terminate(*_):
        send(connection, log("Calling platform termination handler", "debug"))
        time.sleep(float(os.environ.get("WRAPPER_CALLBACK_SECONDS", "0")))
        print("the callback has ended", file=sys.stderr)

    def drain(*_):
        send(connection, log("Calling platform drain handler", "debug"))
        if os.environ.get("WRAPPER_DRAIN") == "silent":
            return
        send(control, '{"kind": "drain", "attributes": {"workerId": "0"}}')

    signal.signal(signal.SIGUSR1, terminate)
    signal.signal(signal.SIGUSR2, drain)
    signal.signal(signal.SIGCONT, lambda *_: send(connection, log("continued")))
    if MODE == "silent":
        time.sleep(600)
    elif MODE == "garbage":
        connection.sendall(b"\x16\x03\x01\x02\x00")
        time.sleep(600)
    elif MODE == "version-2":
        connection.sendall(b"NSH2" + bytes(16))
        time.sleep(600)
    elif MODE == "answers":
        send(connection, answer("to nobody"))
        time.sleep(600)
    elif MODE == "controls":
        send(control, '{"kind": "wrapperInitialized", "attributes": {"ready": "true"}}')
    elif MODE == "surplus" and not os.path.exists(__file__ + ".once"):
        open(__file__ + ".once", "w").close()
        send(connection, "s", answer("to nobody"))
    else:
        send(connection, log("before the start", "warning"), "s")
        send(control, '{"kind": "wrapperInitialized", "attributes": {"ready": "true"}}')
    serve(connection, control)


if __name__ == "__main__":
    main()
