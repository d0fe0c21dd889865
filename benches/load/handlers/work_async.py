"""The same as coroutines."""

import asyncio

import work


async def empty(context, event):
    return "hello"


async def handler(context, event):
    if event.path == "/fanout":
        for _ in range(4):
            await asyncio.sleep(0.005)
        return "hello"
    if event.path == "/sleep":
        await asyncio.sleep(0.01)
        return "hello"
    return work.handler(context, event)
