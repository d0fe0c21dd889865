"""`call` runs the handler in this process, `processor` starts the real thing."""

import pytest


@pytest.fixture
def call(nuclio):
    return nuclio.handler("orders.py:handler")


def test_price(call):
    answer = call(json={"item": "cup"}, path="/?count=2")
    assert answer.status == 200
    assert answer.json() == {"item": "cup", "price": 6}


def test_unknown_item(call):
    answer = call(json={"item": "car"})
    assert answer.status == 404
    assert answer.logs.find("No such item", "warn")[0].fields["item"] == "car"


def test_text_is_refused(call):
    assert call("cup").status == 400


def test_what_init_context_makes_can_be_replaced(call):
    call.context.user_data.prices = {"car": 9}
    assert call(json={"item": "car"}).json()["price"] == 9


def test_served(processor):
    served = processor("orders.py:handler", workers=2)
    assert served.post("/?count=3", json={"item": "pot"}).json()["price"] == 36
    assert served.post("/", json={"item": "car"}).status == 404
    assert served.wait_for_log("No such item").fields["item"] == "car"
    assert served.metric("nuclio_processor_handled_events_total", result="success") == 2
