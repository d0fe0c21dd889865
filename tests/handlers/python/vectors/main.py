"""Test handler: does what the file named by BEHAVIOUR_FILE says, one of the `handler_behaviour` kinds of the HTTP vectors.

The file is read for every event, so that requests can be sent byte for byte as a vector has them. The `describe` of
raw replies and batches is in words; the words are matched as a whole.
"""

import base64
import calendar
import json
import os
import time
import uuid

BEHAVIOUR = os.environ["BEHAVIOUR_FILE"]


def init_context(context):
    time.sleep(int(os.environ.get("INIT_DELAY_MS", "0")) / 1000)


def handler(context, event):
    with open(BEHAVIOUR) as file:
        return behave(context, event, json.load(file))


def behave(context, event, behaviour):
    kind = behaviour["kind"]
    if kind == "sleep":
        mark(".sleeping")
        time.sleep(behaviour["ms"] / 1000)
        return behave(context, event, behaviour["then"])
    if kind == "log":
        for entry in behaviour["entries"]:
            log(context, entry)
        return behave(context, event, behaviour["then"])
    return KINDS[kind](context, event, behaviour)


def mark(what):
    """Tells the test how far the handler is, by a file beside the one it reads."""
    open(BEHAVIOUR + what, "w").close()


def log(context, entry):
    method = {"debug": "debug_with", "info": "info_with", "warning": "warn_with", "error": "error_with"}[entry["level"]]
    getattr(context.logger, method)(entry["message"], **entry["with"])


def respond(context, event, behaviour):
    body = behaviour.get("body", "")
    if "body_b64" in behaviour:
        body = base64.b64decode(behaviour["body_b64"])
    headers = dict(behaviour.get("headers", {}))
    response = context.Response(headers=headers, body=body, status_code=behaviour.get("status", 200))
    # Unset, which only an assignment can say: the constructor fills in text/plain.
    response.content_type = behaviour.get("content_type", "")
    return response


def error(context, event, behaviour):
    raise RuntimeError(behaviour["message"])


def file(context, event, behaviour):
    path = os.path.join(os.path.dirname(BEHAVIOUR), "streamed-" + str(uuid.uuid4()))
    if behaviour.get("directory"):
        os.mkdir(path)
    elif not behaviour.get("missing"):
        with open(path, "w") as streamed:
            streamed.write(behaviour["content"])
    response = respond(context, event, behaviour)
    response.headers["X-nuclio-filestream-path"] = path
    if behaviour.get("delete"):
        response.headers["X-nuclio-filestream-delete-after-send"] = behaviour["delete_value"]
    return response


def batch(context, events, behaviour):
    words = behaviour["describe"]
    if words == "raises":
        raise RuntimeError("batch failed")
    if words == "sleeps 3 s, then answers":
        time.sleep(3)
    elif words == "answers with an event_id nobody sent":
        return [context.Response(body="lost", event_id="nobody") for _ in events]
    elif words != "answers each event with its own body and event_id":
        raise ValueError("unknown words: " + words)
    return [context.Response(body=event.body, event_id=event.id) for event in events]


def reply_raw(context, event, behaviour):
    return {"the shim answers with an empty JSON list": []}[behaviour["describe"]]


def not_called(context, event, behaviour):
    mark(".called")
    return "the handler was called"


def echo(context, event, behaviour):
    shown = {field: ECHOED.get(field, getattr)(event, field) for field in behaviour["fields"]}
    return context.Response(body=json.dumps(shown), content_type="application/json")


def text(event, field):
    value = getattr(event, field)
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def body_text(event, field):
    # A body of type application/json arrives parsed, and has a size; a cloud event's object has none.
    if event.size and not isinstance(event.body, (bytes, str)):
        return json.dumps(event.body, separators=(",", ":"))
    return text(event, field)


ECHOED = {
    "body": body_text,
    "path": text,
    "trigger": lambda event, _: {"kind": event.trigger.kind, "name": event.trigger.name},
    "timestamp": lambda event, _: calendar.timegm(event.timestamp.timetuple()),
}

KINDS = {
    "respond": respond,
    "string": lambda context, event, behaviour: behaviour["body"],
    "bytes": lambda context, event, behaviour: behaviour["body"].encode(),
    # What a plugin means by nothing; None would be the text "None" here.
    "none": respond,
    "error": error,
    "file": file,
    "batch": batch,
    "reply_raw": reply_raw,
    "not_called": not_called,
    "echo": echo,
}
