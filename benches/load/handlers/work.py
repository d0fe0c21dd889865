"""All that the harness asks for beyond an empty answer; the path says what (see ../workload.rs)."""

import base64
import json
import time


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def pieces():
    for _ in range(10):
        yield b"x" * 1024


def detect(body):
    data = body if isinstance(body, dict) else json.loads(body)
    base64.b64decode(data["image"], validate=True)
    burn(0.02)
    return "[]"


def handler(context, event):
    path = event.path
    if path == "/echo":
        return event.body
    if path == "/stream":
        return pieces()
    if path == "/detect":
        return detect(event.body)
    if path == "/cpu":
        burn(0.0001)
    elif path == "/sleep":
        time.sleep(0.01)
    elif path == "/log":
        context.logger.info("first")
        context.logger.info_with("second", number=7)
        context.logger.info("third")
    return "hello"
