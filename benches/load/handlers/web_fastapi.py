"""The harness' questions to a FastAPI application."""

import asyncio

import work
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
async def hello():
    return "hello"


@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body())


@app.get("/cpu", response_class=PlainTextResponse)
async def cpu():
    work.burn(0.0001)
    return "hello"


@app.get("/sleep", response_class=PlainTextResponse)
async def sleep():
    await asyncio.sleep(0.01)
    return "hello"


@app.get("/fanout", response_class=PlainTextResponse)
async def fanout():
    for _ in range(4):
        await asyncio.sleep(0.005)
    return "hello"


@app.get("/stream")
async def stream():
    async def pieces():
        for piece in work.pieces():
            yield piece

    return StreamingResponse(pieces(), media_type="text/plain")


@app.post("/detect")
async def detect(request: Request):
    return Response(work.detect(await request.body()))
