"""The server: loopback only, nothing without the token, and nothing by a path: every name is looked up.

The token is the first part of every address, so that relative addresses keep it and no cookie is needed; another site
cannot know it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from histogen.errors import ConfigError, HistogenError
from histogen.view.answers import Answers

HOST = "127.0.0.1"
THREADS = 4
MOST_BODY = 2**24
"""Bytes of a request: the numbers of a million tiles."""
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "histogen",
}


def static_files() -> dict[str, str]:
    """Return the page's own files, by name."""
    folder = resources.files("histogen.view") / "static"
    return {file.name: file.read_text() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}


class _Handler(RequestHandler):
    def initialize(self, token: str, answers: Answers, pool: ThreadPoolExecutor, pages: dict[str, str]) -> None:
        self.token, self.answers, self.pool, self.pages = token, answers, pool, pages

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        given = self.path_args[0] or ""
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            self.refuse(403, "open the whole address that histogen view printed: it ends with a token")

    def refuse(self, status: int, sentence: str) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": sentence}))

    async def answer(self, ask: Callable[[], Any]) -> Any:
        """Answer in a thread; a deliberate error becomes its sentence."""
        try:
            return await IOLoop.current().run_in_executor(self.pool, ask)
        except HistogenError as error:
            self.refuse(404, str(error))
            return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:  # noqa: ARG002 - tornado's signature
        self.finish(json.dumps({"error": f"the server answers {status_code}; its terminal says why"}))


class _Data(_Handler):
    async def get(self, _: str, name: str) -> None:
        def ask() -> bytes:
            return json.dumps(self.answers.data(name), allow_nan=False).encode()

        if (said := await self.answer(ask)) is not None:
            self.set_header("Content-Type", "application/json")
            self.finish(said)

    async def post(self, _: str, name: str) -> None:
        try:
            body = json.loads(self.request.body)
        except ValueError:
            self.refuse(400, "what was sent is not JSON; reload the page")
            return
        if (said := await self.answer(lambda: json.dumps(self.answers.act(name, body)))) is not None:
            self.set_header("Content-Type", "application/json")
            self.finish(said)


class _Image(_Handler):
    async def get(self, _: str, name: str) -> None:
        if (said := await self.answer(lambda: self.answers.image(name))) is not None:
            self.set_header("Content-Type", "image/png" if name.endswith(".png") else "image/jpeg")
            self.set_header("Cache-Control", "private, max-age=600")
            self.finish(said)


class _Page(_Handler):
    def get(self, _: str, name: str = "") -> None:
        text = self.pages.get(name or "index.html")
        if text is None:
            self.refuse(404, "there is no such page")
            return
        self.set_header("Content-Type", TYPES[(name or "index.html").rpartition(".")[2]])
        self.finish(text)


class _Elsewhere(_Handler):
    def prepare(self) -> None:
        self.refuse(403, "open the whole address that histogen view printed: it ends with a token")


class Server:
    """Serves ``answers`` on loopback; ``port`` 0 takes a free one."""

    def __init__(self, answers: Answers, *, port: int = 0) -> None:
        self.token = secrets.token_urlsafe(24)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="view")
        shared = {"token": self.token, "answers": answers, "pool": self._pool, "pages": static_files()}
        application = Application(
            [
                (r"/([^/]*)/data/(.+)", _Data, shared),
                (r"/([^/]*)/image/(.+)", _Image, shared),
                (r"/([^/]*)/([a-z.]*)", _Page, shared),
                (r"/.*", _Elsewhere, shared),
            ],
            compress_response=True,
            log_function=lambda _: None,
        )
        try:
            sockets = bind_sockets(port, HOST)
        except OSError as error:
            raise ConfigError(f"port {port} is not free ({error.strerror}); give another --port") from error
        self.port = sockets[0].getsockname()[1]
        self._http = HTTPServer(application, max_body_size=MOST_BODY, idle_connection_timeout=600)
        self._http.add_sockets(sockets)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    async def close(self) -> None:
        """Take no more requests, and leave those that are waiting."""
        self._http.stop()
        await self._http.close_all_connections()
        self._pool.shutdown(wait=False, cancel_futures=True)


def serve(answers: Answers, *, port: int, ready: Callable[[Server], None]) -> None:
    """Serve until interrupted or terminated; ``ready`` is called once the page can be opened.

    Raises:
        ConfigError: the port is taken.
    """

    async def main() -> None:
        server, ended = Server(answers, port=port), asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        ready(server)
        try:
            await ended.wait()
        finally:
            for close in answers.closing:
                close()
            await server.close()

    asyncio.run(main())
