import os
import time


def pieces(context, path, body):
    try:
        number = 0
        while True:
            yield b"x" * 100000 if path == "/flood" else "%d\n" % number
            if path == "/five" and number == 4:
                return
            if path == "/broken":
                if os.path.exists(body):
                    raise ValueError("broken on purpose")
                time.sleep(0.005)
            number += 1
    finally:
        context.logger.warn("stream closed")


def handler(context, event):
    headers = {"X-Kind": "pieces"}
    return context.Response(body=pieces(context, event.path, event.body), headers=headers, content_type="text/csv", status_code=201)
