"""A handler whose types a checker knows, and that is tested without a processor and with one: see README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # The image needs no package.
    from nuclio_handler import Context, Event, Response


def init_context(context: Context) -> None:
    context.user_data.prices = {"cup": 3, "pot": 12}


def handler(context: Context, event: Event) -> Response:
    if not isinstance(event.body, dict) or "item" not in event.body:
        return context.Response(body='send JSON like {"item": "cup"}', status_code=400)
    item = event.body["item"]
    price = context.user_data.prices.get(item)
    if price is None:
        context.logger.warn_with("No such item", item=item)
        return context.Response(body={"error": "no such item"}, status_code=404)
    return context.Response(body={"item": item, "price": price * int(event.fields.get("count", "1"))})
