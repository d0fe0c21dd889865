"""A handler that compares everything it gets with what is declared, and answers with what differs."""

import os

if os.environ.get("PROBE_SDK"):
    import nuclio_sdk  # noqa: F401 - its classes become bases of the shim's

import declared
import nuclio_handler

# Of the installed SDK's `Response`, once somebody has imported it: not meant for handlers.
SDK = {"empty_response", "from_entrypoint_output", "from_entrypoint_output_async", "from_generator_output",
       "get_handler_output_type"}


def differences(context, event, event_class="Event"):
    found = declared.faults(context, "Context")
    found += declared.faults(event, event_class)
    found += declared.faults(event.trigger, "TriggerInfo")
    found += declared.faults(context.trigger, "TriggerInfo")
    found += declared.faults(context.logger, "Logger")
    found += declared.faults(context.platform, "Platform")
    responses = context.Response(), context.Response(body={"a": 1}), context.Response({"a": "b"}, b"", "", 204, "x")
    for response in responses:
        found += declared.faults(response, "Response", SDK)
    if not os.environ.get("PROBE_SDK"):
        found += declared.faults(nuclio_handler.QualifiedOffset.from_event(event), "QualifiedOffset")
    for wanted, value in (("Context", context), ("Event", event), ("Logger", context.logger),
                          ("Platform", context.platform), ("TriggerInfo", event.trigger), ("Response", responses[0])):
        if not isinstance(value, getattr(nuclio_handler, wanted)):
            found.append("%r is no nuclio_handler.%s" % (value, wanted))
    return found


def handler(context, event):
    found = differences(context, event)
    context.logger.info_with("probed", found=found, kind=event.trigger.kind)
    return {"found": found, "body": repr(event.body), "event": {
        name: str(getattr(event, name)) for name in declared.CLASSES["Event"]
        if declared.CLASSES["Event"][name] is not None and name not in ("id", "timestamp", "trigger", "headers")},
        "trigger": event.trigger.kind, "headers": event.headers}


def stream(context, event):
    found = differences(context, event, "StreamEvent") + declared.faults(event.body, "RequestBody", INTERNALS)
    return {"found": found, "read": len(event.body.read())}


stream.stream_body = True
# Of the shim: not meant for handlers.
INTERNALS = {"asked", "call", "came", "credit", "error", "more", "next_piece", "next_piece_async", "pieces", "shim",
             "take", "taken", "waits"}
