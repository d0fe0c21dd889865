"""A generator is streamed: each item reaches the client when it is yielded."""

import time


def handler(context, event):
    for number in range(1, 6):
        yield "%d\n" % number
        time.sleep(0.2)
