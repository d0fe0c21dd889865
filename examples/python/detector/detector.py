"""A detector as annotation tools call it: an image as base64 in JSON, boxes as JSON back.

The model is a stand-in that finds what is brighter than a threshold; the way in and out is that of the real ones.
Images are PNG, grey or RGB with 8 bits and without interlacing, so that nothing but the standard library is needed.
"""

import base64
import binascii
import json
import struct
import zlib


class Model:
    """Loaded once per worker."""

    def __init__(self, label):
        self.label = label

    def infer(self, width, height, rows, channels, threshold):
        bright = int(255 * threshold)
        lit = [(x, y) for y, row in enumerate(rows) if max(row) >= bright
               for x in range(width) if row[x * channels] >= bright]
        if not lit:
            return []
        xs, ys = [x for x, _ in lit], [y for _, y in lit]
        return [{"confidence": "0.99", "label": self.label, "type": "rectangle",
                 "points": [min(xs), min(ys), max(xs) + 1, max(ys) + 1]}]


def init_context(context):
    context.logger.info("Loading the model")
    context.user_data.model = Model("bright")


def handler(context, event):
    try:
        # A dict for the exact type application/json, else bytes.
        data = event.body if isinstance(event.body, dict) else json.loads(event.body)
        image = base64.b64decode(data["image"], validate=True)
        width, height, channels, rows = read_png(image)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, struct.error) as error:
        return context.Response(body={"error": "no image: %s" % error}, status_code=400)
    found = context.user_data.model.infer(width, height, rows, channels, float(data.get("threshold", 0.5)))
    context.logger.info_with("Detected", width=width, height=height, found=len(found))
    return context.Response(body=json.dumps(found), headers={}, content_type="application/json", status_code=200)


def read_png(data):
    """Width, height, bytes per pixel, and the rows of an image whose rows are not filtered."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    at, packed, colour = 8, [], None
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8:at + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunk)
            if depth != 8 or colour not in (0, 2) or interlace:
                raise ValueError("want 8 bits, grey or RGB, not interlaced")
        elif kind == b"IDAT":
            packed.append(chunk)
        at += 12 + size
    if colour is None:
        raise ValueError("no header")
    channels = 1 if colour == 0 else 3
    pixels, stride = zlib.decompress(b"".join(packed)), 1 + width * channels
    if len(pixels) != stride * height or any(pixels[::stride]):
        raise ValueError("rows are filtered or missing")
    return width, height, channels, [pixels[y * stride + 1:(y + 1) * stride] for y in range(height)]
