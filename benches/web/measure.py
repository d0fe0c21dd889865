#!/usr/bin/env python3
"""Web applications behind the processor beside the servers they are made for: the same application, interpreter and
number of workers, closed loop, the sides in turns.

    python3 -m venv /tmp/web && /tmp/web/bin/pip install fastapi flask 'uvicorn[standard]' gunicorn
    cargo build --release && benches/web/measure.py --python /tmp/web/bin/python3

Needs `wrk`. An answer that is not what it should be, or one that fails, ends the run.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
STREAMED = b"".join(b"%01023d\n" % number for number in range(32))
# Application: its file, and the servers it is measured with: name, whether connections stay open, command.
APPLICATIONS = {
    "fastapi": ("fast:app", [
        ("uvicorn", ["-m", "uvicorn", "fast:app", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
                     "--log-level", "warning", "--host", "127.0.0.1", "--port", "{port}", "--workers", "{workers}"]),
    ]),
    "flask": ("plain:app", [
        ("gunicorn sync", ["-m", "gunicorn", "plain:app", "--log-level", "warning", "-b", "127.0.0.1:{port}",
                           "-w", "{workers}"]),
        ("gunicorn gthread", ["-m", "gunicorn", "plain:app", "--log-level", "warning", "-b", "127.0.0.1:{port}",
                              "-w", "{workers}", "-k", "gthread", "--threads", "1", "--worker-connections", "1000"]),
    ]),
}


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Side:
    """A server, with everything it starts."""

    def __init__(self, name, command, port, directory, environment=None):
        self.name, self.port = name, port
        self.log = open(os.path.join(directory, name.replace(" ", "-") + ".log"), "w+b")
        self.process = subprocess.Popen(command, cwd=HERE, start_new_session=True, stdin=subprocess.DEVNULL,
                                        stdout=self.log, stderr=subprocess.STDOUT,
                                        env={**os.environ, **(environment or {})})

    def get(self, path):
        with urllib.request.urlopen("http://127.0.0.1:%d%s" % (self.port, path), timeout=10) as answer:
            return answer.read()

    def wait(self):
        """Until it answers, and as it should."""
        until = time.monotonic() + 30
        while True:
            try:
                found = json.loads(self.get("/json?name=a%20b"))
                break
            except OSError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.log.seek(0)
                    sys.exit("%s does not answer: %s\n%s" % (self.name, error, self.log.read().decode()))
                time.sleep(0.05)
        if found != {"hello": "a b", "items": [1, 2, 3]} or self.get("/stream") != STREAMED:
            sys.exit("%s answers wrongly" % self.name)

    def cpu(self):
        """Seconds of the whole group: it has been started as a session of its own."""
        return sum(seconds for group, seconds in processes() if group == self.process.pid)

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                text = pathlib.Path("/proc", name, "stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2:].split()
            # Of children that have ended as well: fields 14 to 17.
            yield int(fields[3]), sum(map(int, fields[11:15])) / TICKS


def processor(options, handler, workers, directory):
    port, ports = free_port(), ["127.0.0.1:%d" % free_port() for _ in range(3)]
    function = {"metadata": {"name": "web"}, "spec": {
        "runtime": "python", "handler": handler,
        "triggers": {"web": {"kind": "http", "url": "127.0.0.1:%d" % port, "numWorkers": workers}}}}
    # Every server says what goes wrong, and nothing else.
    platform = {"webAdmin": {"listenAddress": ports[0]}, "healthCheck": {"listenAddress": ports[1]},
                "logger": {"sinks": {"out": {"kind": "stdout"}}, "functions": [{"level": "warn", "sink": "out"}]},
                "metrics": {"sinks": {"pull": {"kind": "prometheusPull", "url": ports[2]}}, "functions": ["pull"]}}
    for name, content in (("function.yaml", function), ("platform.yaml", platform)):
        pathlib.Path(directory, name).write_text(json.dumps(content))
    command = [options.processor, "--config", os.path.join(directory, "function.yaml"),
               "--platform-config", os.path.join(directory, "platform.yaml")]
    environment = {"NUCLIO_PYTHON_EXE_PATH": options.python, "NUCLIO_PYTHON_PATH": str(HERE)}
    return Side("processor", command, port, directory, environment)


def server(options, name, command, workers, directory):
    port = free_port()
    words = [word.format(port=port, workers=workers) for word in command]
    return Side(name, [options.python, *words], port, directory)


UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def load(side, path, options):
    """Requests per second, CPU microseconds per request, median and 99th percentile in ms."""
    before = side.cpu()
    command = ["wrk", "-t1", "-c%d" % options.connections, "-d%ds" % options.seconds, "--latency", "--timeout", "10s",
               "http://127.0.0.1:%d%s" % (side.port, path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = side.cpu() - before
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit("%s: requests failed\n%s" % (side.name, text))
    requests = int(re.search(r"(\d+) requests in", text)[1])
    if not requests:
        sys.exit("%s: no answer at %s within %d s" % (side.name, path, options.seconds))
    times = {key: float(number) * UNITS[unit]
             for key, number, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\b", text)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), used * 1e6 / requests, times["50"], times["99"]


def compare(options, application, workers):
    handler, servers = APPLICATIONS[application]
    with tempfile.TemporaryDirectory() as directory:
        sides = [processor(options, handler, workers, directory)]
        try:
            sides += [server(options, name, command, workers, directory) for name, command in servers]
            for side in sides:
                side.wait()
            for path in ("/json", "/stream"):
                for side in sides:  # Warm, and not counted.
                    load(side, path, options)
                rounds = [[load(side, path, options) for side in sides] for _ in range(options.rounds)]
                show(application, path, workers, sides, rounds)
        finally:
            for side in sides:
                side.end()


def show(application, path, workers, sides, rounds):
    for place, side in enumerate(sides):
        rate, cpu, half, most = (statistics.median(one[place][field] for one in rounds) for field in range(4))
        line = "| %s `%s` | %d | %s | %.0f | %.0f | %.1f | %.1f |" % (
            application, path, workers, side.name, rate, cpu, half, most)
        if place:
            # Rounds are compared each for itself: what disturbs one disturbs its neighbours.
            more = statistics.median(one[0][0] / one[place][0] for one in rounds)
            less = statistics.median(one[0][1] / one[place][1] for one in rounds)
            line += " %.2f | %.2f |" % (more, less)
        else:
            line += " | |"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has everything")
    parser.add_argument("--processor", default=str(HERE.parents[1] / "target/release/processor"))
    parser.add_argument("--application", choices=list(APPLICATIONS), action="append")
    parser.add_argument("--workers", type=int, action="append")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| application | workers | side | requests/s | CPU µs/request | p50 ms | p99 ms "
          "| processor's requests/s ÷ this | processor's CPU ÷ this |\n|---|---|---|---|---|---|---|---|---|")
    for application in options.application or APPLICATIONS:
        for workers in options.workers or [1, 2]:
            compare(options, application, workers)


if __name__ == "__main__":
    main()
