"""Recording handler of the trigger vectors.

Writes a line of JSON for the start and the end of every event into the file `record` of the folder RECORD_FOLDER, and
does meanwhile what the first matching rule of `rules.json` there says.
"""

import calendar
import json
import os
import time

FOLDER = os.environ["RECORD_FOLDER"]
MEMBERS = ("body", "content_type", "fields", "headers", "id", "method", "num_shards", "offset", "path", "shard_id", "size",
           "topic", "type", "type_version", "url", "version")

with open(os.path.join(FOLDER, "rules.json")) as rules_file:
    RULES = json.load(rules_file)


def init_context(context):
    pass


def handler(context, event):
    told = {member: text(getattr(event, member)) for member in MEMBERS}
    told["trigger"] = {"kind": event.trigger.kind, "name": event.trigger.name}
    told["timestamp"] = calendar.timegm(event.timestamp.timetuple())
    told["worker"] = context.worker_id
    told["context_trigger_kind"] = context.trigger.kind
    told["context_trigger_name"] = context.trigger.name
    record("start", told)
    try:
        return follow(context, rule_for(told))
    finally:
        record("end", {"id": told["id"]})


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def record(what, told):
    line = json.dumps(dict(told, what=what, at=time.time(), pid=os.getpid())) + "\n"
    with open(os.path.join(FOLDER, "record"), "ab", buffering=0) as file:
        file.write(line.encode())


def rule_for(told):
    for number, rule in enumerate(RULES):
        seen = {"body": told["body"], "trigger_kind": told["trigger"]["kind"], "partition": told["shard_id"]}
        if all(seen[key] == value for key, value in rule.get("when", {}).items()) and take(number, rule.get("first")):
            return rule["do"]
    return []


def take(number, first):
    """Whether a rule for the first few matches has some left, whichever process asks."""
    for match in range(first or 0):
        try:
            os.close(os.open("%s/rule-%d-%d" % (FOLDER, number, match), os.O_CREAT | os.O_EXCL))
            return True
        except FileExistsError:
            pass
    return first is None


def follow(context, actions):
    for action in actions:
        if "gate" in action:
            while not os.path.exists(os.path.join(FOLDER, "gate-" + action["gate"])):
                time.sleep(0.002)
        elif "sleep_ms" in action:
            time.sleep(action["sleep_ms"] / 1000)
        elif "raise" in action:
            raise RuntimeError(action["raise"])
        elif "exit" in action:
            os._exit(action["exit"])
        elif "reply" in action:
            return context.Response(status_code=action["reply"]["status"])
        else:
            raise NotImplementedError(action)
    return context.Response(body="")
