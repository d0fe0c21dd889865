def handler(context, event):
    return int(event.path[1:]), "as asked"
