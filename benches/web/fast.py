"""The FastAPI side of `measure.py`."""

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/json")
async def hello(name: str = "world"):
    return {"hello": name, "items": [1, 2, 3]}


@app.get("/stream")
async def stream():
    async def pieces():
        for number in range(32):
            yield b"%01023d\n" % number

    return StreamingResponse(pieces(), media_type="text/plain")
