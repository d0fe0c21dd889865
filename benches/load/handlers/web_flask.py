"""The harness' questions to a Flask application."""

import time

import work
from flask import Flask, Response, request

app = Flask(__name__)


@app.get("/")
def hello():
    return Response("hello", mimetype="text/plain")


@app.post("/echo")
def echo():
    return Response(request.get_data(), mimetype="application/octet-stream")


@app.get("/cpu")
def cpu():
    work.burn(0.0001)
    return "hello"


@app.get("/sleep")
def sleep():
    time.sleep(0.01)
    return "hello"


@app.get("/stream")
def stream():
    return Response(work.pieces(), mimetype="text/plain")


@app.post("/detect")
def detect():
    return work.detect(request.get_data())
