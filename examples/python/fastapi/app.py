"""A FastAPI service as it stands: nothing in it knows that it runs as a function."""

import asyncio
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Item(BaseModel):
    name: str
    price: float


@asynccontextmanager
async def lifespan(app):
    app.state.items = {}  # Connections of a real service are opened here, and closed behind the yield.
    yield
    app.state.items.clear()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def hello():
    return {"hello": "world"}


@app.put("/items/{key}", status_code=201)
async def put(key: str, item: Item, tasks: BackgroundTasks):
    tasks.add_task(app.state.items.__setitem__, key, item)
    return item


@app.get("/items/{key}")
def get(key: str):
    if key not in app.state.items:
        raise HTTPException(404, "no such item")
    return app.state.items[key]


@app.get("/ticks")
async def ticks(count: int = 3):
    async def events():
        for number in range(count):
            yield "data: %d\n\n" % number
            await asyncio.sleep(0.1)

    return StreamingResponse(events(), media_type="text/event-stream")
