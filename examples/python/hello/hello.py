"""The smallest handler: what it returns is the answer."""


def handler(context, event):
    return "Hello, " + (event.fields.get("name") or "world")
