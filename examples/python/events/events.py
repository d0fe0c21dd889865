"""Server-sent events: `curl -N`, or `new EventSource(…)` in a browser. Many clients at once on one worker."""

import asyncio


async def handler(context, event):
    headers = {"Cache-Control": "no-cache"}
    return context.Response(body=ticks(context), content_type="text/event-stream", headers=headers)


async def ticks(context):
    number = 0
    try:
        while True:
            number += 1
            yield "id: %d\ndata: tick %d\n\n" % (number, number)
            await asyncio.sleep(0.1)
    finally:  # The client has left.
        context.logger.info_with("Closed", ticks=number)
