"""The declared types are those of what a handler really gets: compared in both directions, here and under a processor."""

import importlib.util

import pytest

REQUESTS = [
    {"method": "GET", "path": "/"},
    {"method": "GET", "path": "/a%20b//c/../d?x=1&x=2&y=%20z+q&k"},
    {"method": "DELETE", "path": "/x"},
    {"method": "POST", "path": "/"},
    {"method": "POST", "body": b"\x00\xff"},
    {"method": "POST", "json": {"a": [1, 2.5, None, "x"]}},
    {"method": "PUT", "json": [1, 2]},
    {"method": "POST", "json": "text"},
    {"method": "POST", "body": "{broken", "headers": {"content-type": "application/json"}},
    {"method": "POST", "body": '{"a": 1}', "headers": {"content-type": "application/json; charset=utf-8"}},
    {"method": "POST", "body": "x=1&y=2", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
    {"method": "GET", "headers": {"x-foo-BAR": ["1", "2"], "X_Under": "3"}},
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_here(nuclio, request_):
    call = nuclio.handler("probe.py:handler", fresh=True)
    assert call(**request_).raise_for_error().json()["found"] == []


@pytest.mark.parametrize("event", [
    {"trigger": "cron"}, {"trigger": ("kafka-cluster", "k"), "topic": "t", "offset": 7, "shard_id": 3, "body": b"x"},
    {"id": "5", "type": "t", "type_version": "1", "version": "1.0", "timestamp": 0}], ids=str)
def test_other_triggers(nuclio, event):
    assert nuclio.handler("probe.py:handler")(**event).raise_for_error().json()["found"] == []


def test_streamed_bodies(nuclio):
    call = nuclio.handler("probe.py:stream")
    assert call(pieces=[b"ab", b"cde"]).raise_for_error().json() == {"found": [], "read": 5}
    assert call(b"abc").raise_for_error().json() == {"found": [], "read": 3}


@pytest.mark.skipif(importlib.util.find_spec("nuclio_sdk") is None, reason="nuclio-sdk is not installed")
def test_with_the_published_sdk(nuclio):
    """Its classes are bases of the shim's then, and `Response` is its own."""
    assert nuclio.processor("probe.py:handler", env={"PROBE_SDK": "1"}).get("/").json()["found"] == []


def test_under_a_processor(nuclio):
    """The same events there and here: what this package makes of a request is what the processor makes of it."""
    processor = nuclio.processor("probe.py:handler", spec={"triggers": {"once": {"kind": "kickstart"}}})
    call = nuclio.handler("probe.py:handler")
    record = processor.wait_for_log("probed")
    assert record.fields["found"] in ([], "[]"), record
    for request in REQUESTS:
        options = dict(request)
        method, path = options.pop("method"), options.pop("path", "/")
        there = processor.request(method, path, **options).json()
        here = call(method=method, path=path, **options).json()
        assert there["found"] == [] and here["found"] == []
        assert there["headers"].pop("Host") != here["headers"].pop("Host")
        there["headers"].pop("Accept-Encoding", None)
        assert there == here, request


def test_streamed_bodies_under_a_processor(nuclio):
    processor = nuclio.processor("probe.py:stream")
    assert processor.post("/", b"x" * 200_000).json() == {"found": [], "read": 200_000}
