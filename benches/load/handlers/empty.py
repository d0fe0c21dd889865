"""The least a Python handler can do."""


def handler(context, event):
    return "hello"
