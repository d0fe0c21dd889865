"""The harness' questions to an ASGI application, without a framework."""

import asyncio

import work

PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    path, body = scope["path"], b"hello"
    if path in ("/echo", "/detect"):
        body = await whole(receive)
    if path == "/detect":
        body = work.detect(body).encode()
    elif path == "/cpu":
        work.burn(0.0001)
    elif path == "/sleep":
        await asyncio.sleep(0.01)
    elif path == "/fanout":
        for _ in range(4):
            await asyncio.sleep(0.005)
    if path == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": PLAIN})
        for piece in work.pieces():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        return await send({"type": "http.response.body", "body": b""})
    headers = PLAIN + [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def lifespan(receive, send):
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def whole(receive):
    pieces, more = [], True
    while more:
        message = await receive()
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(pieces)
