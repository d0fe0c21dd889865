def handler(context, event):
    return str(len(event.body)) if event.method == "PUT" else event.body
