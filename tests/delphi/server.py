"""A server that speaks as OpenAI's and vLLM's do, answering by a rule of the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.delphi.stub import Rule


class Server(ThreadingHTTPServer):
    """Answers /v1/completions and /v1/chat/completions; remembers every request.

    After `limit` answers it fails each further request, as a server that was killed.
    busiest is the largest number of requests that it had at once.
    """

    daemon_threads = True

    def __init__(self, rule: Rule):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rule = rule
        self.asked: list[dict[str, Any]] = []
        self.limit: int | None = None
        self.busy, self.busiest = 0, 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busy, self.server.busiest)
            down = len(self.server.asked) == self.server.limit
            if not down:
                self.server.asked.append(asked)
        time.sleep(0.01)  # long enough for others to be there at the same time
        with self.server.lock:
            self.server.busy -= 1
        if down:
            self.send_error(503)
            return
        content = json.dumps({"choices": self._choices(asked)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _choices(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        kwargs = {"do_sample": asked["temperature"] > 0, "seed": asked["seed"]}
        if self.path.endswith("/chat/completions"):
            turns = asked["messages"]
            prompt = "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)
            content = self.server.rule(f"{prompt}<assistant>", kwargs)
            return [{"index": 0, "message": {"content": content}}]
        prompts = asked["prompt"]
        if isinstance(prompts, str):
            prompts = [prompts]
        texts = [self.server.rule(prompt, kwargs) for prompt in prompts]
        return [{"index": i, "text": text} for i, text in enumerate(texts)]

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(rule: Rule) -> Iterator[Server]:
    """Have a server on a free port for a while."""
    server = Server(rule)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
