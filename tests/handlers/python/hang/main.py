def handler(context, event):
    while event.path == "/hang":
        pass
    return "back"
