"""`dnachunker report --serve`: a report on this machine's loopback address that follows its runs while they go on."""

import html
import threading
import time
from collections.abc import Sequence
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dnachunker.foundations.failures import BadInput

from .event_log import EVENTS
from .report import report_page, store_page

_ADDRESS = "127.0.0.1"
_BUSY_SHARE = 0.1  # of one core's time, the most that making pages takes


class LivePage:
    """The page of some runs, made again when a run has news and somebody asks; thread-safe.

    Every page made is also written to `output`, as a whole or not at all.
    """

    def __init__(self, runs: Sequence[Path], output: Path) -> None:
        self._runs, self._output = runs, output
        self._lock = threading.Lock()
        self._seen: object = None
        self._page = b""
        self._rest_until = 0.0

    def current(self) -> bytes:
        """The page in UTF-8. While a run has not taken a step, a page that says so and loads itself again."""
        with self._lock:
            news = [(path.stat().st_size if path.exists() else 0) for path in (run / EVENTS for run in self._runs)]
            began = time.monotonic()
            if news != self._seen and began >= self._rest_until:
                self._page, self._seen = self._make(), news
                self._rest_until = time.monotonic() + (time.monotonic() - began) / _BUSY_SHARE
            return self._page

    def _make(self) -> bytes:
        try:
            page = report_page(self._runs, live=True)
            store_page(page, self._output)
        except BadInput as waiting:
            line = html.escape(str(waiting))
            return f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="3"><p>{line}</p>'.encode()
        return page.encode()


def report_server(runs: Sequence[Path], output: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server that is ready to `serve_forever`; its address is `server_address`.

    Raises:
        BadInput: the port is not free.
    """
    page = LivePage(runs, output)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.headers.get("Host", "").partition(":")[0]
            if name not in (_ADDRESS, "localhost"):  # a web site whose name was pointed at this address
                self.send_error(403)
                return
            if self.path.partition("?")[0] != "/":
                self.send_error(404)
                return
            body = page.current()
            tag = f'"{sha256(body).hexdigest()[:32]}"'
            same = self.headers.get("If-None-Match") == tag
            self.send_response(304 if same else 200)
            self.send_header("ETag", tag)
            self.send_header("Cache-Control", "no-cache")
            if not same:
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not same:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Requests are not logged."""

    try:
        return ThreadingHTTPServer((_ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        raise BadInput(f"--port {port}: cannot be used ({error}); leave it out for a free one") from error


def serve_report(runs: Sequence[Path], output: Path, port: int = 0) -> None:
    """Serve until Ctrl-C.

    Raises:
        BadInput: the port is not free.
    """
    server = report_server(runs, output, port)
    print(
        f"http://{_ADDRESS}:{server.server_address[1]}/ follows {', '.join(map(str, runs))}; Ctrl-C ends it", flush=True
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"\nthe last page is {output}")
    finally:
        server.server_close()
