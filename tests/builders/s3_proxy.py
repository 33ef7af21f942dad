"""A proxy before an S3 server: does harm when told, makes objects older than they are, counts what passes."""

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate, parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

FAULTS = (
    "refused",
    "error_500",
    "error_503",
    "stalled",
    "done_said_no",
    "done_hung_up",
    "torn",
    "flipped",
    "lied",
    "full",
)
"""What can be done to a request; the two that are done have changed the store before the caller hears of a failure."""
_STALL_S = 20.0


class Asked(NamedTuple):
    """A request, before anything is done about it."""

    method: str
    path: str
    query: str


class Reply(NamedTuple):
    """What the server answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Proxy:
    """Passes requests on to `target` (HOST:PORT). `decide` names the fault that a request meets; "": none."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.decide: Callable[[Asked], str] = lambda _asked: ""
        self.passed: Counter[str] = Counter()
        self.unanswered = 0
        """Requests that the server did not answer."""
        self.bytes_up = 0
        self.bytes_down = 0
        self._older: dict[str, float] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = _Door(self)
        self.endpoint = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End, stalled requests included."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def age(self, path: str, seconds: float) -> None:
        """Have an object, "/BUCKET/KEY", look so much older, until it is written again."""
        with self._lock:
            self._older[path] = self._older.get(path, 0.0) + seconds

    def stall(self) -> None:
        """Wait as a server does that has stopped."""
        self._ended.wait(_STALL_S)

    def before(self, asked: Asked, size: int) -> None:
        """Note a request that is passed on."""
        with self._lock:
            self.passed[asked.method] += 1
            self.bytes_up += size

    def after(self, asked: Asked, reply: Reply) -> Reply:
        """Note an answer, and change the times that it tells."""
        with self._lock:
            self.bytes_down += len(reply.body)
            older = dict(self._older)
        if not older:
            return reply
        if asked.method in ("HEAD", "GET") and asked.path in older:
            headers = [
                (k, _older(v, older[asked.path]) if k.lower() == "last-modified" else v) for k, v in reply.headers
            ]
            return reply._replace(headers=headers)
        if asked.method == "GET" and "list-type" in asked.query:
            return _listed(reply, asked.path.rstrip("/"), older)
        return reply

    def written(self, asked: Asked) -> None:
        """Have an object be as young as it is: it is being written."""
        with self._lock:
            self._older.pop(asked.path, None)


@contextmanager
def proxy_before(endpoint: str) -> Iterator[Proxy]:
    """Run a proxy before a server for the length of a block."""
    proxy = Proxy(endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


def _older(text: str, seconds: float) -> str:
    return formatdate(parsedate_to_datetime(text).timestamp() - seconds, usegmt=True)


def _listed(reply: Reply, bucket: str, older: dict[str, float]) -> Reply:
    """Change the times in a listing."""

    def changed(match: re.Match[str]) -> str:
        seconds = older.get(f"{bucket}/{match['key']}", 0.0)
        then = time.mktime(time.strptime(match["time"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone - seconds
        return match[0].replace(match["time"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then)))

    pattern = r"<Key>(?P<key>[^<]*)</Key>(?:(?!</Contents>).)*?<LastModified>(?P<time>[^<]*)</LastModified>"
    body = re.sub(pattern, changed, reply.body.decode(), flags=re.DOTALL).encode()
    headers = [(k, str(len(body)) if k.lower() == "content-length" else v) for k, v in reply.headers]
    return reply._replace(headers=headers, body=body)


class _Door(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of callers that hang up: they were made to."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    _onward: http.client.HTTPConnection | None = None
    server: _Door

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""

    def finish(self) -> None:
        if self._onward is not None:
            self._onward.close()
        super().finish()

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        asked = Asked(self.command, path, query)
        fault = self.server.proxy.decide(asked)
        if fault in ("refused", "stalled"):
            if fault == "stalled":
                self.server.proxy.stall()
            self.close_connection = True
            return
        if fault in ("error_500", "error_503", "full"):
            self._refuse({"error_500": (500, "InternalError"), "error_503": (503, "SlowDown")}.get(fault))
            return
        if fault == "lied":
            self._answer(Reply(204 if self.command == "DELETE" else 200, [("Content-Length", "0")], b""))
            return
        reply = self._pass_on(asked, body)
        if reply is None or fault == "done_hung_up":
            self.close_connection = True
        elif fault == "done_said_no":
            self._refuse((500, "InternalError"))
        else:
            self._answer(_harmed(reply, fault), torn=fault == "torn")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815 - the names that the base looks for

    def _pass_on(self, asked: Asked, body: bytes) -> Reply | None:
        if asked.method == "PUT" and "If-None-Match" not in self.headers:
            self.server.proxy.written(asked)
        self.server.proxy.before(asked, len(body))
        for _ in range(2):
            fresh = self._onward is None
            onward = self._onward = self._onward or http.client.HTTPConnection(self.server.proxy.target, timeout=30)
            try:
                onward.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    onward.putheader(name, value)
                onward.endheaders(body or None)
                answer = onward.getresponse()
                headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP]
                content = answer.read()
                reply = Reply(answer.status, headers, content)
                if asked.method == "PUT" and answer.status == 200:
                    self.server.proxy.written(asked)
                return self.server.proxy.after(asked, reply)
            except (OSError, http.client.HTTPException):
                onward.close()
                self._onward = None
                if fresh:
                    break
        self.server.proxy.unanswered += 1
        return None

    def _refuse(self, said: tuple[int, str] | None) -> None:
        status, code = said or (507, "XMinioStorageFull")
        body = f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode()
        self._answer(Reply(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body))

    def _answer(self, reply: Reply, *, torn: bool = False) -> None:
        self.send_response_only(reply.status)
        lengths = [k for k, _ in reply.headers if k.lower() == "content-length"]
        more = [] if lengths or reply.status == 204 else [("Content-Length", str(len(reply.body)))]
        for name, value in [*reply.headers, *more]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: len(reply.body) // 2] if torn else reply.body)
        if torn:
            self.wfile.flush()
            self.close_connection = True


_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


def _harmed(reply: Reply, fault: str) -> Reply:
    """Return an answer with one bit of its body changed, where that is the fault and there is a body."""
    if fault != "flipped" or reply.status != 200 or not reply.body:
        return reply
    middle = len(reply.body) // 2
    return reply._replace(body=reply.body[:middle] + bytes([reply.body[middle] ^ 1]) + reply.body[middle + 1 :])
