def handler(context, event):
    headers = {"X-Seen": event.headers["X-Ask"], "X-Number": 7, "X-Twice": ["a", "b"]}
    return context.Response(body="<p>", headers=headers, content_type="text/html")
