"""A Flask application as it stands: nothing in it knows that it runs as a function."""

from flask import Flask, Response, abort, request, session

app = Flask(__name__)
app.secret_key = "only an example's"


@app.get("/")
def hello():
    return "Hello, %s!\n" % session.get("name", "world")


@app.post("/name")
def name():
    session["name"] = request.form.get("name") or abort(400, "name is missing")
    return "", 204


@app.post("/size")
def size():
    return str(sum(len(piece) for piece in iter(lambda: request.stream.read(65536), b"")))


@app.get("/numbers")
def numbers():
    return Response(("%d\n" % number for number in range(int(request.args.get("to", 3)))), mimetype="text/plain")


@app.get("/fails")
def fails():
    app.logger.warning("this will fail")
    raise ValueError("on purpose")
