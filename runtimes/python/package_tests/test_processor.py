"""Handlers served by a real processor."""

import os
import subprocess
import textwrap

import pytest

from nuclio_handler.processor import ProcessorError, find, free_port, listens, record_of

pytestmark = pytest.mark.skipif("NUCLIO_PROCESSOR" not in os.environ, reason="NUCLIO_PROCESSOR is not set")

HANDLER = '''
import os

def init_context(context):
    context.logger.info_with("init", worker=context.worker_id)

def handler(context, event):
    if event.path == "/print":
        print("to standard output", flush=True)
    if event.path == "/fail":
        raise ValueError("on purpose")
    if event.path == "/die":
        os._exit(7)
    context.logger.info_with("handled", path=event.path)
    return context.Response(body={"env": os.environ.get("SETTING"), "worker": context.worker_id,
                                  "body": repr(event.body), "headers": event.headers},
                            status_code=201, headers={"Set-Cookie": ["a=1", "b=2"]})
'''


def test_requests(processor, source):
    served = processor(source(HANDLER), workers=2, env={"SETTING": "value"})
    answer = served.post("/x", json={"a": 1}, headers={"x-own": "1"})
    assert answer.status == 201 and answer.json()["env"] == "value" and answer.json()["body"] == "{'a': 1}"
    assert answer.json()["headers"]["X-Own"] == "1" and answer.json()["headers"]["Content-Type"] == "application/json"
    assert answer.headers.all("set-cookie") == ["a=1", "b=2"]
    assert served.wait_for_log("handled").fields.get("path", "/x") == "/x"
    assert len(served.logs.find("init")) == 2
    assert served.ready() and served.url.startswith("http://127.0.0.1:")


def test_failures_and_a_worker_that_dies(processor, source):
    served = processor(source(HANDLER))
    assert served.get("/fail").status == 500
    served.wait_for_log("Exception caught in handler", level="error")
    assert served.get("/die").status == 500
    assert served.get("/").status == 201
    # A handler that raises has handled its event.
    assert served.metric("nuclio_processor_handled_events_total", result="success") == 2
    assert served.metric("nuclio_processor_handled_events_total", result="failure") == 1
    assert served.metric("there_is_no_such") == 0


def test_what_a_handler_prints(processor, source):
    served = processor(source(HANDLER))
    served.get("/print")
    served.close()
    assert any("to standard output" in line for line in served.output) or served.logs.find("to standard output")


def test_a_function_yaml(processor, source, tmp_path):
    pytest.importorskip("yaml")
    source(HANDLER, "served.py")
    (tmp_path / "function.yaml").write_text(textwrap.dedent("""
        metadata:
          name: from-file
        spec:
          runtime: python:3.11
          handler: served:handler
          env:
            - name: SETTING
              value: from-file
          triggers:
            web:
              kind: http
              maxWorkers: 1
              attributes:
                port: 8080
                maxRequestBodySize: 10
            second:
              kind: http
        """))
    served = processor(config=tmp_path / "function.yaml", workers=2, trigger={"attributes": {"maxRequestBodySize": 20}})
    assert served.get("/").json()["env"] == "from-file"
    assert set(served.urls) == {"web", "second"}
    assert served.request("GET", "/", url=served.urls["second"]).status == 201
    assert served.post("/", b"x" * 15).status == 201
    assert served.post("/", b"x" * 25).status == 413


def test_an_application(processor, source):
    served = processor(source('''
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["root_path"].encode()})
''', handler="app"), runtime_attributes={"rootPath": "/shop"})
    assert served.get("/").text == "/shop"


def test_what_cannot_start(processor, source, tmp_path):
    with pytest.raises(ProcessorError, match="no handler"):
        processor()
    with pytest.raises(ProcessorError, match="looked for .*nowhere.py"):
        processor("nowhere.py:handler")
    with pytest.raises(ProcessorError, match="no file nowhere.yaml"):
        processor(config="nowhere.yaml")
    with pytest.raises(ProcessorError, match='(?s)has not started.*no function "other"'):
        processor(source(HANDLER, handler="other"))
    with pytest.raises(ProcessorError, match="(?s)not ready within 0.*start_seconds"):
        processor(source("import time\ntime.sleep(100)\n", "slow.py"), start_seconds=0.5)


def test_ports_that_are_taken_are_given_up(processor, source, monkeypatch):
    import socket

    from nuclio_handler import processor as module

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        taken, real, asked = sock.getsockname()[1], module.free_port, []

        def first_taken():
            asked.append(1)
            return taken if len(asked) == 1 else real()

        monkeypatch.setattr(module, "free_port", first_taken)
        with subprocess.Popen(["sleep", "60"]) as other:  # inherits no sockets
            assert not listens(other.pid, taken) and listens(os.getpid(), taken)
            other.kill()
        served = processor(source(HANDLER))
    assert served.get("/").status == 201 and len(asked) > 3


def test_small_things():
    assert os.access(find(), os.X_OK) and free_port() >= 10_000
    assert record_of("{not json") is None and record_of("text") is None and record_of("{}") is None
    assert record_of('{"level": "warning", "message": "m", "more": "a=1"}').level == "warn"
