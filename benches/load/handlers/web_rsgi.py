"""The harness' questions over granian's own interface."""

import asyncio

import work

PLAIN = [("content-type", "text/plain; charset=utf-8")]


async def app(scope, protocol):
    path = scope.path
    if path == "/stream":
        stream = protocol.response_stream(200, PLAIN)
        for piece in work.pieces():
            await stream.send_bytes(piece)
        return
    if path in ("/echo", "/detect"):
        body = await protocol()
        return protocol.response_bytes(200, PLAIN, body if path == "/echo" else work.detect(body).encode())
    if path == "/cpu":
        work.burn(0.0001)
    elif path == "/sleep":
        await asyncio.sleep(0.01)
    elif path == "/fanout":
        for _ in range(4):
            await asyncio.sleep(0.005)
    protocol.response_str(200, PLAIN, "hello")
