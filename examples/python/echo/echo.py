"""Answers with the body of the request, in the type it came in."""


def handler(context, event):
    return context.Response(body=event.body or b"", content_type=event.content_type or "application/octet-stream")
