"""Handlers that are wrong: each line marked as such is found by mypy --strict and by pyright, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nuclio_handler import Context, Event, Handler, Response, StreamEvent


def attributes(context: Context, event: Event) -> Response:
    context.logger.information("x")  # wrong
    context.loger.info("x")  # wrong
    event.boddy  # wrong
    event.body.decode()  # wrong
    event.headers[3]  # wrong
    event.header_pairs = []  # wrong
    context.own = 3  # wrong
    context.logger.info("x", level=3)  # wrong
    return context.Response(bdoy="x")  # wrong


def status(context: Context, event: Event) -> Response:
    return context.Response(status_code="200")  # wrong


def body(context: Context, event: Event) -> Response:
    return context.Response(body=[1, 2])  # wrong


def answer(context: Context, event: Event) -> Response:
    return "text"  # wrong


def upload(context: Context, event: StreamEvent) -> int:
    return event.size  # wrong


def reversed_pair(context: Context, event: Event) -> tuple[str, int]:
    return "no", 404


def one(context: Context) -> str:
    return ""


def unordered(context: Context, event: Event) -> set[str]:
    return set()


async def later(context: Context, event: Event) -> Any:
    context.platform.explicit_ack("offset")  # wrong
    return await event.get_header("x")  # wrong


if TYPE_CHECKING:
    first: Handler = reversed_pair  # wrong
    second: Handler = one  # wrong
    third: Handler = unordered  # wrong
