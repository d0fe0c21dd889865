def handler(context, event):
    if event.path == "/throw":
        raise ValueError("thrown on purpose")
    if event.path == "/status":
        return context.Response(body="x", status_code="no number")
    if event.path == "/header":
        return context.Response(body="x", headers={"bad name": "1", "X-Split": "a\r\nb: c"})
    if event.path == "/text":
        return "\ud800!"
    return "well"
