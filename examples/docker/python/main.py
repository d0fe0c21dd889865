def handler(context, event):
    return "Hello from python"
