"""JSON in, JSON out: `{"numbers": [1, 2]}` is answered with `{"sum": 3}`.

The body is parsed when the content type is exactly `application/json`; a returned dict is sent as JSON.
"""


def handler(context, event):
    if not isinstance(event.body, dict) or "numbers" not in event.body:
        return 400, 'send JSON like {"numbers": [1, 2]}'
    return {"sum": sum(event.body["numbers"])}
