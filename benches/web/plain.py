"""The Flask side of `measure.py`."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/json")
def hello():
    return jsonify(hello=request.args.get("name", "world"), items=[1, 2, 3])


@app.get("/stream")
def stream():
    return Response((b"%01023d\n" % number for number in range(32)), mimetype="text/plain")
