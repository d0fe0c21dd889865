"""Handlers called in the process of their tests."""

import asyncio
import importlib
import sys

import pytest

from nuclio_handler.events import canonical, clean
from nuclio_handler.loading import HandlerError
from nuclio_handler.worker import Worker

RETURNS = '''
class Odd:
    def __str__(self):
        return "odd"


def handler(context, event):
    r = context.Response
    return {
        "str": "text", "bytes": b"\\x00\\xff", "dict": {"a": [1, float("nan")]}, "none": None, "int": 7, "odd": Odd(),
        "tuple": (201, "made"), "tuple_dict": (202, {"a": 1}), "list": [r(body="first"), r(body="second")],
        "empty_list": [], "response": r(body="r", status_code=418, headers={"X-A": ["1", "2"]}, content_type="text/csv"),
        "response_dict": r(body={"a": 1}), "type_in_headers": r(body="x", headers={"content-type": "text/csv"}),
        "no_type": r(body="x", headers={"content-type": "text/csv"}, content_type="text/plain"),
        "generator": (piece for piece in ("a", b"b", "c")), "bad_status": (True, "x"), "bad_code": (42, "x"),
    }[event.fields["what"]]
'''
EXPECTED = {
    "str": (200, "text/plain", b"text"), "bytes": (200, "text/plain", b"\x00\xff"),
    "dict": (200, "application/json", b'{"a": [1, "NaN"]}'), "none": (200, "text/plain", b"None"),
    "int": (200, "text/plain", b"7"), "odd": (200, "text/plain", b"odd"), "tuple": (201, "text/plain", b"made"),
    "tuple_dict": (202, "application/json", b'{"a": 1}'), "list": (200, "text/plain", b"first"),
    "response": (418, "text/csv", b"r"), "response_dict": (200, "application/json", b'{"a": 1}'),
    "type_in_headers": (200, "text/plain", b"x"), "no_type": (200, "text/plain", b"x"),
    "generator": (200, "text/plain", b"abc"),
}


@pytest.mark.parametrize("what", EXPECTED)
def test_what_is_returned(nuclio, source, what):
    answer = nuclio.handler(source(RETURNS), fresh=True)(path="/?what=" + what)
    assert (answer.status, answer.content_type, answer.body) == EXPECTED[what]
    assert answer.exception is None and answer.ok == (answer.status < 400)


@pytest.mark.parametrize("what", ["empty_list", "bad_status", "bad_code"])
def test_what_cannot_be_returned(nuclio, source, what):
    answer = nuclio.handler(source(RETURNS), fresh=True)(path="/?what=" + what)
    assert answer.status == 500 and b"handler returned" in answer.body
    with pytest.raises(Exception, match="handler returned"):
        answer.raise_for_error()


def test_all_this_is_what_a_processor_answers(nuclio, source):
    """The same table, served: only names of the server's own headers differ."""
    name = source(RETURNS)
    processor, call = nuclio.processor(name), nuclio.handler(name, fresh=True)
    for what in [*EXPECTED, "empty_list", "bad_status", "bad_code"]:
        there, here = processor.get("/?what=" + what), call(path="/?what=" + what)
        assert (there.status, there.content_type, there.body) == (here.status, here.content_type, here.body), what
        assert there.headers.all("X-A") == here.headers.all("x-a")


def test_init_context_runs_once(nuclio, source):
    call = nuclio.handler(source('''
def init_context(context):
    context.logger.info("init")
    context.user_data.count = 0

def handler(context, event):
    context.user_data.count += 1
    return str(context.user_data.count)
'''))
    assert [call().text, call().text] == ["1", "2"]
    assert call.logs.messages.count("init") == 1
    call.context.user_data.count = 40
    assert call().text == "41"


def test_async_init_context_loop_and_tasks_live_on(nuclio, source):
    call = nuclio.handler(source('''
import asyncio

async def init_context(context):
    context.user_data.lock = asyncio.Lock()
    context.user_data.queue = asyncio.Queue()
    context.user_data.task = asyncio.ensure_future(work(context))

async def work(context):
    while True:
        future, value = await context.user_data.queue.get()
        future.set_result(value * 2)

async def handler(context, event):
    async with context.user_data.lock:
        future = asyncio.get_running_loop().create_future()
        await context.user_data.queue.put((future, event.text if hasattr(event, "text") else event.body))
        return await future
'''))
    assert call(b"ab").raise_for_error().body == b"abab"
    assert call(b"c").body == b"cc"


def test_logs(nuclio, source):
    call = nuclio.handler(source('''
def handler(context, event):
    context.logger.debug("seen by some")
    context.logger.info_with("visit %s", event.path, size=event.size)
    context.logger.bind(tenant=3)
    context.logger.warn("odd")
    return ""
'''))
    answer = call(b"abc", path="/p")
    assert answer.logs.messages == ["seen by some", "visit /p", "odd"]
    record = answer.logs.find("visit")[0]
    assert record.level == "info" and record.fields["size"] == 3
    assert answer.logs.find("odd", "warn")[0].fields["tenant"] == 3
    assert call(log_level="warn").logs.messages == ["odd"]
    assert len(call.logs) == 4


def test_what_is_raised(nuclio, source):
    call = nuclio.handler(source('''
def helper():
    raise KeyError("missing")

def handler(context, event):
    if event.path == "/exit":
        raise SystemExit(3)
    helper()
'''))
    answer = call()
    assert answer.status == 500 and 'Exception caught in handler - "\'missing\'"' in answer.text
    assert isinstance(answer.exception, KeyError) and "helper" in answer.logs.find("Exception caught")[0].fields["traceback"]
    assert "worker.py" not in answer.text and "_nuclio_wrapper" not in answer.text
    with pytest.raises(KeyError):
        answer.raise_for_error()
    assert isinstance(call(path="/exit").exception, SystemExit)


def test_what_ends_a_test_is_no_answer(nuclio):
    def handler(context, event):
        pytest.fail("from within the handler")

    with pytest.raises(pytest.fail.Exception, match="from within"):
        nuclio.handler(handler)()

    def interrupted(context, event):
        yield "a"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nuclio.handler(interrupted)()


def test_streams(nuclio, source):
    call = nuclio.handler(source('''
async def ticks(context):
    try:
        for number in range(3):
            yield "tick %d\\n" % number
    finally:
        context.logger.info("closed")

async def handler(context, event):
    if event.path == "/broken":
        return broken()
    return context.Response(body=ticks(context), content_type="text/event-stream")

def broken():
    yield "begun"
    raise ValueError("half-way")
'''))
    answer = call()
    assert answer.content_type == "text/event-stream"
    assert answer.chunks == [b"tick 0\n", b"tick 1\n", b"tick 2\n"] and answer.logs.messages == ["closed"]
    answer = call(path="/broken")
    assert answer.status == 200 and answer.body == b"begun" and answer.aborted == "ValueError: half-way"
    assert isinstance(answer.exception, ValueError) and not answer.ok


def test_large_bodies(nuclio, source):
    call = nuclio.handler(source('def handler(context, event):\n    return event.body * 2\n'))
    body = bytes(range(256)) * 20_000
    assert call(body).body == body * 2


def test_bodies_as_they_come(nuclio, source):
    text = '''
def handler(context, event):
    return {"size": event.size, "pieces": [len(piece) for piece in event.body]}
handler.stream_body = True

async def reads(context, event):
    first = await event.body.read_async(3)
    return first + b"|" + b"".join([piece async for piece in event.body])
reads.stream_body = True
'''
    call = nuclio.handler(source(text))
    assert call(pieces=[b"ab", b"c" * 70_000]).json() == {"size": None, "pieces": [2, 70_000]}
    assert call(b"abc").json() == {"size": 3, "pieces": [3]}
    assert nuclio.handler(source(text, handler="reads"))(pieces=[b"ab", b"cd", b"e"]).body == b"abc|de"


def test_batches(nuclio, source):
    call = nuclio.handler(source('''
def handler(context, events):
    context.logger.info_with("batch", size=len(events))
    if events[0].body == b"fail":
        raise ValueError("all of them")
    return [context.Response(body=event.body * 2, event_id=event.id) for event in events if event.body != b"none"]
'''))
    answers = call.batch([b"a", {"body": b"b", "path": "/x"}, b"none"])
    assert [(one.status, one.body) for one in answers] == [(200, b"aa"), (200, b"bb"), (500, b"")]
    assert call.logs.find("batch")[0].fields["size"] == 3
    answers = call.batch([b"fail", b"x"])
    assert [one.status for one in answers] == [500, 500] and all(isinstance(one.exception, ValueError) for one in answers)


def test_several_at_once(nuclio, source):
    call = nuclio.handler(source('''
import asyncio
waiting = []

async def handler(context, event):
    context.logger.bind(who=event.body.decode())
    waiting.append(event)
    while len(waiting) < 3:
        await asyncio.sleep(0)
    context.logger.info("met")
    return event.body
'''))
    answers = call.together([b"1", b"2", b"3"])
    assert [one.body for one in answers] == [b"1", b"2", b"3"]
    assert [one.logs[0].fields["who"] for one in answers] == ["1", "2", "3"]


def test_acks_and_callbacks(nuclio, source):
    name = source('''
from nuclio_sdk import QualifiedOffset

def init_context(context):
    context.platform.set_termination_callback(lambda: context.logger.info("ended"))

async def handler(context, event):
    await context.platform.explicit_ack(QualifiedOffset.from_event(event))
    return ""
''')
    call = nuclio.handler(name)
    call(topic="t", offset=7, shard_id=2, trigger=("kafka-cluster", "k"))
    assert call.acks == [("t", 2, 7)]
    call.close()
    assert call.logs[-1].message == "ended"
    with pytest.raises(HandlerError, match="nuclio_module"):
        call()


def test_other_functions_are_called_through_the_platform(nuclio, source):
    call = nuclio.handler(source('''
from nuclio_sdk import Event

def handler(context, event):
    return context.platform.call_function("other", Event(body=b"x")).body
'''))
    call.context.platform.call_function = lambda name, event, **_: call.context.Response(body=name + event.body.decode())
    assert call().raise_for_error().text == "otherx"


def test_handlers_that_call_handlers(nuclio, source):
    inner = nuclio.handler(source("def handler(context, event):\n    context.logger.info('in')\n    return 'in'\n", "inner.py"))

    def outer(context, event):
        text = inner().text
        context.logger.info("out")
        return text + "-out"

    call = nuclio.handler(outer)
    assert call().text == "in-out"
    assert call.logs.messages == ["out"] and inner.logs.messages == ["in"]


def test_in_a_running_loop(nuclio, source):
    call = nuclio.handler(source("import asyncio\nasync def handler(context, event):\n    await asyncio.sleep(0)\n    return 'done'\n"))

    async def test():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert call().text == "done"
        assert asyncio.get_running_loop() is loop and asyncio.current_task() is task
        await asyncio.sleep(0)

    asyncio.run(test())


def test_modules_of_the_same_name_do_not_meet(nuclio, source):
    text = "import helper\ndef handler(context, event):\n    return helper.NAME\n"
    names = {}
    for folder in "ab":
        source("NAME = %r\n" % folder, folder + "/helper.py")
        names[folder] = source(text, folder + "/main.py")
    assert nuclio.handler(names["a"])().text == "a"
    assert nuclio.handler(names["b"])().text == "b"
    assert nuclio.handler(names["a"])().text == "a"


def test_the_standard_library_is_back_afterwards(nuclio, source):
    standard = importlib.import_module("code")
    call = nuclio.handler(source("def handler(context, event):\n    return 'mine'\n", "code.py"))
    assert call().text == "mine"
    call.close()
    assert sys.modules["code"] is standard and importlib.import_module("code") is standard


def test_modules_can_be_patched(nuclio, source, monkeypatch, tmp_path):
    name = source("SIZE = 1\ndef handler(context, event):\n    return str(SIZE)\n", "patched.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    call = nuclio.handler(name)
    monkeypatch.setattr("patched.SIZE", 2)
    assert call().text == "2"
    assert nuclio.handler(name)().text == "2"
    assert nuclio.handler(name, fresh=True)().text == "1"


def test_packages(nuclio, source, tmp_path):
    source("", "pack/__init__.py")
    source("VALUE = 'value'\n", "pack/other.py")
    name = source("from .other import VALUE\ndef handler(context, event):\n    return VALUE\n", "pack/main.py")
    assert nuclio.handler(name)().text == "value"
    worker = Worker("pack.main:handler", [str(tmp_path)])
    assert worker().text == "value"
    worker.close()


@pytest.mark.parametrize("text, handler, message", [
    ("async def app(scope, receive, send): pass", "app", "ASGI application.*httpx.ASGITransport"),
    ("def app(environ, start_response): pass", "app", "WSGI application.*test_client"),
    ("def other(context, event): pass", "handler", 'no function "handler".*it has: other'),
    ("handler = 3", "handler", "neither a function"),
])
def test_what_is_no_function(nuclio, source, text, handler, message):
    with pytest.raises(HandlerError, match=message):
        nuclio.handler(source(text, handler=handler), fresh=True)


def test_a_file_that_is_not_there(nuclio):
    with pytest.raises(HandlerError, match="looked for .*nowhere.py"):
        nuclio.handler("nowhere.py:handler")


@pytest.mark.parametrize("arguments, message", [
    ({"body": 3}, "want bytes, str, dict or list"), ({"body": b"", "json": 1}, "not both"),
    ({"body": b"", "pieces": []}, "not several"), ({"log_level": "loud"}, "want one of"),
    ({"headers": {"a": "\0"}}, "NUL")])
def test_arguments_that_make_no_event(nuclio, source, arguments, message):
    call = nuclio.handler(source("def handler(context, event): pass\n"))
    with pytest.raises((TypeError, ValueError), match=message):
        call(**arguments)


@pytest.mark.parametrize("raw, expected", [
    ("/", "/"), ("/a/b", "/a/b"), ("/a%20b", "/a b"), ("/a//b///c", "/a/b/c"), ("/a/./b", "/a/b"), ("/a/../b", "/b"),
    ("/a/b/..", "/a/"), ("/..", "/"), ("/../../a", "/a"), ("/a/.", "/a/."), ("/a/", "/a/"), ("//", "/"),
    ("/a%2Fb", "/a/b"), ("/a/%2e%2e/b", "/b"), ("/a+b", "/a+b"), ("/a%zz", "/a%zz"), ("/%25", "/%"), ("/%2541", "/%41"),
    ("/.hidden", "/.hidden"), ("/a/..b", "/a/..b")])
def test_paths_are_those_of_the_processor(raw, expected):
    assert clean(raw) == expected


def test_header_names():
    assert [canonical(name) for name in ("x-foo-BAR", "X_under", "etag")] == ["X-Foo-Bar", "X_under", "Etag"]
