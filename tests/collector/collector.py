"""A receiver of OTLP over HTTP for tests: decodes what comes with the published protobuf messages and writes one JSON
line per request to standard output.

Arguments: the statuses of the first answers, then 200 for ever; "-N" leaves a connection unanswered for ever, "rN"
rejects N spans. The first line it prints is its port.
"""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

ANSWERS = list(sys.argv[1:])
LOCK = threading.Lock()


class Collector(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = service.ExportTraceServiceRequest.FromString(body)
        with LOCK:
            answer = ANSWERS.pop(0) if ANSWERS else "200"
            spans = [
                {
                    "resource": {a.key: value(a) for a in group.resource.attributes},
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "state": span.trace_state,
                    "flags": span.flags,
                    "name": span.name,
                    "kind": span.kind,
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "attributes": {a.key: value(a) for a in span.attributes},
                    "status": span.status.code,
                }
                for group in request.resource_spans
                for scope in group.scope_spans
                for span in scope.spans
            ]
            line = {
                "answer": answer,
                "path": self.path,
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "spans": spans,
                "unknown": len(body) - request.ByteSize(),
                "text": MessageToDict(request) != {},
            }
            print(json.dumps(line), flush=True)
        if answer.startswith("-"):
            threading.Event().wait()
        reply = service.ExportTraceServiceResponse()
        status = 200
        if answer.startswith("r"):
            reply.partial_success.rejected_spans = int(answer[1:])
            reply.partial_success.error_message = "rejected by the test"
        else:
            status = int(answer)
        body = reply.SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(body)))
        if status in (429, 503):
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def value(attribute):
    return getattr(attribute.value, attribute.value.WhichOneof("value"))


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.daemon_threads = True
    # A processor that ends while an answer is on its way is no news.
    server.handle_error = lambda *_: None
    print(server.server_address[1], flush=True)
    server.serve_forever()
