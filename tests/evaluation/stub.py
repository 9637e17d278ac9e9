"""An OpenAI-compatible endpoint on the loopback interface that answers, or misbehaves, as a test says."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = dict[str, Any] | Callable[[BaseHTTPRequestHandler], None]
"""A body that is sent with status 200, or what to do with the connection."""


@dataclass
class Stub:
    """replies: what comes before `answer` does: of each request in turn. requests: paths and bodies that came."""

    answer: Callable[[dict[str, Any]], Reply]
    replies: list[Reply] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def next(self, path: str, body: dict[str, Any]) -> Reply:
        with self.lock:
            self.requests.append((path, body))
            reply = self.replies.pop(0) if self.replies else None
        return self.answer(body) if reply is None else reply


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply], *replies: Reply) -> Iterator[Stub]:
    stub = Stub(answer, list(replies))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            send(self, 200, {"data": [{"id": "stub"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = stub.next(self.path, body)
            if callable(reply):
                reply(self)
            else:
                send(self, 200, reply)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def status(code: int, body: Any = b"", **headers: str) -> Reply:
    return lambda handler: send(handler, code, body, **headers)


def dropped(handler: BaseHTTPRequestHandler) -> None:
    """The connection ends before a byte of an answer."""
    handler.close_connection = True
    handler.connection.close()


def cut(handler: BaseHTTPRequestHandler) -> None:
    """The connection ends in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.close()


def said(text: str, finish: str | None = "stop", tokens: int = 7, **message: Any) -> dict[str, Any]:
    """What both ways of asking are answered with."""
    return {
        "choices": [{"finish_reason": finish, "message": {"content": text, **message}, "text": text}],
        "usage": {"prompt_tokens": 5, "completion_tokens": tokens},
    }
