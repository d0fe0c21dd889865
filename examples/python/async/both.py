"""An `async def` handler is awaited: two slow things take as long as one."""

import asyncio


async def handler(context, event):
    first, second = await asyncio.gather(fetch("first", 0.1), fetch("second", 0.1))
    return {"answers": [first, second]}


async def fetch(name, seconds):
    await asyncio.sleep(seconds)
    return name
