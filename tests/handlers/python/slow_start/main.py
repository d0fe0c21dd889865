import time

time.sleep(0.7)


def init_context(context):
    time.sleep(0.3)
    context.user_data.ready = "ready"


def handler(context, event):
    return context.user_data.ready
