"""Handlers that are right: mypy --strict and pyright (strict) have nothing to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuclio_handler import (
        Batch, BatchHandler, Body, Context, Event, Handler, InitContext, Response, Result, StreamEvent, TriggerInfo,
    )
    from nuclio_handler.plugin import Nuclio, Serve

    class OwnContext(Context):
        """What the function adds, declared."""

        model: str
        user_data: Bag


class Bag:
    count: int = 0


def init_context(context: OwnContext) -> None:
    context.model = "m"
    context.user_data.count = 1
    context.platform.set_termination_callback(lambda: context.logger.info("end"))


def attributes(context: Context, event: Event) -> Response:
    trigger: TriggerInfo = event.trigger
    body: Body = event.body
    texts: list[str] = [event.id, event.method, event.path, event.url, event.content_type, event.type, event.version,
                        event.type_version, event.topic, trigger.kind, trigger.name, event.timestamp.isoformat()]
    numbers: list[int] = [event.size, event.shard_id, event.num_shards, event.offset]
    texts += [event.headers.get("X", ""), event.fields["a"], event.get_header("x") or "", *event.get_header_values("x")]
    pairs: list[tuple[str, str]] = event.header_pairs
    context.logger.info("%s %d", "a", 1)
    context.logger.info_with("all", texts=texts, numbers=numbers, pairs=pairs, worker=context.worker_id,
                             trigger=context.trigger.kind, name=context.trigger_name, kind=context.platform.kind)
    if isinstance(body, dict):
        return context.Response(body=body, status_code=201)
    if isinstance(body, bytes):
        return context.Response(body=body.decode(), headers={"Set-Cookie": ["a=1"]}, content_type="text/plain")
    answer = context.platform.call_function("other", event, timeout=3)
    answer.body = b"changed"
    event.body = None
    return answer


def own(context: OwnContext, event: Event) -> str:
    return context.model * context.user_data.count


def text(context: Context, event: Event) -> str:
    return event.path


def pair(context: Context, event: Event) -> tuple[int, str]:
    return 404, "no"


def anything(context: Context, event: Event) -> Result:
    return {"a": [1]} if event.method == "GET" else None


def pieces(context: Context, event: Event) -> Generator[str, None, None]:
    yield "a"


async def later(context: Context, event: Event) -> dict[str, Any]:
    await asyncio.sleep(0)
    await context.platform.explicit_ack(await offset(event))
    return {}


async def offset(event: Event) -> Any:
    return event.compile_explicit_ack_message()


async def events(context: Context, event: Event) -> Response:
    async def ticks() -> AsyncGenerator[bytes, None]:
        yield b"tick"

    return context.Response(body=ticks(), content_type="text/event-stream")


def upload(context: Context, event: StreamEvent) -> str:
    return str(sum(len(piece) for piece in event.body) + len(event.body.read(10)))


def batch(context: Context, events: Batch) -> list[Response]:
    return [context.Response(body=event.path, event_id=event.id) for event in events]


if TYPE_CHECKING:
    handlers: list[Handler] = [attributes, text, pair, anything, pieces, later, events]
    batches: BatchHandler = batch

    def start(context: Context) -> None: ...

    started: InitContext = start


def test_it(nuclio: Nuclio, processor: Serve) -> None:
    call = nuclio.handler("main.py:handler")
    answer = call(b"x", path="/", headers={"a": "b"}, trigger=("cron", "c"))
    status: int = answer.status
    assert status == 200 and answer.json() and answer.headers["a"] and answer.logs.messages and call.batch([b"a"])[0].ok
    served = processor("main.py:handler", workers=2)
    assert served.get("/").ok and served.metric("x") == 0 and served.logs.find("x")[0].fields
