"""The harness' questions to a WSGI application, without a framework."""

import time

import work

PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def app(environ, start_response):
    path, body = environ["PATH_INFO"], b"hello"
    if path == "/stream":
        start_response("200 OK", [PLAIN])
        return work.pieces()
    if path in ("/echo", "/detect"):
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    if path == "/detect":
        body = work.detect(body).encode()
    elif path == "/cpu":
        work.burn(0.0001)
    elif path == "/sleep":
        time.sleep(0.01)
    start_response("200 OK", [PLAIN, ("Content-Length", str(len(body)))])
    return [body]
