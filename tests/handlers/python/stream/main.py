def pieces(context, path):
    try:
        number = 0
        while True:
            yield b"x" * 100000 if path == "/flood" else "%d\n" % number
            if path == "/five" and number == 4:
                return
            if path == "/broken" and number == 2:
                raise ValueError("broken on purpose")
            number += 1
    finally:
        context.logger.warn("stream closed")


def handler(context, event):
    headers = {"X-Kind": "pieces"}
    return context.Response(body=pieces(context, event.path), headers=headers, content_type="text/csv", status_code=201)
