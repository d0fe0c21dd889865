"""A wrapper of shim protocol 1 with the habits of the one for .NET: what comes before it is ready is lost, so is what
follows a line end in the same read; its notice has no letter and no line end; it never ends by itself."""
import base64
import json
import os
import socket
import sys
import time

connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(sys.argv[1])
time.sleep(0.3)
connection.setblocking(False)
try:
    sys.stderr.write("lost %d bytes\n" % len(connection.recv(1 << 20)))
except BlockingIOError:
    pass
connection.setblocking(True)
connection.sendall(b"{ 'kind': 'wrapperInitialized', 'attributes': {'ready': 'true'}")
pieces = []
while True:
    data = connection.recv(1024)
    if not data:
        time.sleep(0.01)
        continue
    pieces.append(data.decode("ascii").split("\n")[0])
    if b"\n" not in data:
        continue
    event, pieces = json.loads("".join(pieces)), []
    body = "%s %d" % (event["path"], len(base64.b64decode(event["body"])))
    if event["path"] == "/handler":
        body = os.environ["NUCLIO_FUNCTION_HANDLER"]
    connection.sendall(b'm{"duration": 0.001}\n')
    connection.sendall(b"r" + json.dumps({"body": body, "body_encoding": "text", "status_code": 200}).encode() + b"\n")
