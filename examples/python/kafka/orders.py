"""A handler as one writes it for a Kafka trigger. HTTP can feed it as well: with a record as a cloud event."""

import json


def init_context(context):
    context.user_data.done = {}  # per topic and partition, the offset that was handled last


def handler(context, event):
    topic, partition = place_of(event)
    done = context.user_data.done
    if event.offset <= done.get((topic, partition), -1):
        return {"skipped": event.offset}  # Kafka delivers a record again when nobody knows whether it was handled.
    order = json.loads(event.body)
    context.logger.info_with("Handled", topic=topic, partition=partition, offset=event.offset)
    done[topic, partition] = event.offset
    return {"order": order["id"], "topic": topic, "partition": partition, "offset": event.offset,
            "trigger": event.trigger.kind}


def place_of(event):
    """Topic and partition: from the trigger, or else from the extensions of the cloud event."""
    if event.shard_id is not None and event.shard_id >= 0:
        return event.topic or event.path, event.shard_id
    return event.headers.get("topic", ""), int(event.headers.get("partition", 0))
