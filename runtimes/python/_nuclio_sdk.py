"""The names of `nuclio_sdk`, and what its objects can do that few functions ask of them."""

import os
import sys

import _nuclio_shim as core  # type: ignore[import-not-found]
from _nuclio_shim import (
    JSON, Context, Event, FrameEvent, Logger, Platform, Response, Root, TriggerInfo, encode_json, loggable, part,
    std, utc)

MYPY = False
if MYPY:
    from typing import Any

more = part("_nuclio_more")
as_bytes, without_nan = more.as_bytes, more.without_nan


def adopt(sdk):
    """Makes our objects instances of the SDK's classes, and takes the SDK's objects for ours."""
    for ours in (FrameEvent, Response, TriggerInfo, Platform, Logger, Context):
        theirs = getattr(sdk, ours.__name__, None)
        if isinstance(theirs, type):
            try:
                ours.__bases__ = theirs, (Event if ours is FrameEvent else Root)
            except TypeError:
                pass  # an SDK of another shape
    if isinstance(getattr(sdk, "Response", None), type):
        core.RESPONSES = Response, sdk.Response
        if core.shim.context is not None and core.shim.context.Response is Response:
            core.shim.context.Response = sdk.Response


def is_ours():
    return getattr(sys.modules.get("nuclio_sdk"), "__shim__", False)


def sdk_spec(name):
    if name != "nuclio_sdk" and name.partition(".")[2] not in SDK_PARTS:
        return None
    spec: "Any" = type(sys.__spec__)
    return spec(name, SdkLoader, origin="built into the shim", is_package=True)


class SdkLoader:
    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        name = module.__name__.partition(".")[2]
        module.__dict__.update(SDK_PARTS[name]() if name else sdk_names())
        if not name:
            module.__shim__ = True
            module.__path__ = []
            module.__getattr__ = sdk_part
            adopt(module)


def sdk_part(name):
    if name in SDK_PARTS or name == "Logger":
        return __import__("nuclio_sdk." + name, fromlist=["*"]) if name != "Logger" else sdk_part("logger").Logger
    raise AttributeError("module 'nuclio_sdk' has no attribute %r" % name)


def sdk_names():
    return {
        "Context": Context, "Event": Event, "TriggerInfo": TriggerInfo, "Platform": Platform, "Response": Response,
        "EventDeserializerKinds": EventDeserializerKinds, "ExceptionWithResponse": ExceptionWithResponse,
        "QualifiedOffset": QualifiedOffset, "SINGLE_RESPONSE": "single", "GENERATOR_RESPONSE": "generator",
        "RESPONSE_WITH_GENERATOR_BODY": "response_with_generator_body",
    }


def sdk_json_encoder():
    json = std("json")

    class Encoder(json.JSONEncoder):  # type: ignore[name-defined]
        def default(self, o):
            return loggable(o)

        def encode(self, o):
            return super().encode(without_nan(o))

        def iterencode(self, o, _one_shot=False):
            return super().iterencode(without_nan(o), _one_shot)

    return {"json": json, "Encoder": Encoder}


def sdk_logger():
    logging = std("logging")

    class JSONFormatter(logging.Formatter):  # type: ignore[name-defined]
        def fields(self, record):
            return {"datetime": self.formatTime(record, self.datefmt), "level": record.levelname.lower(),
                    "message": record.getMessage(), "with": getattr(record, "with", {})}

        def format(self, record):
            return encode_json(self.fields(record))

        def format_to_log_control_message(self, record):
            return encode_json({"kind": "log", "attributes": self.fields(record)})

    class HumanReadableFormatter(logging.Formatter):  # type: ignore[name-defined]
        def format(self, record):
            fields = getattr(record, "with", None)
            return "Python> %s [%s] %s%s" % (self.formatTime(record, self.datefmt), record.levelname.lower(),
                                             record.getMessage(), ": %s" % fields if fields else "")

    class SdkLogger:
        """Writes to files, by way of the module `logging`."""

        def __init__(self, level, name="nuclio_sdk"):
            self._logger = logging.getLogger(name)
            self._logger.setLevel(level)
            self._bound_variables = {}

        def set_handler(self, handler_name, file, formatter):
            for handler in self._logger.handlers:
                if handler.name == handler_name:
                    self._logger.removeHandler(handler)
                    break
            handler = logging.StreamHandler(file)
            handler.name = handler_name
            handler.setFormatter(formatter)
            self._logger.addHandler(handler)

        def bind(self, **kw_args):
            self._bound_variables.update(kw_args)

        def _write(self, level, message, args, fields):
            fields.update(self._bound_variables)
            self._logger._log(level, message, args, **({"extra": {"with": fields}} if fields else {}))

    def add(name, level):
        def plain(self, message, *args):
            self._write(level, message, args, {})

        def with_fields(self, message, *args, **kw_args):
            self._write(level, message, args, kw_args)

        setattr(SdkLogger, name, plain)
        setattr(SdkLogger, name + "_with", with_fields)

    for name, level in (("debug", 10), ("info", 20), ("warn", 30), ("error", 40)):
        add(name, level)
    SdkLogger.__name__ = SdkLogger.__qualname__ = "Logger"
    try:
        Logger.__bases__ = SdkLogger, Root
    except TypeError:
        pass
    return {"Logger": SdkLogger, "JSONFormatter": JSONFormatter, "HumanReadableFormatter": HumanReadableFormatter}


def sdk_test():
    unittest, mock = std("unittest"), std("unittest.mock")

    class Platform:
        """Calls handlers in unit tests, and records what they call."""

        kind = "test"

        def __init__(self):
            self.call_function_mock = mock.MagicMock()
            self._logger = sdk_part("Logger")(10, "mock_platform")
            self._logger.set_handler("default", sys.stdout, sdk_part("logger").HumanReadableFormatter())
            self.context = Context(self._logger, self)
            self._contexts = {}

        def call_handler(self, handler, event):
            return handler(self._context_of(handler), event)

        def call_handler_with_context_mutation(self, handler, event, context_mutator):
            return handler(context_mutator(self._context_of(handler)), event)

        def call_function(self, name, event, node=None, timeout=None, service_name_override=None):
            return self.call_function_mock(name, event, node, timeout, service_name_override)

        def get_call_function_call_args(self, index):
            return self.call_function_mock.call_args_list[index][0]

        def _context_of(self, handler):
            if handler not in self._contexts:
                context = self._contexts[handler] = Context(self._logger, self)
                getattr(sys.modules[handler.__module__], "init_context", id)(context)
            return self._contexts[handler]

    class TestCase(unittest.TestCase):  # type: ignore[name-defined]
        def setUp(self):
            self._platform = Platform()
            self._environ = dict(os.environ)

        def tearDown(self):
            os.environ.clear()
            os.environ.update(self._environ)

    return {"Platform": Platform, "TestCase": TestCase}


SDK_PARTS = {
    "json_encoder": sdk_json_encoder, "logger": sdk_logger, "test": sdk_test, "helpers": dict,
    "context": sdk_names, "event": sdk_names, "platform": sdk_names, "response": sdk_names,
    "exceptions": sdk_names, "qualified_offset": sdk_names,
}


def event_to_json(event):
    fields = {name: value for name, value in vars(event).items() if not name.startswith("_")}
    fields["trigger"] = {"kind": event.trigger.kind, "name": event.trigger.name}
    if isinstance(event.body, bytes):
        fields["body"] = std("base64").b64encode(event.body).decode()
    return std("json").dumps(fields, default=str)


class EventDeserializerKinds:
    """Encodings of `Event.deserialize`."""

    msgpack, msgpack_raw, json = "msgpack", "msgpack_raw", "json"


def event_from(data, kind):
    if getattr(kind, "name", kind) == "json":
        data = std("json").loads(data)
    return [event_of(one) for one in data] if isinstance(data, list) else event_of(data)


def event_of(data):
    def get(name, default=None):
        return data.get(name, data.get(name.encode(), default))

    trigger, body, content_type = get("trigger") or {}, get("body"), get("content_type")
    if as_bytes(content_type or "") == JSON and isinstance(body, (bytes, str)):
        try:
            body = std("json").loads(body)
        except ValueError as error:
            sys.stderr.write("Failed deserializing json body, error message: %s\n" % error)
    return Event(body=body, content_type=content_type, fields=get("fields"), headers=get("headers"), _id=get("id"),
                 trigger=TriggerInfo(trigger.get("kind", trigger.get(b"kind")),
                                     trigger.get("name", trigger.get(b"name"))),
                 method=get("method"), path=get("path"), size=get("size"),
                 timestamp=utc(get("timestamp", 0) * 1_000_000), url=get("url"),
                 shard_id=get("shard_id"), num_shards=get("num_shards"), _type=get("type"),
                 type_version=get("type_version"), version=get("version"), offset=get("offset", 0), topic=get("topic"))


class QualifiedOffset:
    """A place in a stream, for explicit acks."""

    def __init__(self, topic, partition, offset):
        self.topic = topic
        self.partition = partition
        self.offset = offset

    @staticmethod
    def from_event(event):
        return QualifiedOffset(event.topic or event.path, event.shard_id, event.offset)

    def compile_explicit_ack_message(self):
        return {"kind": "streamMessageAck",
                "attributes": {"topic": self.topic, "partition": self.partition, "offset": self.offset}}


class ExceptionWithResponse(OSError):
    def __init__(self, status_code, body=None, content_type=None):
        super().__init__(status_code, body, content_type)
        self.status_code = status_code
        self.body = body
        self.content_type = content_type


def call_function(platform, function_name, event, timeout, service_name_override):
    """A blocking HTTP call of another function."""
    host = service_name_override
    if not host and platform.kind == "local":
        host = "nuclio-%s-%s" % (platform.namespace, function_name)
    connect = platform._connection_provider or std("http.client").HTTPConnection
    connection = connect("%s:8080" % (host or "nuclio-" + function_name), timeout=timeout)
    body, content_type = event.body, event.content_type or "text/plain"
    if isinstance(body, dict):
        body, content_type = std("json").dumps(body), "application/json"
    headers = event.headers
    headers["Content-Type"] = content_type
    headers.setdefault("X-Nuclio-Target", function_name)
    headers.pop("Content-Length", None)
    try:
        connection.request(event.method, event.path, body=body, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    content_type = headers.get("content-type", "text/plain")
    if content_type == "application/json":
        body = std("json").loads(body)
    return core.RESPONSES[-1](headers=headers, body=body, content_type=content_type, status_code=answer.status)
