"""An HTTP proxy in front of an emulator that refuses the first requests of a kind, and then lets them through."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks import emulators

PASSED_ON = {"content-length", "connection", "transfer-encoding"}


@contextlib.contextmanager
def store(scheme: str, fails: Callable[[str, str], int | None]):
    """An emulated bucket behind a proxy, see `emulators.store`."""
    with (
        emulators.served(scheme) as port,
        proxy(port, fails) as front,
        emulators.environment(scheme, front),
    ):
        yield f"{scheme}://{emulators.BUCKET}"


@contextlib.contextmanager
def proxy(port: int, fails: Callable[[str, str], int | None]):
    """Gives its port. fails: (method, path) -> a status to answer with, or None."""
    handler = type("Handler", (Forwarding,), {"port": port, "fails": staticmethod(fails)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


class Forwarding(BaseHTTPRequestHandler):
    """Forwards a request to `port`, unless `fails` refuses it."""

    protocol_version = "HTTP/1.1"
    lock = threading.Lock()

    def log_message(self, *arguments):
        pass

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in PASSED_ON:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def forward(self):
        body = self.body()
        with self.lock:
            status = self.fails(self.command, self.path)
        if status is not None:
            text = b"" if self.command == "HEAD" else b"<Error><Code>SlowDown</Code></Error>"
            return self.answer(status, [("Content-Type", "application/xml")], text)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(self.command, self.path, body=body, headers=dict(self.headers))
        found = connection.getresponse()
        content = found.read()
        if self.command != "HEAD":
            return self.answer(found.status, found.getheaders(), content)
        self.send_response(found.status)
        for name, value in found.getheaders():
            self.send_header(name, value)
        self.end_headers()

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        del self.headers["Transfer-Encoding"]
        return b"".join(parts)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = forward
