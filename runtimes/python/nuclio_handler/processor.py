"""The real processor as a child process of the test, on ports of its own, with one handler."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional, Union
from urllib.parse import urlsplit

from .answers import LEVELS, Answer, Headers, Record, Records, encode_body
from .events import HeadersOf, pairs_of
from .loading import HandlerError, locate

VARIABLE = "NUCLIO_PROCESSOR"
START_SECONDS = 120.0   # as long as the processor itself waits for a handler
STOP_SECONDS = 30.0     # beyond: SIGKILL
REQUEST_SECONDS = 60.0
ATTEMPTS = 5            # with other ports, where one was taken in the meantime
LOG_LINES_SHOWN = 60
LINE_SHOWN = 300
# Below those that the kernel gives to clients: one of that range could be taken between the look and the start.
PORTS = range(10_000, 32_000)
TAKEN = re.compile(r"address (already )?in use|EADDRINUSE", re.IGNORECASE)
# The processor ends with this process, however this one ends; its own children end with it.
STARTER = """
import os, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)
except Exception:
    pass
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class ProcessorError(Exception):
    """The processor does not start, or has ended; the text has its log."""


class ProcessorMissing(ProcessorError):
    """There is no processor here."""


def find() -> str:
    """The program: the one `NUCLIO_PROCESSOR` names, else `processor` in `PATH`."""
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise ProcessorError("%s names %s, which is no program that can be run; give the path of the processor"
                                 % (VARIABLE, named))
        return os.path.abspath(found)
    found = shutil.which("processor")
    if found is None:
        raise ProcessorMissing("no processor: set %s to its path, or put `processor` into PATH" % VARIABLE)
    return found


def free_port() -> int:
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def merge(base: Any, more: Any) -> Any:
    """Objects are merged, everything else is replaced."""
    if isinstance(base, dict) and isinstance(more, Mapping):
        return {**base, **{key: merge(base.get(key), value) for key, value in more.items()}}
    return more


def read_config(file: str) -> dict[str, Any]:
    """A `function.yaml`, by PyYAML where it is installed."""
    with open(file, encoding="utf-8") as opened:
        text = opened.read()
    try:
        import yaml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        try:
            config = json.loads(text)
        except ValueError:
            raise ProcessorError("%s cannot be read without PyYAML: pip install 'nuclio-handler[yaml]'"
                                 % file) from None
    else:
        config = yaml.safe_load(text)
    if not isinstance(config, dict):
        raise ProcessorError("%s: want an object with the key spec, found %s" % (file, type(config).__name__))
    return config


class Processor:
    """A processor that is ready, as the fixture `processor` gives it."""

    def __init__(
        self,
        handler: Optional[str],
        folders: Sequence[str],
        *,
        config: Union[str, "os.PathLike[str]", Mapping[str, Any], None] = None,
        workers: Optional[int] = None,
        runtime_attributes: Optional[Mapping[str, Any]] = None,
        trigger: Optional[Mapping[str, Any]] = None,
        spec: Optional[Mapping[str, Any]] = None,
        platform: Optional[Mapping[str, Any]] = None,
        env: Optional[Mapping[str, str]] = None,
        log_level: str = "debug",
        start_seconds: float = START_SECONDS,
        listener: Optional[Callable[[str, Records], None]] = None,
    ) -> None:
        __tracebackhide__ = True
        self.program = find()
        self.logs = Records()
        """What it has logged so far, its own records among the handler's."""
        self.output: list[str] = []
        """Lines it has written that are no records: what a handler prints."""
        self._listener = listener
        self._news = threading.Condition()
        self._ended = self._reported = False
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._folder = tempfile.mkdtemp(prefix="nuclio-test-")
        try:
            self._environment = dict(os.environ)
            function = self._function(handler, folders, config, env)
            more: dict[str, Any] = {"runtimeAttributes": runtime_attributes} if runtime_attributes else {}
            function["spec"] = merge(merge(function["spec"], more), spec or {})
            self._start(function, trigger or {}, workers, platform or {}, log_level, start_seconds)
        except BaseException:
            self._kill()
            raise

    # -- start

    def _function(self, handler: Optional[str], folders: Sequence[str], config: Any,
                  env: Optional[Mapping[str, str]]) -> dict[str, Any]:
        """The function's configuration, and its environment."""
        function: dict[str, Any] = {"metadata": {"name": "test", "namespace": "nuclio"},
                                    "spec": {"runtime": "python", "triggers": {}}}
        if config is not None:
            if not isinstance(config, Mapping):
                file = next((path for path in (os.path.join(folder, config) for folder in folders)
                             if os.path.isfile(path)), None)
                if file is None:
                    raise ProcessorError("no file %s in any of: %s" % (config, ", ".join(folders)))
                folders = [os.path.dirname(os.path.abspath(file)), *folders]
                config = read_config(file)
            function = merge(function, config)
        declared = function["spec"].get("env") or []
        # The platform does that to a container: the processor itself does not look there.
        self._environment.update({one["name"]: str(one["value"]) for one in declared if "value" in one})
        handler = handler or function["spec"].get("handler") or None
        if handler is None:
            raise ProcessorError("no handler: name one, or a config whose spec.handler does")
        if str(function["spec"]["runtime"]).partition(":")[0] == "python":
            try:
                folder, handler = locate(handler, folders)
            except HandlerError as error:
                raise ProcessorError(str(error)) from None
            self._environment["NUCLIO_PYTHON_PATH"] = folder
            self._environment.setdefault("NUCLIO_PYTHON_EXE_PATH", sys.executable)
        function["spec"]["handler"] = handler
        self._environment.update({name: str(value) for name, value in (env or {}).items()})
        return function

    def _start(self, function: dict[str, Any], trigger: Mapping[str, Any], workers: Optional[int],
               platform: Mapping[str, Any], log_level: str, seconds: float) -> None:
        __tracebackhide__ = True
        for attempt in range(ATTEMPTS):
            self.health_port, self.metrics_port = free_port(), free_port()
            triggers = {name: dict(one) for name, one in (function["spec"].get("triggers") or {}).items()}
            if not any(one.get("kind") == "http" for one in triggers.values()):
                triggers["http"] = {"kind": "http"}
            self.urls: dict[str, str] = {}
            for name, one in triggers.items():
                if one.get("kind") == "http":
                    one = triggers[name] = merge(one, trigger)
                    if workers is not None:
                        one["numWorkers"] = workers
                        one.pop("maxWorkers", None)
                    port = free_port()
                    one["url"] = "127.0.0.1:%d" % port
                    one["attributes"] = {key: value for key, value in (one.get("attributes") or {}).items()
                                         if key != "port"}
                    self.urls[name] = "http://127.0.0.1:%d" % port
            self.url = next(iter(self.urls.values()))
            self._write("processor.yaml", merge(function, {"spec": {"triggers": triggers}}))
            self._write("platform.yaml", merge(self._platform(log_level), platform))
            self._spawn()
            if self._wait_ready(seconds):
                return
            if attempt + 1 == ATTEMPTS or not TAKEN.search(self._shown()):
                raise ProcessorError("the processor has not started: %s\n%s" % (self._end(), self._shown()))
            self.logs.clear()
            self.output.clear()

    def _platform(self, log_level: str) -> dict[str, Any]:
        return {
            "webAdmin": {"enabled": False},
            "healthCheck": {"listenAddress": "127.0.0.1:%d" % self.health_port},
            "logger": {"sinks": {"out": {"kind": "stdout",
                                         "attributes": {"encoding": "json", "varGroupName": "more"}}},
                       "functions": [{"level": log_level, "sink": "out"}]},
            "metrics": {"sinks": {"pull": {"kind": "prometheusPull", "url": "127.0.0.1:%d" % self.metrics_port}},
                        "functions": ["pull"]},
        }

    def _write(self, name: str, config: Any) -> None:
        with open(os.path.join(self._folder, name), "w", encoding="utf-8") as file:
            json.dump(config, file)  # which is YAML, too

    def _spawn(self) -> None:
        command = [sys.executable, "-E", "-S", "-c", STARTER, str(os.getpid()), self.program,
                   "-config", os.path.join(self._folder, "processor.yaml"),
                   "-platform-config", os.path.join(self._folder, "platform.yaml")]
        self._process = subprocess.Popen(command, env=self._environment, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                with self._news:
                    record = record_of(line)
                    if record is None:
                        self.output.append(line)
                    else:
                        self.logs.append(record)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _wait_ready(self, seconds: float) -> bool:
        """False if it has ended. Asked only once the port is ours: another processor may have got it first."""
        __tracebackhide__ = True
        assert self._process is not None
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._process.poll() is not None:
                self._reader.join(5)
                return False
            if listens(self._process.pid, self.health_port) and self.ready():
                return True
            time.sleep(0.02)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._reader.join(5)
        raise ProcessorError("the processor was not ready within %g s; if its handler needs longer, give "
                             "start_seconds\n%s" % (seconds, self._shown()))

    # -- end

    def close(self) -> None:
        """Stops it with SIGTERM and waits. Raises if it has ended by itself, does not end, or ends with an error."""
        __tracebackhide__ = True
        process = self._process
        if self._ended or process is None:
            return
        died = process.poll() is not None
        late = False
        if not died:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                late = True
        self._kill()
        if self._reported:
            return  # by the request that found out
        if died:
            raise ProcessorError("the processor ended while it was used: %s\n%s" % (self._end(), self._shown()))
        if late:
            raise ProcessorError("the processor did not end within %g s of SIGTERM and was killed\n%s"
                                 % (STOP_SECONDS, self._shown()))
        if process.returncode != 0:
            raise ProcessorError("the processor ended badly: %s\n%s" % (self._end(), self._shown()))

    def _kill(self) -> None:
        """Nothing is left of it, whatever state it is in."""
        self._ended = True
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.kill()
                process.wait()
            self._reader.join(5)
            if self._listener is not None:
                self._listener("nuclio processor", Records(self._all()))
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self) -> str:
        assert self._process is not None
        code = self._process.returncode
        if code is not None and code < 0:
            return "ended by %s" % signal.Signals(-code).name
        return "exit code %s" % code

    def _all(self) -> list[Record]:
        with self._news:
            return [*self.logs, *(Record("info", line) for line in self.output)]

    def _shown(self) -> str:
        """The end of the log; what is no record last, because the reason of a start that failed is there."""
        with self._news:
            records = [cut(str(record)) for record in self.logs]
            lines = records[-LOG_LINES_SHOWN:] + self.output[-LOG_LINES_SHOWN:]
        return "---- log of the processor\n%s\n----" % "\n".join(lines)

    # -- use

    @property
    def pid(self) -> int:
        """Of the processor; its workers are its children."""
        assert self._process is not None
        return self._process.pid

    def request(self, method: str, path: str = "/", body: Any = None, *, json: Any = None, headers: HeadersOf = None,
                url: Optional[str] = None, timeout: float = REQUEST_SECONDS) -> Answer:
        """Sends a request to the first HTTP trigger, or to `url`, and gives the answer, whatever its status."""
        __tracebackhide__ = True
        pairs = pairs_of(headers)
        raw, implied = encode_body(body, json, lambda name: next((text for key, text in pairs if key == name), None))
        if implied and not any(key == "Content-Type" for key, _ in pairs):
            pairs.append(("Content-Type", implied))
        parts = urlsplit(url or self.url)
        connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
        try:
            connection.putrequest(method, path, skip_host=any(key == "Host" for key, _ in pairs),
                                  skip_accept_encoding=True)
            for key, value in pairs:
                connection.putheader(key, value)
            if raw is not None and not any(key == "Content-Length" for key, _ in pairs):
                connection.putheader("Content-Length", str(len(raw)))
            connection.endheaders(raw)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._check(error)
            raise
        finally:
            connection.close()
        return Answer(response.status, Headers(response.getheaders()), [content] if content else [], Records())

    def _check(self, error: BaseException) -> None:
        """Says so if a request failed because the processor is gone."""
        __tracebackhide__ = True
        process = self._process
        assert process is not None
        try:
            process.wait(1)  # its connections close a little before it has ended
        except subprocess.TimeoutExpired:
            return
        self._reader.join(5)
        self._reported = True
        raise ProcessorError("the processor has ended (%s): %s\n%s" % (error, self._end(), self._shown())) from None

    def get(self, path: str = "/", **options: Any) -> Answer:
        """`request("GET", …)`."""
        __tracebackhide__ = True
        return self.request("GET", path, **options)

    def post(self, path: str = "/", body: Any = None, **options: Any) -> Answer:
        """`request("POST", …)`."""
        __tracebackhide__ = True
        return self.request("POST", path, body, **options)

    def ready(self) -> bool:
        """What `/ready` says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=10)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """The metrics: `name{label="value",…}` as the page has it, and its value."""
        __tracebackhide__ = True
        page = self.get("/metrics", url="http://127.0.0.1:%d" % self.metrics_port)
        lines = [line for line in page.text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels; 0 where there is none."""
        wanted = ['%s="%s"' % item for item in labels.items()]
        return sum(value for series, value in self.metrics().items()
                   if series.partition("{")[0] == name and all(label in series for label in wanted))

    def wait_for_log(self, message: str, *, level: Optional[str] = None, seconds: float = 30.0) -> Record:
        """The first record with this text in its message; waits for it, because logs and answers come apart."""
        __tracebackhide__ = True
        until = time.monotonic() + seconds
        with self._news:
            while True:
                found = self.logs.find(message, level)
                if found:
                    return found[0]
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._news.wait(left)
        raise ProcessorError("no record with %r within %g s\n%s" % (message, seconds, self._shown()))


def record_of(line: str) -> Optional[Record]:
    """A line of the JSON sink."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    if not isinstance(found, dict) or "message" not in found or "level" not in found:
        return None
    level = {"warning": "warn"}.get(found["level"], found["level"])
    fields = {key: value for key, value in found.items() if key not in ("level", "time", "name", "message", "more")}
    more = found.get("more")
    if isinstance(more, str):
        # A text of "key=value || …" in the JSON of the Go processor; an object in ours.
        fields["more"] = more
    fields.update(more if isinstance(more, dict) else {})
    return Record(level if level in LEVELS else str(level), str(found["message"]), fields)


def cut(text: str) -> str:
    """Tracebacks whole, what is long on one line cut."""
    return "\n".join(line if len(line) <= LINE_SHOWN else line[:LINE_SHOWN] + "…" for line in text.split("\n"))


def listens(pid: int, port: int) -> bool:
    """Whether this process has the port of the loopback interface."""
    inodes = set()
    try:
        with open("/proc/%d/net/tcp" % pid) as table:
            for line in table.readlines()[1:]:
                columns = line.split()
                if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                    inodes.add("socket:[%s]" % columns[9])
        for entry in os.listdir("/proc/%d/fd" % pid):
            try:
                if os.readlink("/proc/%d/fd/%s" % (pid, entry)) in inodes:
                    return True
            except OSError:
                continue
    except OSError:
        return not os.path.isdir("/proc/self")  # no such files on this system: believe it
    return False
