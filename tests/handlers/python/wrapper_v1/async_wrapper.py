"""An async wrapper of shim protocol 1: it listens, and serves any number of connections at once."""
import json
import signal
import socket
import threading
import time

from wrapper import ARGUMENTS, Reader, answer, connect, handle, log, receive, send

CONTROL = connect(ARGUMENTS["--control-socket-path"])
STATE = {"connections": 0, "terminating": False}


def say(message, level="debug"):
    attributes = json.loads(log(message, level)[1:])
    send(CONTROL, json.dumps({"kind": "log", "attributes": attributes}))


def chatter():
    while True:
        say("still here")
        time.sleep(0.004)


def serve(connection):
    send(connection, "s")
    while True:
        length = receive(connection, 4)
        if length is None:
            break
        event = Reader(receive(connection, int.from_bytes(length, "big"))).value()
        if event["path"] == "/connections":
            send(connection, answer(str(STATE["connections"])))
        elif event["path"] == "/chatter":
            threading.Thread(target=chatter, daemon=True).start()
            send(connection, answer("chatters"))
        elif event["path"] == "/close":
            connection.shutdown(socket.SHUT_RDWR)
            return
        else:
            handle(connection, CONTROL, event)
    if STATE["terminating"]:
        STATE["terminating"] = False
        say("Calling platform termination handler")
        time.sleep(0.3)
        print("the callback has ended", flush=True)
    # The connection stays open: the known wrapper forgets a file of it.
    say("Connection %d removed from tracking" % connection.fileno(), "info")
    time.sleep(600)


def terminate(*_):
    STATE["terminating"] = True
    say("Received signal")


def main():
    signal.signal(signal.SIGUSR1, terminate)
    host, port = ARGUMENTS["--event-socket-path"].split(":")
    assert host == "127.0.0.1"
    send(CONTROL, '{"kind": "wrapperInitialized", "attributes": {"ready": "true"}}')
    time.sleep(0.1)  # Dials are refused until then.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(100)
    while True:
        connection, _ = listener.accept()
        STATE["connections"] += 1
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


main()
